"""Text to token ids with open positions, and tokens back to text."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from .errors import ParameterError

OPEN = -1
"""Marks a position that the sampler fills in."""

MASK_TEXT = "[MASK]"
"""A hole in a template, whatever the tokenizer calls its mask token."""


def encode(
    tokenizer: PreTrainedTokenizerBase,
    *,
    seq_len: int | None,
    prompt: str | None = None,
    template: str | None = None,
    inject_start_token: bool = False,
    max_tokens: int | None = None,
) -> list[int]:
    """Token ids [seq_len], `OPEN` where the sampler fills in.

    Args:
        seq_len: tokens in all; None is the length of the template.
        prompt: a fixed prefix. Special tokens typed in it, `[MASK]` too, are ordinary text.
        template: text whose `[MASK]` holes are one open position each, all else fixed; positions beyond it are open.
        inject_start_token: begin with the tokenizer's [CLS] or BOS token, fixed.
        max_tokens: bound of the template's length where seq_len is None; only its holes are held against it here.

    Raises:
        ParameterError: the text does not fit `seq_len`, or prompt and template are both given.
    """
    if prompt is not None and template is not None:
        raise ParameterError("template", "be absent where prompt is given", template)
    name, text = ("prompt", prompt) if template is None else ("template", template)
    if text is not None and any("\ud800" <= character <= "\udfff" for character in text):
        raise ParameterError(name, "be valid Unicode, without lone surrogates", text)
    tokens = _plain(tokenizer, prompt) if prompt else []
    if template is not None:
        most = max_tokens if seq_len is None else seq_len
        if most is not None and (holes := template.count(MASK_TEXT)) > most:
            rule = f"fit into {'' if seq_len is None else 'seq_len = '}{most} tokens"
            raise ParameterError("template", rule, f"{holes} holes")
        tokens = _with_holes(tokenizer, template)
    if inject_start_token:
        tokens = [_start_token(tokenizer), *tokens]
    if seq_len is None:
        if not tokens:
            raise ParameterError(name, "hold at least one token where seq_len is not given", text)
        return tokens
    if len(tokens) > seq_len:
        raise ParameterError(name, f"fit into seq_len = {seq_len} tokens", f"{len(tokens)} tokens")
    return tokens + [OPEN] * (seq_len - len(tokens))


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Iterable[int], *, keep_masks: bool = False) -> str:
    """Text without special tokens; `keep_masks` shows the masks of an unfinished state."""
    hidden = set(tokenizer.all_special_ids) - ({tokenizer.mask_token_id} if keep_masks else set())
    return str(tokenizer.decode([token for token in token_ids if token not in hidden]))


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text in which nothing is special."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _with_holes(tokenizer: PreTrainedTokenizerBase, template: str) -> list[int]:
    """Ids with OPEN at each `[MASK]`; the pieces between are tokenised on their own.

    Where words hold the space before them (byte-level tokenizers), a hole does too, if the mask token says so (`lstrip`).
    """
    takes_space = tokenizer.added_tokens_decoder[tokenizer.mask_token_id].lstrip
    *pieces, last = template.split(MASK_TEXT)
    tokens = []
    for piece in pieces:
        text = piece.removesuffix(" ") if takes_space else piece
        tokens += [*(_plain(tokenizer, text) if text else ()), OPEN]
    return tokens + _plain(tokenizer, last)


def _start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if token is not None:
            return token
    raise ParameterError("inject_start_token", "be off for a tokenizer without CLS and BOS token", True)
