"""The answers to one prompt, as its job goes on: which tokens are final, and what can be told of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.facts import Frame
from token_diffusion.text import OPEN

from ...work.stream import News
from ..events import logprobs_told
from ..pieces import pieces
from ..protocol.events import FinishReason
from .flow import Flow, Spelling


@dataclass(frozen=True)
class Blank:
    """What is given of a sequence, around the `length` tokens of an answer: ids `before` and `after`, without the frame.

    shown: text that answers begin with.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    length: int
    shown: str = ""

    @property
    def num_given(self) -> int:
        return len(self.before) + len(self.after)

    def tokens(self, frame: Frame) -> list[int]:
        """The sequence, OPEN where the answer will be."""
        return frame.around([*self.before, *[OPEN] * self.length, *self.after])


@dataclass(frozen=True)
class Token:
    """A token of an answer: what it reads as, its log-probability, and where it begins among the others."""

    text: str
    logprob: float | None
    offset: int


@dataclass(frozen=True)
class Piece:
    """The next of answer `index`: text that is added, or that replaces what was told; with the last piece, why it ended.

    tokens: those whose text has been added to what was told, where their log-probabilities are asked for.
    """

    index: int
    text: str
    finish_reason: FinishReason | None = None
    tokens: tuple[Token, ...] = ()


class Sheet:
    """All answers of one job, to `blank`, which are told in pieces.

    Args:
        prompts: which prompts of the request are this one; asked more than once, it gets further answers, and no second copy of
            the first. n: answers to each.
        stop, ends: what a text ends before, see `Flow`.
        diffusing: pieces have the whole text as it is, masks shown, instead of what is final and new.
        settles: what has left the mask stays as it is; other samplers rewrite whatever is in the block that they are in.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        blank: Blank,
        prompts: Sequence[int],
        n: int,
        stop: Sequence[str],
        ends: Collection[int],
        diffusing: bool,
        settles: bool,
    ) -> None:
        self._tokenizer, self.blank = checkpoint.tokenizer, blank
        self._num_prompts, self._diffusing, self._shown = len(prompts), diffusing, blank.shown
        self._indices = [prompt * n + answer for prompt in prompts for answer in range(n)]
        self._start = len(checkpoint.facts.frame.prefix) + len(blank.before)
        self._length = blank.length
        self._mask = checkpoint.scheduler.config["mask_token_id"] if settles else None
        self._spelling = Spelling(checkpoint.tokenizer, blank.before)
        begin = checkpoint.tokenizer.bos_token_id if self._start == 0 else None
        self._flows = [Flow(self._spelling, stop, ends, begin) for _ in self._indices]
        self._final = np.zeros(self.num_answers, dtype=np.int64)
        self._told: list[list[Token]] = [[] for _ in self._indices]

    @property
    def num_answers(self) -> int:
        return len(self._indices)

    @property
    def num_given(self) -> int:
        """Tokens of its prompts, as often as they were asked."""
        return self.blank.num_given * self._num_prompts

    @property
    def complete(self) -> bool:
        """Whether all answers have ended, though the job may go on."""
        return all(flow.finish_reason is not None for flow in self._flows)

    @property
    def num_tokens(self) -> int:
        """Those of all answers, as far as they are final."""
        return sum(flow.num_tokens for flow in self._flows)

    def is_due(self, news: News) -> bool:
        """Whether there may be anything to tell of `news`; takes note of it."""
        final = self._final_in(news)
        rose = bool((final > self._final).any())
        self._final = np.maximum(final, self._final)
        return rose or news.result is not None or (self._diffusing and bool(news.changes))

    def pieces(self, news: News) -> list[Piece]:
        """What there is to tell of `news`, which `is_due` has noted; decodes, hence for the text thread."""
        touched = {sample for sample, _, _ in news.changes}
        told = []
        for sample, flow in enumerate(self._flows):
            if flow.finish_reason is not None:
                continue
            row = news.tokens[sample, self._start : self._start + self._length].tolist()
            begins = not flow.text
            more = flow.advance(row[: self._final[sample]], last=news.result is not None)
            if self._diffusing:
                if flow.finish_reason is None and sample not in touched:
                    continue
                whole = flow.text if flow.finish_reason else self._spelling.text(row, keep_masks=True)
                told.append(Piece(self._indices[sample], self._shown + whole, flow.finish_reason))
            elif more or flow.finish_reason is not None:
                shown = self._shown if begins else ""
                tokens = self._new_tokens(sample, flow, row, news)
                told.append(Piece(self._indices[sample], shown + more, flow.finish_reason, tokens))
        return told

    def _new_tokens(self, sample: int, flow: Flow, row: Sequence[int], news: News) -> tuple[Token, ...]:
        """Those that have come into the text of an answer, whose tokens are `row`."""
        if news.logprobs is None:
            return ()
        known = self._told[sample]
        ids = row[len(known) : flow.num_shown]
        logprobs = logprobs_told(news.logprobs[sample, self._start + len(known) :][: len(ids)].tolist())
        offset = known[-1].offset + len(known[-1].text) if known else len(self._shown)
        new = []
        for text, logprob in zip(pieces(self._tokenizer, ids), logprobs, strict=True):
            new.append(Token(text, logprob, offset))
            offset += len(text)
        known += new
        return tuple(new)

    def _final_in(self, news: News) -> np.ndarray:
        """int [num_answers]: how many of each answer's first tokens nothing will change any more."""
        if news.result is not None:
            return np.full(len(self._flows), self._length)
        if self._mask is None:
            end = max((block.end for block in news.blocks), default=0) - self._start
            return np.full(len(self._flows), min(max(end, 0), self._length))
        masked = news.tokens[:, self._start : self._start + self._length] == self._mask
        return np.where(masked.any(1), masked.argmax(1), self._length)
