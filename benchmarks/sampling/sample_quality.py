"""Do a checkpoint's samples read like its corpus? Words that exist, and variety, beside held-out text measured the same way.

    python -m benchmarks.sampling.sample_quality --checkpoint_path checkpoints/mdlm-tinyshakespeare --corpus tinyshakespeare.txt

A word is what stands between white space, lower-cased, punctuation stripped. Held-out text (the corpus' last part) is cut
into windows of seq_len tokens first, as the samples are, so that cut words count against both.
"""

from __future__ import annotations

import argparse
import json
import string
from collections.abc import Iterable
from pathlib import Path

from transformers.utils import logging as transformers_logging

from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run
from token_diffusion.text import decode
from trainer.evaluation.quality import unigram_entropy, windows


def words(text: str) -> list[str]:
    """Lower-cased, punctuation stripped, empty ones left out."""
    stripped = (word.strip(string.punctuation).lower() for word in text.split())
    return [word for word in stripped if word]


def share_known(texts: Iterable[str], vocabulary: set[str]) -> float:
    """Share of the words of texts that are in the vocabulary."""
    found = [word in vocabulary for text in texts for word in words(text)]
    return sum(found) / max(len(found), 1)


def measure(
    checkpoint: Checkpoint, corpus: str, held_out_percentage: float, parameters: SamplingParameters
) -> dict[str, object]:
    """All figures of a checkpoint against its corpus."""
    cut = int(len(corpus) * (1 - held_out_percentage / 100))
    training, held_out = corpus[:cut], corpus[cut:]
    tokens = checkpoint.tokenizer(held_out, add_special_tokens=False)["input_ids"]
    rows = {
        "samples": run(checkpoint.denoiser, checkpoint.scheduler, parameters).sequences.tolist(),
        "held_out": windows(tokens, parameters.seq_len, parameters.num_samples),
    }
    texts = {name: [decode(checkpoint.tokenizer, row) for row in each] for name, each in rows.items()}
    whole, seen = set(words(corpus)), set(words(training))
    figures: dict[str, object] = {
        name: {
            "words": sum(len(words(text)) for text in texts[name]),
            "words_in_corpus": round(share_known(texts[name], whole), 4),
            "words_in_training_part": round(share_known(texts[name], seen), 4),
            "unigram_entropy": round(unigram_entropy(rows[name]), 4),
        }
        for name in rows
    }
    figures["entropy_ratio"] = round(unigram_entropy(rows["samples"]) / unigram_entropy(rows["held_out"]), 4)
    return figures


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint_path", required=True)
    parser.add_argument("--corpus", required=True, help="the text file it was trained on")
    parser.add_argument(
        "--validation_split_percentage", type=float, default=10, help="its last part that was held out"
    )
    parser.add_argument("--num_samples", type=int, default=64)
    parser.add_argument("--seq_len", type=int, default=128)
    parser.add_argument("--num_inference_steps", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--top_k", type=int, default=0)
    parser.add_argument("--block_size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    checkpoint = load_checkpoint(arguments.checkpoint_path)
    fields = ("seq_len", "num_samples", "num_inference_steps", "temperature", "top_p", "top_k", "seed", "block_size")
    parameters = SamplingParameters(**{name: getattr(arguments, name) for name in fields})
    corpus = Path(arguments.corpus).read_text(encoding="utf-8")
    figures = measure(checkpoint, corpus, arguments.validation_split_percentage, parameters)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
