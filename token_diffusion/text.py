"""Text to token ids with open positions, and tokens back to text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from .errors import ParameterError
from .facts import UNKNOWN, Frame
from .plain import LostToken, plain

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
    frame: Frame = UNKNOWN.frame,
) -> list[int]:
    """Token ids [seq_len], `OPEN` where the sampler fills in.

    Args:
        seq_len: tokens in all, the frame's too; None is the length of the template in its frame.
        prompt: a fixed prefix. Control tokens typed in it, `[MASK]` too, are ordinary text.
        template: text whose `[MASK]` holes are one open position each, all else fixed; positions beyond it are open.
        inject_start_token: begin with the tokenizer's [CLS] or BOS token, fixed; without effect where the frame begins with one.
        max_tokens: bound of the template's length where seq_len is None; only its holes are held against it here.
        frame: control tokens around the text, fixed.

    Raises:
        ParameterError: the text does not fit `seq_len`, it spells a control token that the tokenizer cannot write as text, or
            prompt and template are both given.
    """
    if prompt is not None and template is not None:
        raise ParameterError("template", "be absent where prompt is given", template)
    name, text = ("prompt", prompt) if template is None else ("template", template)
    if text is not None and has_surrogates(text):
        raise ParameterError(name, "be valid Unicode, without lone surrogates", text)
    room = None if seq_len is None else _room(seq_len, frame)
    most = room if seq_len is not None or max_tokens is None else max_tokens - len(frame)
    if template is not None and most is not None and (holes := template.count(MASK_TEXT)) > most:
        raise ParameterError("template", _fits(seq_len, max_tokens, frame), f"{holes} holes")
    if text is not None and most is not None and (way := plain(tokenizer)).exceeds(text, most):
        rule = f"{_fits(seq_len, max_tokens, frame)}, each of at most {way.reach} characters"
        raise ParameterError(name, rule, f"{len(text)} characters")
    try:
        tokens = _with_holes(tokenizer, template) if template is not None else _plain(tokenizer, prompt or "")
    except LostToken as error:
        rule = f"hold no {error.name!r}, which the tokenizer knows as a control token and cannot write as text"
        raise ParameterError(name, rule, text) from None
    if inject_start_token and not frame.prefix:
        tokens = [_start_token(tokenizer), *tokens]
    if room is None:
        if not tokens:
            raise ParameterError(name, "hold at least one token where seq_len is not given", text)
        return frame.around(tokens)
    if len(tokens) > room:
        raise ParameterError(name, _fits(seq_len, max_tokens, frame), f"{len(tokens)} tokens")
    return frame.around(tokens + [OPEN] * (room - len(tokens)))


@dataclass(frozen=True)
class Passage:
    """A text whole, as it is scored: the sequence's `tokens`, of which `given` positions are neither noised nor counted.

    start, end: where the text itself lies, after frame and prefix. num_unknown: its tokens that stand for something that the
    tokenizer does not know; they are given.
    """

    tokens: list[int]
    given: tuple[int, ...]
    start: int
    end: int
    num_unknown: int


def encode_passage(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    prefix: str | None = None,
    max_tokens: int | None = None,
    frame: Frame = UNKNOWN.frame,
    name: str = "text",
) -> Passage:
    """A text to be scored, after a prefix if there is one; frame, prefix and unknown tokens are given, as in training.

    The ids are those of the prefix and then those of the text, each tokenised in its place: where the two meet no token holds
    parts of both, and the text begins with a space only if it is written there.

    Args:
        max_tokens: bound of the sequence's length. name: of the text, for errors.

    Raises:
        ParameterError: there is no known token in the text, it does not fit, it is no Unicode, or it spells a control token that
            the tokenizer cannot write as text; or the prefix is so.
    """
    parts: list[list[int]] = []
    room = None if max_tokens is None else max_tokens - len(frame)
    for of, part in (("prefix", prefix or ""), (name, text)):
        if has_surrogates(part):
            raise ParameterError(of, "be valid Unicode, without lone surrogates", part)
        if room is not None and (way := plain(tokenizer)).exceeds(part, room):
            rule = f"{_within(max_tokens, frame)}, each of at most {way.reach} characters"
            raise ParameterError(of, rule, f"{len(part)} characters")
        try:
            parts.append(_plain(tokenizer, part, continuing=any(parts)))
        except LostToken as error:
            rule = f"hold no {error.name!r}, which the tokenizer knows as a control token and cannot write as text"
            raise ParameterError(of, rule, part) from None
    before, ids = parts
    if not ids:
        raise ParameterError(name, "hold at least one token", text)
    if room is not None and len(before) + len(ids) > room:
        most = _within(max_tokens, frame) + (", the prefix before it" if before else "")
        raise ParameterError(name, most, f"{len(before) + len(ids)} tokens")
    tokens, start = frame.around(before + ids), len(frame.prefix) + len(before)
    end, special = start + len(ids), set(tokenizer.all_special_ids)
    given = [position for position, id in enumerate(tokens) if not start <= position < end or id in special]
    unknown = len(given) - (len(tokens) - len(ids))
    if unknown == len(ids):
        raise ParameterError(name, "hold at least one token that the tokenizer knows", text)
    return Passage(tokens, tuple(given), start, end, unknown)


def has_surrogates(text: str) -> bool:
    """Whether `text` holds half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Iterable[int], *, keep_masks: bool = False) -> str:
    """Text without special tokens; `keep_masks` shows the masks of an unfinished state."""
    hidden = set(tokenizer.all_special_ids) - ({tokenizer.mask_token_id} if keep_masks else set())
    return str(tokenizer.decode([token for token in token_ids if token not in hidden]))


def _room(seq_len: int, frame: Frame) -> int:
    """Tokens that the frame leaves for text."""
    if seq_len <= len(frame):
        raise ParameterError("seq_len", f"be more than {len(frame)}, the control tokens of the frame", seq_len)
    return seq_len - len(frame)


def _fits(seq_len: int | None, max_tokens: int | None, frame: Frame) -> str:
    return _within(max_tokens if seq_len is None else f"seq_len = {seq_len}", frame)


def _within(most: int | str | None, frame: Frame) -> str:
    return f"fit into {most} tokens" + (f", {len(frame)} of which are the frame's" if frame else "")


def _plain(tokenizer: PreTrainedTokenizerBase, text: str, *, continuing: bool = False) -> list[int]:
    """Ids of text in which nothing is special."""
    return plain(tokenizer).ids([text], continuing=continuing, lossless=True)[0] if text else []


def _with_holes(tokenizer: PreTrainedTokenizerBase, template: str) -> list[int]:
    """Ids with OPEN at each `[MASK]`; the pieces between are tokenised on their own, without a space that is not there.

    Where words hold the space before them (byte-level tokenizers), a hole does too, if the mask token says so (`lstrip`).
    """
    takes_space = tokenizer.added_tokens_decoder[tokenizer.mask_token_id].lstrip
    *pieces, last = template.split(MASK_TEXT)
    tokens: list[int] = []
    for piece in pieces:
        text = piece.removesuffix(" ") if takes_space else piece
        tokens += [*_plain(tokenizer, text, continuing=bool(tokens)), OPEN]
    return tokens + _plain(tokenizer, last, continuing=bool(tokens))


def _start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if token is not None:
            return token
    raise ParameterError("inject_start_token", "be off for a tokenizer without CLS and BOS token", True)
