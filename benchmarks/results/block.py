"""What a demo's card has beside what the trainer writes: it stands between two marks, and is replaced as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCard

from token_diffusion.errors import ParameterError
from trainer.output.files import write_whole
from trainer.report.visible import visible

CARD = "README.md"
BEGIN, END, BEFORE = "<!-- reading -->", "<!-- end of reading -->", "## Use\n"


def put(folder: Path, block: str, head: Mapping[str, str]) -> None:
    """The block into the card of a folder, `head` into its metadata. Raises `ParameterError` where there is no card."""
    if not (folder / CARD).is_file():
        raise ParameterError("checkpoint_path", f"hold {CARD}, which the trainer writes", str(folder))
    card = ModelCard((folder / CARD).read_text(encoding="utf-8"))
    for name, value in head.items():
        card.data[name] = value
    card.text = with_block(card.text, block)
    write_whole(folder / CARD, str(card))


def with_block(text: str, block: str) -> str:
    """The card's text with the block between its marks: where it was, else before how the model is used, else at the end."""
    marked = f"{BEGIN}\n\n{block}\n\n{END}\n"
    before, found, rest = text.partition(BEGIN)
    if found:
        return before + marked + rest.partition(f"{END}\n")[2]
    before, found, rest = text.partition(BEFORE)
    return before.rstrip("\n") + f"\n\n{marked}" + (f"\n{found}{rest}" if found else "")


def quoted(text: str) -> str:
    """As it is, in a block."""
    return "\n".join(f"    {line}" for line in visible(text).splitlines() or [""])
