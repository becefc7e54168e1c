"""The tokenizer of a folder, with the mask token that its model knows."""

from __future__ import annotations

import os
from pathlib import Path

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..errors import ParameterError
from ..networks.families import Published
from ..text.plain import plain, writes_text
from .folder import read_part

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model")
"""A folder with none of these holds no tokenizer."""


def load_tokenizer(
    path: str | os.PathLike[str], known: Published | None = None, parameter: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder; for a published format with the mask token that it is known to have.

    Args:
        parameter: what the user calls a folder that is not the checkpoint's own.

    Raises:
        ParameterError: there is none, it is not that format's, or it has no mask token or no others.
    """
    place = Path(path)
    if known is not None and parameter is None and not holds_tokenizer(place):
        which = "the tokenizer" if known.tokenizer is None else f"the {known.tokenizer} tokenizer"
        rule = f"be given, with the folder of {which} of this {known.family} model, as its own holds none"
        raise ParameterError("tokenizer_name", rule, None)
    if parameter is not None and not holds_tokenizer(place):
        raise ParameterError(parameter, f"be a folder that holds one of {', '.join(TOKENIZER_FILES)}", str(path))
    kind = AutoTokenizer if known is None or known.tokenizer_class is None else known.tokenizer_class
    named = parameter or "checkpoint_path"
    tokenizer = read_part(kind, place, "a readable tokenizer", named, trust_remote_code=False)
    if known is not None:
        _fit_tokenizer(tokenizer, known, str(path))
    if tokenizer.mask_token_id is None:
        raise ParameterError("tokenizer", "have a mask token", str(path))
    if not writes_text(tokenizer):
        raise ParameterError("tokenizer", "have tokens besides control tokens", str(path))
    return tokenizer


def holds_tokenizer(folder: Path) -> bool:
    """Whether there is one to be read; whatever it is worth."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _fit_tokenizer(tokenizer: PreTrainedTokenizerBase, known: Published, path: str) -> None:
    """Gives the tokenizer its mask token, at the id that the model knows. Raises `ParameterError` for a wrong tokenizer."""
    mask_token_id, vocab = known.scheduler.get("mask_token_id"), tokenizer.get_vocab()
    size = max(vocab.values()) + 1
    right = known.tokenizer_size
    if right is not None and size not in (right, max(right, (mask_token_id or right) + 1)):
        rule = f"have {right} tokens, as that of a {known.family} model has"
        raise ParameterError("tokenizer", rule, f"{size} in {path}")
    if tokenizer.mask_token_id is None:
        spelt = {id: token for token, id in vocab.items()}
        places = (vocab.get(str(known.mask_token)), mask_token_id, known.mask_token)
        there = next((spelt[place] for place in places if isinstance(place, int) and place in spelt), None)
        spelling = there or str(known.mask_token)
        # Where words hold the space before them, so does what fills a mask.
        mask = spelling if there else AddedToken(spelling, lstrip=plain(tokenizer).holds_space, special=True)
        tokenizer.add_special_tokens({"mask_token": mask})
    if mask_token_id is not None and tokenizer.mask_token_id != mask_token_id:
        rule = f"have the mask token {mask_token_id} of its {known.family} model, not {tokenizer.mask_token_id}"
        raise ParameterError("tokenizer", rule, path)
