"""Do the samples of a model read like the text it has learnt? Measured beside held-out text, of which everything is asked that is
asked of the samples.

    python -m benchmarks.results.english.reading --checkpoint_path DIR --judge JUDGE \\
        --text tales/train.txt tales/valid.txt tales/test.txt --text sentences/train.txt sentences/valid.txt

`--text` names a file that the model has learnt and those held out of it, once for each text. As many windows of held-out text as
there are samples are measured, in the same mixture: of each text in proportion to what was learnt of it.

Samples are drawn at temperature 1 with the default sampler, sample i from seed `--seed` + i: free; prompted, the first quarter of
a window given; infilled, its middle half open. Of these two only what is drawn counts, and of the windows the same places.

- known: share of the words (`words.py`) that the learnt text has. Windows and samples may begin and end inside a word.
- perplexity: a token of the judge, a causal LM that `benchmarks.decoders.judge` has trained on the same text. It reads what is
  given, too; scored is all that follows it, the end of an infilled window included, where it shows if the middle leads to it.
- unigram_entropy: nats, of the tokens of all samples together; sample_entropy: the mean of each one's own. distinct_2: different
  pairs of tokens over all pairs.
- copied: share of the stretches of eight words that stand in the learnt text.

A low perplexity means little where the entropy is low, too, or much is copied.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.utils import logging as transformers_logging

from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.diffusion.values import check_int
from token_diffusion.errors import ParameterError
from token_diffusion.networks.cpu.threads import set_threads
from token_diffusion.pipelines.requests import Requests
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.text import OPEN, decode
from trainer.evaluation.bound import Estimate, pooled_ratio
from trainer.evaluation.quality import (
    Judge,
    Text,
    distinct,
    generative_perplexity,
    load_judge,
    retokenize,
    unigram_entropy,
)
from trainer.output.files import write_whole

from ... import command
from ...decoders.judge import FIGURES
from ...decoders.quality import pieces
from .words import Corpus, grams, words

PROGRAM = "benchmarks.results.english.reading"

GRAM = 8
EXAMPLES = 10

SPANS = {"free": (0, 4), "prompted": (1, 4), "infilled": (1, 3)}
"""What is drawn: from the first to before the second quarter of a sample."""


class Source(NamedTuple):
    """A file that was learnt, and files that were held out of it."""

    learnt: Path
    held_out: Sequence[Path]


@dataclass(frozen=True)
class Reading:
    """Figures of what was drawn, or of the same places of held-out text; the module's docstring says of what."""

    num_words: int
    known: Estimate
    perplexity: Estimate
    unigram_entropy: float
    sample_entropy: Estimate
    distinct_2: float | None
    copied: Estimate

    def figures(self) -> dict[str, Any]:
        """In JSON's types."""
        estimates = ("known", "perplexity", "sample_entropy", "copied")
        found = {"num_words": self.num_words, "unigram_entropy": self.unigram_entropy, "distinct_2": self.distinct_2}
        return found | {key: value for name in estimates for key, value in getattr(self, name).figures(name).items()}

    def beside(self, text: Reading) -> dict[str, Any]:
        """What it is against held-out text: ratio of the perplexities, and how far the entropies are off, as shares."""
        ratio = self.perplexity.value / text.perplexity.value
        # As if the two were independent, which they are not where one window is given to both: a little too large there.
        errors = torch.tensor([each.error / each.value for each in (self.perplexity, text.perplexity)])
        return {
            **Estimate(ratio, ratio * errors.norm().item()).figures("perplexity_ratio"),
            "unigram_entropy_off": self.unigram_entropy / text.unigram_entropy - 1,
            "sample_entropy_off": self.sample_entropy.value / text.sample_entropy.value - 1,
        }


class Reader:
    """Reads samples of one model, and held-out text.

    Args:
        sources: what the model has learnt. count, seq_len: samples, and their tokens, the frame's included.

    Raises:
        ParameterError: the text cannot be read or is too short, or the model has fewer positions.
    """

    def __init__(self, checkpoint: Checkpoint, judge: Judge, sources: Sequence[Source], count: int, seq_len: int):
        check_int("num_samples", count, 1, 2**31)
        check_int("seq_len", seq_len, 4 + len(checkpoint.facts.frame), 2**31)
        checkpoint.check_seq_len(seq_len)
        self.checkpoint, self.judge, self.frame = checkpoint, judge, checkpoint.facts.frame
        self.length = seq_len - len(self.frame)
        self.corpus = Corpus("text", [source.learnt for source in sources])
        shares = apportioned(count, [source.learnt.stat().st_size for source in sources])
        self.windows = [
            window
            for source, share in zip(sources, shares, strict=True)
            if share
            for window in pieces(checkpoint, "text", source.held_out, share, self.length)
        ]

    def span(self, kind: str) -> slice:
        """The places that are drawn."""
        start, stop = (quarters * self.length // 4 for quarters in SPANS[kind])
        return slice(start, stop)

    def draw(self, kind: str, seed: int, **asked: Any) -> list[list[int]]:
        """A sample for each window, without the frame. Raises what `SamplingParameters` and the sampler raise."""
        requests = []
        for index, window in enumerate(self.windows):
            canvas = list(window)
            canvas[self.span(kind)] = [OPEN] * len(canvas[self.span(kind)])
            tokens, frame = self.frame.around(canvas), (len(self.frame.prefix), len(self.frame.suffix))
            asked_for = SamplingParameters.flat(
                {"seq_len": len(tokens), "frame": frame, "seed": seed + index, **asked}
            )
            requests.append((tokens, asked_for))
        batch = Requests(self.checkpoint.denoiser, self.checkpoint.scheduler, requests)
        while not batch.finished:
            batch.step()
        return [list(self.frame.inside(state[0].tolist())) for state in batch.states]

    def read(self, rows: Sequence[Sequence[int]], kind: str) -> Reading:
        """Figures of the places that are drawn in rows of tokens without the frame."""
        drawn = [row[self.span(kind)] for row in rows]
        found = [words(decode(self.checkpoint.tokenizer, row)) for row in drawn]
        stretches = [list(grams(each, GRAM)) for each in found]
        standing = self.corpus.standing({gram for each in stretches for gram in each}, GRAM)
        entropies = [unigram_entropy([row]) for row in drawn]
        perplexity, _ = generative_perplexity(self.judge, self._scored(rows, self.span(kind).start))
        return Reading(
            sum(map(len, found)),
            share([self.corpus.known(each) for each in found], [len(each) for each in found]),
            perplexity,
            unigram_entropy(drawn),
            share(entropies, [1] * len(drawn)),
            distinct(drawn, 2),
            share([sum(gram in standing for gram in each) for each in stretches], [len(each) for each in stretches]),
        )

    def examples(self, rows: Sequence[Sequence[int]], kind: str) -> list[list[str]]:
        """The first samples as texts: what is given before, what is drawn, what is given behind."""
        span = self.span(kind)
        parts = ([row[: span.start], row[span], row[span.stop :]] for row in rows[:EXAMPLES])
        return [[decode(self.checkpoint.tokenizer, part) for part in each] for each in parts]

    def _scored(self, rows: Sequence[Sequence[int]], start: int) -> list[Text]:
        """As the judge reads them; it scores what comes after the first `start` tokens, which are given."""
        given = retokenize(self.judge, self.checkpoint.tokenizer, [row[:start] for row in rows])
        whole = retokenize(self.judge, self.checkpoint.tokenizer, rows)
        return [after(text, each.ids) for text, each in zip(whole, given, strict=True)]


def after(text: Text, given: Sequence[int]) -> Text:
    """The text, scored from where it parts from the given tokens: a word that is cut in two there is all drawn."""
    pairs = zip(text.ids, given, strict=False)
    same = next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(text.ids), len(given)))
    return Text(text.ids, [flag and place >= same for place, flag in enumerate(text.scored)])


def share(parts: Sequence[float], wholes: Sequence[float]) -> Estimate:
    """Parts over wholes, with its standard error over samples."""
    return pooled_ratio(torch.tensor(parts, dtype=torch.float64), torch.tensor(wholes, dtype=torch.float64))


def apportioned(count: int, sizes: Sequence[int]) -> list[int]:
    """`count` things shared in proportion to sizes, by largest remainders."""
    quotas = [count * size / sum(sizes) for size in sizes]
    found = [int(quota) for quota in quotas]
    for index in sorted(range(len(sizes)), key=lambda each: found[each] - quotas[each])[: count - sum(found)]:
        found[index] += 1
    return found


def measure(reader: Reader, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Each kind of sample that was asked for, beside held-out text; of free ones first-hitting, too, where there is that."""
    found = []
    limit = reader.checkpoint.process == "absorbing" and asked.sampler == "ancestral"
    for kind in asked.kinds:
        text = reader.read(reader.windows, kind)
        for steps in (asked.num_inference_steps, None) if kind == "free" and limit else (asked.num_inference_steps,):
            print(f"{kind}, {steps or 'first-hitting'} ...", file=sys.stderr, flush=True)
            shaping = {"temperature": asked.temperature, "top_p": asked.top_p}
            rows = reader.draw(kind, asked.seed, num_inference_steps=steps, sampler=asked.sampler, **shaping)
            samples = reader.read(rows, kind)
            found.append(
                {
                    "kind": kind,
                    "num_inference_steps": steps,
                    "samples": samples.figures(),
                    "held_out": text.figures(),
                    **samples.beside(text),
                    "examples": reader.examples(rows, kind),
                }
            )
    return found


def described(judge: Judge, folder: Path) -> dict[str, Any]:
    """The judge, with its own figures of held-out text, where it was trained with them."""
    own = {"name": judge.name, "num_parameters": judge.model.num_parameters(), "context": judge.context}
    told = folder / FIGURES
    return {**(json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}), **own}


def make_parser() -> argparse.ArgumentParser:
    parser = command.make_parser(PROGRAM, __doc__)
    parser.add_argument("--checkpoint_path", required=True)
    parser.add_argument("--judge", required=True, help="folder of a causal LM")
    parser.add_argument(
        "--text", nargs="+", type=Path, action="append", required=True, help="a learnt file, those held out of it"
    )
    parser.add_argument("--kinds", nargs="+", choices=list(SPANS), default=list(SPANS))
    parser.add_argument("--num_samples", type=int, default=64)
    parser.add_argument("--seq_len", type=int, default=128)
    parser.add_argument("--num_inference_steps", type=int, default=128)
    parser.add_argument("--sampler", default="ancestral")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="a file for the JSON, beside what is printed")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Prints one JSON object."""
    asked = make_parser().parse_args(arguments)
    for files in asked.text:
        if len(files) < 2:
            raise ParameterError("text", "name a learnt file and at least one that was held out of it", str(files[0]))
    transformers_logging.disable_progress_bar()
    set_threads(None)
    checkpoint = load_checkpoint(asked.checkpoint_path, device=asked.device)
    judge = load_judge(asked.judge, asked.device)
    sources = [Source(learnt, held_out) for learnt, *held_out in asked.text]
    reader = Reader(checkpoint, judge, sources, asked.num_samples, asked.seq_len)
    kept = ("num_samples", "seq_len", "sampler", "temperature", "top_p", "seed")
    found = {
        "checkpoint": checkpoint.name,
        "process": checkpoint.process,
        "texts": [[f"{file.parent.name}/{file.name}" for file in files] for files in asked.text],
        **{name: getattr(asked, name) for name in kept},
        "judge": described(judge, Path(asked.judge)),
        "measured": measure(reader, asked),
    }
    text = json.dumps(found, indent=1, ensure_ascii=False)
    if asked.output is not None:
        write_whole(asked.output, text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    command.run(PROGRAM, main)
