"""The flags of `python -m trainer tokenizer`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt

from ..command_line import CommandLine


class TokenizerConfig(CommandLine):
    """Train a byte-level BPE tokenizer on text; decoding gives the text back exactly."""

    train_file: list[Path] = Field(min_length=1)
    """Text files (UTF-8), one or more, or tables: .csv, .tsv, .json, .jsonl, .parquet, .arrow; compressed or not."""
    text_column: str = "text"
    """Column of a table that holds the text."""
    output_dir: Path = Path("tokenizer-output")
    """Folder to write; AutoTokenizer and --tokenizer_name read it."""
    vocab_size: int = Field(4096, ge=261)
    """Tokens in all: 5 special ones, 256 bytes, and merges. A small text may yield fewer."""
    min_frequency: PositiveInt = 2
    """A pair of tokens is merged only if it occurs this often."""
    lowercase: bool = False
    """Lowercase the text first (decoding then gives lowercase back)."""
