"""Documents as the sequences to train on: each in the tokenizer's frame, or all packed into one stream that is cut up."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from token_diffusion.errors import ParameterError
from token_diffusion.facts import Facts, Frame, frame_of

from ..config import TrainingConfig
from .corpus import train_files
from .cutting import cutter_of
from .reading.documents import Documents, is_blank
from .reading.files import as_text
from .reading.labels import Labels, as_label
from .tables import TokenTable, filled
from .tokens import Unwritten, encode, tokenised

logger = logging.getLogger(__name__)

TOO_LONG = "%s: %d tokens of %d documents are beyond --max_length %d and dropped"
KEEP = "; --packing would keep what is lost"


class Example(NamedTuple):
    """Token ids of a sequence, and what the network is told of it, if anything."""

    ids: np.ndarray
    label: int | None = None


@dataclass(frozen=True)
class Sequences:
    """Tokenised examples: `ids` holds int32 arrays of at most max_length.

    num_dropped_tokens: tokens of documents longer than that, which are in no sequence; 0 if packed.
    labels: what a network is told of each, int64 [n]; None where they have none.
    """

    ids: TokenTable
    num_dropped_tokens: int
    labels: np.ndarray | None = field(default=None, kw_only=True)

    def first(self, count: int | None) -> Sequences:
        """The first `count` of them; None for all."""
        return replace(self, ids=self.ids.first(count), labels=None if self.labels is None else self.labels[:count])

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same tokens in the same sequences, and for no others."""
        digest = blake2b(digest_size=16)
        for ids in self.ids:
            digest.update(ids.tobytes())
        lengths = self.ids.ends - self.ids.starts + (len(self.ids.prefix) + len(self.ids.suffix))
        digest.update(np.cumsum(lengths, dtype=np.int64).tobytes())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
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
    fill: int | None = None,
    labels: Labels | None = None,
    num_threads: int | None = None,
    progress: bool = False,
) -> Sequences:
    """Documents as token sequences of at most `max_length`; those without a token that counts are dropped.

    frame: around each sequence; by default the tokenizer's own around documents, and none where they are packed. learnt: control
    tokens that count. fill: the end token that fills documents up to `max_length`, if one does. labels: what a network is told
    for those of the documents, which are not packed then.
    `num_threads` and the cache of much text: see `tokens.tokenised`.

    Raises:
        ParameterError: `flag` names text of which nothing is left, or that the tokenizer cannot write; packing has no token to
            put between documents; the tokenizer's frame fills `max_length`; or a label is not known.
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
    filling = None if packing or fill is None else (fill, max_length)
    table = TokenTable(text.tokens, starts, ends, frame.prefix, frame.suffix, filling)
    counts = table.counts(special(tokenizer, learnt))
    if not counts.any():
        raise ParameterError(flag, "hold text that has tokens besides special ones", None)
    if counts.max() == 1:
        logger.warning("%s: no sequence has more than one token that counts", flag)
    if dropped:
        count = int((ends - starts < text.ends - text.starts).sum())
        logger.warning(TOO_LONG + (KEEP if labels is None else ""), flag, dropped, count, max_length)
    told = None if labels is None else documents.label_ids(labels)[text.numbers][counts > 0]
    return Sequences(table.only(counts > 0), dropped, labels=told)


def facts_of(tokenizer: PreTrainedTokenizerBase, packing: bool) -> Facts:
    """What sequences are like where nothing else is known: documents in the tokenizer's frame, or pieces of a stream in none.

    Control tokens are never noised then, so none of them is learnt.
    """
    return Facts(Frame() if packing else frame_of(tokenizer), known=True)


def with_ends(facts: Facts, tokenizer: PreTrainedTokenizerBase) -> Facts:
    """Of documents that the tokenizer's end token fills up. Raises `ParameterError` if it has none."""
    return facts.ending_with(separator(tokenizer, "learn_end"))


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


def separator(tokenizer: PreTrainedTokenizerBase, flag: str = "packing") -> int:
    """The id that ends a document, between packed ones: EOS, else SEP. Raises `ParameterError` of `flag` if there is neither."""
    for token_id in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token_id is not None:
            return int(token_id)
    raise ParameterError(flag, "have a tokenizer with an EOS or SEP token", type(tokenizer).__name__)


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


class SequenceMaker:
    """Rows of text to sequences. With packing, `rest` are the tokens that did not fill one, `last` the place read last."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: TrainingConfig, facts: Facts, labels: Labels | None
    ) -> None:
        self.tokenizer, self.config, self.special = tokenizer, config, special(tokenizer, facts.learnt)
        self.labels = labels
        self.frame = frame_within(tokenizer, config.max_length, facts.frame)
        self.fill = facts.fill
        self.separator = [separator(tokenizer)] if config.packing else []
        self.cutter, self.unwritten = cutter_of(tokenizer), Unwritten(tokenizer)
        self.flag = train_files(config)[0]
        self.rest = np.empty(0, np.int32)
        self.last: list[int] | None = None
        self.num_counted = 0
        self.told_unwritten = self.told_too_long = False

    def sequences(self, rows: dict[str, list[Any]]) -> list[Example]:
        """The rows' whole sequences that have a token that counts."""
        texts = [as_text(text, self.config.text_column) for text in rows["text"]]
        places, cells = (rows.get(name, [None] * len(texts)) for name in ("place", "label"))
        documents = [
            (text, place, cell)
            for text, place, cell in zip(texts, places, cells, strict=True)
            if place is not None or not is_blank(text)
        ]
        self._tell(texts)
        found = self._ids([text for text, *_ in documents])
        if self.config.packing:
            made = map(Example, self._packed(found, [place for _, place, _ in documents]))
        else:
            made = map(Example, self._framed(found), [self._label(cell) for *_, cell in documents])
        first, last = len(self.frame.prefix), len(self.frame.suffix)
        return [each for each in made if not self._is_special(each.ids[first : len(each.ids) - last])]

    def _label(self, cell: object) -> int | None:
        """What the network is told. Raises `ParameterError` for what it does not know."""
        return None if self.labels is None else self.labels.id_of(as_label(cell, f"a row of {self.flag}"))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Of each text, which is cut up on the way if it is long."""
        pieces = [list(self.cutter.pieces([text])) for text in texts]
        ids = iter(encode(self.tokenizer, [piece for each in pieces for piece in each]))
        found = [[id for _ in each for id in next(ids)] for each in pieces]
        self.num_counted += sum(not self._is_special(ids) for ids in found)
        return found

    def _framed(self, found: Sequence[list[int]]) -> Iterator[np.ndarray]:
        room = self.config.max_length - len(self.frame)
        for ids in found:
            (start,), (end,) = truncated(self.tokenizer, np.array([0]), np.array([len(ids)]), room)
            if end - start < len(ids) and not self.told_too_long:
                told = "%s: documents are cut off at --max_length %d" + (KEEP if self.labels is None else "")
                logger.warning(told, self.flag, self.config.max_length)
                self.told_too_long = True
            row = np.array(self.frame.around(ids[start:end]), dtype=np.int32)
            yield row if self.fill is None else filled(row, self.fill, self.config.max_length)

    def _packed(self, found: Sequence[list[int]], places: Sequence[list[int] | None]) -> np.ndarray:
        """Whole sequences [n, max_length], framed pieces of the stream; a separator is where a document begins."""
        parts = [self.rest]
        for ids, place in zip(found, places, strict=True):
            file, document, number = place or (0, 0, 0)
            goes_on = number > 0 and self.last == [file, document, number - 1]
            if ids or goes_on:
                gap = self.separator if self.last is not None and not goes_on else ()
                parts.append(np.array([*gap, *ids], dtype=np.int32))
                self.last = [file, document, number]
        stream, length = np.concatenate(parts), self.config.max_length - len(self.frame)
        whole = len(stream) // length * length
        self.rest = stream[whole:]
        pieces = stream[:whole].reshape(-1, length)
        around = [np.tile(np.array(ids, np.int32), (len(pieces), 1)) for ids in (self.frame.prefix, self.frame.suffix)]
        return np.concatenate([around[0], pieces, around[1]], axis=1)

    def _is_special(self, ids: Sequence[int] | np.ndarray) -> bool:
        return bool(np.isin(ids, self.special).all())

    def _tell(self, texts: Sequence[str]) -> None:
        """Says once that text is lost, when first it is."""
        if not self.told_unwritten and any(map(self.unwritten.spelled_in, texts)):
            self.unwritten.tell(self.flag, "documents spell control tokens")
            self.told_unwritten = True
