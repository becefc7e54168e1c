"""The flags of `python -m trainer tokenizer`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from ..command_line import CommandLine, refuse


class TokenizerConfig(CommandLine):
    """Make a tokenizer of text, byte-level BPE or of SMILES; decoding gives the text back exactly."""

    train_file: list[Path] = Field(min_length=1)
    """Text files (UTF-8), one or more, or tables: .csv, .tsv, .json, .jsonl, .parquet, .arrow; compressed or not."""
    kind: Literal["bpe", "smiles"] = "bpe"
    """bpe: bytes and what is often together. smiles: atoms, bonds, branches and rings of molecules, a SMILES string a line; the
    vocabulary is those that the text has."""
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

    @model_validator(mode="after")
    def _of_one_kind(self) -> TokenizerConfig:
        if self.kind == "smiles":
            for name in ("vocab_size", "min_frequency", "lowercase"):
                if name in self.model_fields_set:
                    refuse(name, "be left out with kind smiles, which has the tokens of its text", getattr(self, name))
        return self
