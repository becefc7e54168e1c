"""What the samples of a decoder are worth: perplexity under the judge and variety, the model's own bound, nearness to real text.

No figure means much alone. Text that repeats itself has a low perplexity and a low entropy; a decoder that follows the model
into its peaks has a low bound; MAUVE of some dozens of short texts, on the features of a small judge, is rough. So held-out text
that neither model nor judge was trained on is measured in the same way, and is what there is to reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.networks.denoiser import as_denoiser
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run, score
from token_diffusion.text import encode
from trainer.data.corpus import read_documents
from trainer.data.tokens import encode as token_ids
from trainer.evaluation.bound import Estimate, pooled_ratio
from trainer.evaluation.quality import Judge, Text, generative_perplexity, retokenize, unigram_entropy, windows

from .mauve import mauve

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Quality:
    """Figures of as many samples, or pieces of text, as there are of anything in a comparison.

    nfe: evaluations of the network a sample, both views of guidance counted; None for text. perplexity: under the judge, a token
    of the judge's. entropy: nats, of the tokens of all samples together; sample_entropy: mean of each sample's own. bound: nats
    a token, under the model that the samples are of. mauve: against held-out text, other pieces than those of `text`.
    """

    nfe: float | None
    perplexity: Estimate
    entropy: float
    sample_entropy: float
    bound: Estimate
    mauve: float


class Counter:
    """A denoiser that counts the rows it was shown; everything else is the real one's."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.views = as_denoiser(denoiser), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, *labels: Tensor) -> Tensor:
        self.views += len(tokens)
        return self.denoiser(tokens, t, valid, positions, *labels)


class Examiner:
    """Measures samples of one model beside held-out text.

    Args:
        judge: of perplexity and features. reference: a text file that was held out of everything.
        count, seq_len: samples, and their tokens, frame included; pieces of text as many and as long.

    Raises:
        ParameterError: the text cannot be read, or is too short.
    """

    NUM_TIMES = 4
    """Noised versions of a sample, for the model's bound of it."""

    def __init__(self, checkpoint: Checkpoint, judge: Judge, reference: Path, count: int, seq_len: int, seed: int = 0):
        self.checkpoint, self.judge, self.seed = checkpoint, judge, seed
        checkpoint.check_seq_len(seq_len)
        frame = checkpoint.facts.frame
        self.canvas = encode(checkpoint.tokenizer, seq_len=seq_len, frame=frame)
        self.given = [position for position, token in enumerate(self.canvas) if token >= 0]
        found = held_out(checkpoint, reference, 2 * count, seq_len - len(frame))
        self._pieces = [frame.around(piece) for piece in found[::2]]
        self._features = features(judge, self._texts([frame.around(piece) for piece in found[1::2]]))

    def text(self) -> Quality:
        """Of held-out text."""
        return self._quality(self._pieces, None)

    def samples(self, parameters: SamplingParameters) -> Quality:
        """Of what a decoder makes. Raises what `run` raises."""
        counter = Counter(self.checkpoint.denoiser)
        output = run(counter, self.checkpoint.scheduler, parameters, self.canvas)
        return self._quality(output.sequences.tolist(), counter.views / parameters.num_samples)

    def _quality(self, rows: Rows, nfe: float | None) -> Quality:
        inside = [self.checkpoint.facts.frame.inside(row) for row in rows]
        texts = self._texts(rows)
        perplexity, _ = generative_perplexity(self.judge, texts, batch_size=16)
        return Quality(
            nfe,
            perplexity,
            unigram_entropy(inside),
            sum(unigram_entropy([row]) for row in inside) / len(inside),
            self._bound(rows),
            mauve(features(self.judge, texts), self._features),
        )

    def _texts(self, rows: Rows) -> list[Text]:
        inside = [self.checkpoint.facts.frame.inside(row) for row in rows]
        return retokenize(self.judge, self.checkpoint.tokenizer, inside)

    def _bound(self, rows: Rows) -> Estimate:
        denoiser, scheduler = self.checkpoint.denoiser, self.checkpoint.scheduler
        given = [self.given] * len(rows)
        scores = score(denoiser, scheduler, rows, given=given, num_times=self.NUM_TIMES, seed=self.seed)
        nats, counts = ([getattr(each, name) for each in scores] for name in ("nats", "num_tokens"))
        return pooled_ratio(torch.tensor(nats, dtype=torch.float64), torch.tensor(counts, dtype=torch.float64))


def held_out(checkpoint: Checkpoint, file: Path, count: int, length: int) -> list[list[int]]:
    """So many pieces of the text's tokens, spread evenly. Raises `ParameterError` if it is shorter than all of them."""
    return pieces(checkpoint, "reference", [file], count, length, ", twice as many as the samples have")


def pieces(
    checkpoint: Checkpoint, flag: str, files: Sequence[Path], count: int, length: int, why: str = ""
) -> list[list[int]]:
    """The same of several files, end to end; `why` they should be so long stands in the error."""
    documents = read_documents(flag, files, packing=True)
    tokens = [token for ids in token_ids(checkpoint.tokenizer, list(documents)) for token in ids]
    if len(tokens) < count * length:
        rule = f"hold at least {count * length} tokens of {checkpoint.name}{why}"
        raise ParameterError(flag, rule, f"{len(tokens)} in {', '.join(file.name for file in files)}")
    return windows(tokens, length, count)


@torch.inference_mode()
def features(judge: Judge, texts: Sequence[Text], batch_size: int = 16) -> np.ndarray:
    """The mean of the judge's last hidden states over each text, [n, d].

    The authors of MAUVE take the state at a text's end, of a large model; that of a small one tells little but how a text ends.
    """
    found = []
    for start in range(0, len(texts), batch_size):
        ids = [torch.tensor(text.ids[: judge.context]) for text in texts[start : start + batch_size]]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(judge.model.device)
        # Padding is on the right: a causal model does not see it from where it matters.
        hidden = judge.model(input_ids=padded, output_hidden_states=True).hidden_states[-1]
        found += [states[: len(each)].float().mean(0).cpu() for states, each in zip(hidden, ids, strict=True)]
    return torch.stack(found).numpy()
