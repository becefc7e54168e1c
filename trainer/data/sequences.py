"""Documents as the sequences to train on: each in the tokenizer's frame, or all packed into one stream that is cut up."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b

import numpy as np
from transformers import PreTrainedTokenizerBase

from token_diffusion.errors import ParameterError
from token_diffusion.facts import Facts, Frame, frame_of

from .reading.documents import Documents
from .tables import TokenTable
from .tokens import Unwritten, tokenised

logger = logging.getLogger(__name__)

TOO_LONG = "%s: %d tokens of %d documents are beyond --max_length %d and dropped; --packing would keep them"


@dataclass(frozen=True)
class Sequences:
    """Tokenised examples: `ids` holds int32 arrays of at most max_length.

    num_dropped_tokens: tokens of documents longer than that, which are in no sequence; 0 if packed.
    """

    ids: TokenTable
    num_dropped_tokens: int

    def first(self, count: int | None) -> Sequences:
        """The first `count` of them; None for all."""
        return replace(self, ids=self.ids.first(count))

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same tokens in the same sequences, and for no others."""
        digest = blake2b(digest_size=16)
        for ids in self.ids:
            digest.update(ids.tobytes())
        lengths = self.ids.ends - self.ids.starts + (len(self.ids.prefix) + len(self.ids.suffix))
        digest.update(np.cumsum(lengths, dtype=np.int64).tobytes())
        return digest.hexdigest()


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    documents: Documents,
    *,
    flag: str,
    packing: bool,
    max_length: int,
    frame: Frame | None = None,
    learnt: frozenset[int] = frozenset(),
    num_threads: int | None = None,
    progress: bool = False,
) -> Sequences:
    """Documents as token sequences of at most `max_length`; those without a token that counts are dropped.

    frame: around each sequence; by default the tokenizer's own around documents, and none where they are packed. learnt: control
    tokens that count.
    `num_threads` and the cache of much text: see `tokens.tokenised`.

    Raises:
        ParameterError: `flag` names text of which nothing is left, or that the tokenizer cannot write; packing has no token to
            put between documents; or the tokenizer's frame fills `max_length`.
    """
    frame = frame_within(tokenizer, max_length, Frame() if packing and frame is None else frame)
    room = max_length - len(frame)
    text = tokenised(tokenizer, documents, separator(tokenizer) if packing else None, num_threads, progress)
    if text.num_unwritten:
        Unwritten(tokenizer).tell(flag, f"{text.num_unwritten} documents spell control tokens")
    if packing:
        starts = np.arange(0, len(text.tokens), room, dtype=np.int64)
        ends = np.minimum(starts + room, len(text.tokens))
    else:
        starts, ends = truncated(tokenizer, text.starts, text.ends, room)
    dropped = 0 if packing else int((text.ends - text.starts).sum() - (ends - starts).sum())
    table = TokenTable(text.tokens, starts, ends, frame.prefix, frame.suffix)
    counts = table.counts(special(tokenizer, learnt))
    if not counts.any():
        raise ParameterError(flag, "hold text that has tokens besides special ones", None)
    if counts.max() == 1:
        logger.warning("%s: no sequence has more than one token that counts", flag)
    if dropped:
        logger.warning(TOO_LONG, flag, dropped, int((ends - starts < text.ends - text.starts).sum()), max_length)
    return Sequences(table.only(counts > 0), dropped)


def facts_of(tokenizer: PreTrainedTokenizerBase, packing: bool) -> Facts:
    """What sequences are like where nothing else is known: documents in the tokenizer's frame, or pieces of a stream in none.

    Control tokens are never noised then, so none of them is learnt.
    """
    return Facts(Frame() if packing else frame_of(tokenizer), known=True)


def special(tokenizer: PreTrainedTokenizerBase, learnt: frozenset[int] = frozenset()) -> np.ndarray:
    """The ids that are never noised and do not count."""
    return np.array(sorted(set(tokenizer.all_special_ids) - learnt))


def truncated(
    tokenizer: PreTrainedTokenizerBase, starts: np.ndarray, ends: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of at most `room` tokens: the first of each, or the last where the tokenizer truncates on the left."""
    if tokenizer.truncation_side == "left":
        return np.maximum(starts, ends - room), ends
    return starts, np.minimum(ends, starts + room)


def frame_within(tokenizer: PreTrainedTokenizerBase, max_length: int, frame: Frame | None = None) -> Frame:
    """The frame, by default the tokenizer's own. Raises `ParameterError` if it leaves no room."""
    frame = frame_of(tokenizer) if frame is None else frame
    if len(frame) >= max_length:
        rule = f"be more than {len(frame)}, the control tokens around a text"
        raise ParameterError("max_length", rule, max_length)
    return frame


def separator(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that goes between packed documents: EOS, else SEP. Raises `ParameterError` if there is neither."""
    for token_id in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token_id is not None:
            return int(token_id)
    raise ParameterError("packing", "have a tokenizer with an EOS or SEP token", type(tokenizer).__name__)


def pack(parts: Iterable[np.ndarray], max_length: int) -> Iterator[np.ndarray]:
    """Cuts the stream of `parts` (along their first axis) into pieces of max_length; the last may be shorter."""
    held: list[np.ndarray] = []
    length = 0
    for part in parts:
        held.append(part)
        length += len(part)
        if length >= max_length:
            stream = np.concatenate(held)
            whole = length // max_length * max_length
            yield from stream[:whole].reshape(-1, max_length, *stream.shape[1:])
            held, length = [stream[whole:]], length - whole
    if length:
        yield np.concatenate(held)
