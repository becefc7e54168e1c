"""Token sequences end to end in one array, and the tokenising of documents into such a table: in parallel, and once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, overload

import numpy as np
from transformers import PreTrainedTokenizerBase

TOKENIZER_BATCH = 1000
MIN_CACHED_CHARS = 1_000_000
"""Below this, text is tokenised in less time than it takes to start training."""


class TokenTable(Sequence[np.ndarray]):
    """Sequence i is tokens[ends[i - 1] : ends[i]]: `tokens` int32, `ends` int64, in memory or mapped from a file."""

    def __init__(self, tokens: np.ndarray, ends: np.ndarray) -> None:
        self.tokens, self.ends = tokens, ends

    @classmethod
    def of(cls, sequences: Iterable[np.ndarray]) -> TokenTable:
        parts = [np.asarray(sequence, dtype=np.int32) for sequence in sequences]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.concatenate(parts) if parts else np.empty(0, np.int32), ends)

    def first(self, count: int | None) -> TokenTable:
        """The first `count` sequences; None for all."""
        if count is None or count >= len(self):
            return self
        return TokenTable(self.tokens[: self.ends[count - 1]], self.ends[:count])

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self.tokens[self.ends[index - 1] if index else 0 : self.ends[index]]


def token_table(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], options: dict[str, Any], num_workers: int = 1
) -> TokenTable:
    """A sequence a document, as `tokenizer(documents, **options)` has it.

    Text of over `MIN_CACHED_CHARS` characters is read from the cache folder of `datasets` if it was tokenised before.
    """
    if sum(map(len, documents)) < MIN_CACHED_CHARS:
        return TokenTable.of(encode(tokenizer, documents, options))
    from datasets import Dataset, config

    def batch(rows: dict[str, list[str]]) -> dict[str, list[np.ndarray]]:
        return {"ids": list(encode(tokenizer, rows["text"], options))}

    name = _fingerprint(tokenizer, documents, options)
    folder = Path(config.HF_DATASETS_CACHE) / "token-diffusion"
    tokens_file, ends_file = folder / f"{name}-tokens.npy", folder / f"{name}-ends.npy"
    if not ends_file.is_file():  # it is written last
        folder.mkdir(parents=True, exist_ok=True)
        text = Dataset.from_dict({"text": list(documents)})
        encoded = text.map(
            batch,
            batched=True,
            batch_size=TOKENIZER_BATCH,
            num_proc=num_workers if num_workers > 1 else None,
            remove_columns=["text"],
            new_fingerprint=name,
            desc="tokenise",
        )
        table = TokenTable.of(
            encoded.with_format("numpy")[start : start + 1]["ids"][0] for start in range(len(encoded))
        )
        _write(tokens_file, table.tokens)
        _write(ends_file, table.ends)
    return TokenTable(np.load(tokens_file, mmap_mode="r"), np.load(ends_file))


def encode(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], options: dict[str, Any]
) -> Iterator[np.ndarray]:
    """The token ids of each document, int32."""
    for start in range(0, len(documents), TOKENIZER_BATCH):
        chunk = list(documents[start : start + TOKENIZER_BATCH])
        encoded = tokenizer(chunk, verbose=False, return_attention_mask=False, return_token_type_ids=False, **options)
        for ids in encoded["input_ids"]:
            yield np.array(ids, dtype=np.int32)


def _fingerprint(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], options: dict[str, Any]) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    digest = blake2b(repr((type(tokenizer).__name__, rules, sorted(options.items()))).encode(), digest_size=16)
    for document in documents:
        digest.update(document.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _write(path: Path, array: np.ndarray) -> None:
    """Whole or not at all."""
    part = path.with_suffix(f".{os.getpid()}")
    with part.open("wb") as file:
        np.save(file, array)
    part.rename(path)
