"""Text to token ids: some of it at a time, on all cores, and only once where there is much of it."""

from __future__ import annotations

import json
import logging
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import tokenizers
import transformers
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from token_diffusion.errors import ParameterError
from token_diffusion.text.plain import plain

from .cutting import cut
from .reading.documents import Documents, Piece
from .tables import InMemory, NpyFile, write_arrays

logger = logging.getLogger(__name__)

BATCH_CHARS = 1 << 19
MIN_CACHED_CHARS = 1_000_000
"""Below this, text is tokenised in less time than it takes to start training."""
LAYOUT = 4
"""Of the cached files; changed whenever the same text and tokenizer come to be other tokens here."""


class TokenisedText(NamedTuple):
    """Documents end to end: document i is tokens[starts[i] : ends[i]], int32 and int64.

    numbers: which of all documents those are that have tokens, int64.
    num_unwritten: documents that spell a control token which the tokenizer cannot write in other tokens.
    """

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    numbers: np.ndarray
    num_unwritten: int


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text; nothing typed in it is a control token, and no frame is put around it."""
    return plain(tokenizer).ids(texts)


def batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """As many pieces at a time as keep all cores busy and little memory."""
    batch: list[Piece] = []
    num_chars = 0
    for piece in pieces:
        batch.append(piece)
        num_chars += len(piece.text)
        if num_chars >= BATCH_CHARS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


def tokenised(
    tokenizer: PreTrainedTokenizerBase,
    documents: Documents,
    separator_id: int | None = None,
    num_threads: int | None = None,
    progress: bool = False,
) -> TokenisedText:
    """All documents that have tokens, with `separator_id` between them if it is given.

    Text of over `MIN_CACHED_CHARS` characters is read from the cache folder of `datasets` if it was tokenised before.

    Raises:
        ParameterError: the text cannot be read, or the cache not be written.
    """
    if documents.survey.num_chars < MIN_CACHED_CHARS:
        memory = InMemory()
        with threads(num_threads):
            places = _tokenise(tokenizer, documents, separator_id, memory, progress)
        return _divided(memory.array(), places, separator_id)
    from datasets import config

    name = _key(tokenizer, documents, separator_id)
    folder = Path(config.HF_DATASETS_CACHE) / "token-diffusion"
    tokens_file, documents_file = folder / f"{name}-tokens.npy", folder / f"{name}-documents.npz"
    try:
        stored = _stored(tokens_file, documents_file)
        if stored is None:
            folder.mkdir(parents=True, exist_ok=True)
            with NpyFile(tokens_file) as file, threads(num_threads):
                places = _tokenise(tokenizer, documents, separator_id, file, progress)
            write_arrays(
                documents_file, starts=places.starts, numbers=places.numbers, unwritten=np.array(places.unwritten)
            )
            stored = np.load(tokens_file, mmap_mode="r"), places
        return _divided(*stored, separator_id)
    except OSError as error:
        rule = f"be a folder that can keep tokenised text ({error.strerror or error})"
        raise ParameterError("HF_DATASETS_CACHE", rule, str(folder)) from error


class _Places(NamedTuple):
    """Where documents start in the tokens, which documents those are, and `num_unwritten`."""

    starts: np.ndarray
    numbers: np.ndarray
    unwritten: int


def _stored(tokens_file: Path, documents_file: Path) -> tuple[np.ndarray, _Places] | None:
    """What the cache holds: tokens, and where documents are in them. None where nothing is, or not all of it any more."""
    try:
        # numpy does not close a file that it opened and can make nothing of.
        with documents_file.open("rb") as file, np.load(file) as stored:
            places = _Places(stored["starts"], stored["numbers"], int(stored["unwritten"]))
        return np.load(tokens_file, mmap_mode="r"), places
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        BadZipFile,
    ):  # numpy's of files that are cut off, or something else
        return None


def _tokenise(
    tokenizer: PreTrainedTokenizerBase,
    documents: Documents,
    separator_id: int | None,
    tokens: InMemory | NpyFile,
    progress: bool,
) -> _Places:
    """Fills `tokens`; returns where documents are in it."""
    starts, numbers, unwritten, lacking = array("q"), array("q"), set(), Unwritten(tokenizer)
    total, bar_off = documents.survey.num_chars, None if progress else True
    before, seen, number = None, None, -1
    with tqdm(total=total, desc="tokenise", unit="char", unit_scale=True, delay=1, disable=bar_off) as bar:
        for batch in batches(cut(documents.pieces(), tokenizer)):
            flat: list[int] = []
            texts = [piece.text for piece in batch]
            for piece, ids in zip(batch, encode(tokenizer, texts), strict=True):
                if piece.document != seen:
                    seen, number = piece.document, number + 1
                if ids and piece.document != before:
                    flat += [separator_id] if starts and separator_id is not None else []
                    starts.append(len(tokens) + len(flat))
                    numbers.append(number)
                    before = piece.document
                flat += ids
            unwritten |= {piece.document for piece in batch if lacking.spelled_in(piece.text)}
            tokens.append(np.array(flat, dtype=np.int32))
            bar.update(sum(map(len, texts)))
    return _Places(np.array(starts, dtype=np.int64), np.array(numbers, dtype=np.int64), len(unwritten))


def _divided(tokens: np.ndarray, places: _Places, separator_id: int | None) -> TokenisedText:
    """A document ends where the next one starts, or before the separator that is there."""
    starts, numbers, unwritten = places
    ends = np.append(starts[1:] - (separator_id is not None), len(tokens)) if len(starts) else starts
    return TokenisedText(tokens, starts, ends, numbers, unwritten)


class Unwritten:
    """The control tokens that text may spell and that the tokenizer has no other tokens for."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        way = plain(tokenizer)
        names = [str(name) for name in tokenizer.convert_ids_to_tokens(sorted(way.control))]
        lacking = [re.escape(name) for name in names if way.lost(name) is not None]
        self.pattern = re.compile("|".join(lacking)) if lacking else None
        self.become_unknown = way.unknown is not None

    def spelled_in(self, text: str) -> bool:
        """Whether one of them is spelled in `text`."""
        return self.pattern is not None and self.pattern.search(text) is not None

    def tell(self, flag: str, what: str) -> None:
        """Says what becomes of them. Raises `ParameterError` where the tokenizer has no token for what is unknown to it."""
        if not self.become_unknown:
            rule = "spell no control token that its tokenizer has no other tokens for, nor one for unknown text"
            raise ParameterError(flag, rule, what)
        logger.warning("%s: %s that the tokenizer cannot write as text: they are unknown tokens there", flag, what)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Has the tokenizers library use so many threads, if it has not started others before; None is its own choice."""
    if count is None:
        yield
        return
    names = {"TOKENIZERS_PARALLELISM": str(count > 1).lower(), "RAYON_NUM_THREADS": str(count)}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _key(tokenizer: PreTrainedTokenizerBase, documents: Documents, separator_id: int | None) -> str:
    """Names all that the tokens follow from: the documents, one by one, the tokenizer, what reads it, and how it is used."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, Tokenizer):
        layout = json.loads(backend.to_str())
        layout["truncation"] = layout["padding"] = None  # whatever the last call has set
    else:
        layout = sorted(tokenizer.get_vocab().items())
    added = sorted((id, repr(token)) for id, token in tokenizer.added_tokens_decoder.items())
    settings = sorted((name, repr(value)) for name, value in tokenizer.init_kwargs.items())
    kind = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"
    rules = [LAYOUT, kind, layout, added, sorted(tokenizer.special_tokens_map.items()), settings]
    versions = [tokenizers.__version__, transformers.__version__]
    facts = [rules, versions, separator_id, documents.identity]
    return blake2b(json.dumps(facts, default=repr).encode(), digest_size=16).hexdigest()
