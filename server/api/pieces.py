"""How single tokens are shown, in the cells of a canvas for one: what each is in the middle of a text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.text.plain import hidden_ids

BEFORE = "a"
"""What stands before a token, as decoders take away the space that a text begins with."""

BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
"""The characters by which byte-level vocabularies write bytes."""

LONE_BYTES = {0xDC00 + byte: f"<0x{byte:02X}>" for byte in range(128, 256)}
"""What Python makes of bytes that are no UTF-8 -> how they are shown."""

LONE_BYTE = re.compile("<0x([0-9A-F]{2})>")


def special_ids(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> list[int]:
    """Ids that are no text, or stand for text that has no token."""
    return sorted(id for id in hidden_ids(tokenizer) if id < vocab_size)


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """What each of these tokens is in the middle of a text, the space before it included where it holds one.

    Where words do not hold their spaces, they and their `##` continuations are spelled as in the vocabulary, control tokens are
    everywhere, and bytes that are no character by themselves are `<0xE2>`. What has no token is empty.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        named = {id: name for name, id in tokenizer.get_vocab().items()}
        return [named.get(id, "").replace("\u2581", " ") for id in ids]
    names = [backend.id_to_token(id) or "" for id in ids]
    decoder, whole = backend.decoder, {token.content for token in tokenizer.added_tokens_decoder.values()}
    if decoder is None or isinstance(decoder, WordPiece):
        return names
    return [name if name in whole or not name else _decoded(decoder, name) for name in names]


def _decoded(decoder: Any, name: str) -> str:
    text: str = decoder.decode([BEFORE, name]).removeprefix(BEFORE)
    if "\ufffd" not in text:
        return text
    if not BYTES.keys() >= set(name):  # one byte by its number
        return name
    return bytes(BYTES[character] for character in name).decode("utf-8", "surrogateescape").translate(LONE_BYTES)


def bytes_of(piece: str) -> bytes:
    """Those of a token that is shown so, a byte that is no character by itself among them."""
    parts = LONE_BYTE.split(piece)  # text, byte, text, …
    return b"".join(bytes([int(part, 16)]) if index % 2 else part.encode() for index, part in enumerate(parts))


@dataclass(frozen=True)
class PieceTable:
    """Every token of a checkpoint as it is shown; `body` is the answer, which a client may keep under its `etag`."""

    body: bytes

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> PieceTable:
        """Takes a good part of a second for a hundred thousand tokens."""
        vocab_size = checkpoint.scheduler.config["vocab_size"]
        values = {
            "model": checkpoint.name,
            "vocab_size": vocab_size,
            "mask_token_id": checkpoint.scheduler.config["mask_token_id"],
            "special_token_ids": special_ids(checkpoint.tokenizer, vocab_size),
            "pieces": pieces(checkpoint.tokenizer, range(vocab_size)),
        }
        return cls(json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode())

    @cached_property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'

    def is_kept(self, if_none_match: str) -> bool:
        """Whether the client has it already, by its If-None-Match."""
        tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
        return any(tag in ("*", self.etag) for tag in tags)
