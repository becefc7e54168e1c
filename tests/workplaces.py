"""Folders that tests of the trainer work in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.data.tokenizer import build_tokenizer


def make_workplace(folder: Path, lines: Sequence[str], vocab_size: int) -> Path:
    """`folder` with `text.txt`, a line each, and a `tokenizer` trained on it."""
    text = "\n".join(lines) + "\n"
    (folder / "text.txt").write_text(text)
    build_tokenizer([text], vocab_size=vocab_size).save_pretrained(folder / "tokenizer")
    return folder
