"""Text to token ids with open positions, and tokens back to text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import ParameterError
from ..facts import UNKNOWN, Frame
from .chat import Conversation
from .plain import LostToken, hidden_ids, plain

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
    prompt_ids: Sequence[int] | None = None,
    template_ids: Sequence[int] | None = None,
    messages: Sequence[Mapping[str, str]] | None = None,
    vocab_size: int | None = None,
    inject_start_token: bool = False,
    max_tokens: int | None = None,
    frame: Frame = UNKNOWN.frame,
) -> list[int]:
    """Token ids [seq_len], `OPEN` where the sampler fills in.

    Args:
        seq_len: tokens in all, the frame's too; None is the length of the template in its frame.
        prompt: a fixed prefix. Control tokens typed in it, `[MASK]` too, are ordinary text.
        template: text whose `[MASK]` holes are one open position each, all else fixed; positions beyond it are open.
        prompt_ids, template_ids: the same as ids, which stand for themselves, control tokens' too: what no sample may hold may
            still be given. The mask's id is a hole of a template, and none of a prompt's. The frame is put around them as well.
        messages: a prompt that the tokenizer's chat template writes: a conversation, as `Conversation` takes it.
        vocab_size: which ids there are; those of the tokenizer by default.
        inject_start_token: begin with the tokenizer's [CLS] or BOS token, fixed; without effect where the frame begins with one,
            and before messages, which begin as their template does.
        max_tokens: bound of the template's length where seq_len is None; only its holes are held against it here.
        frame: control tokens around the text, fixed.

    Raises:
        ParameterError: the text does not fit `seq_len`, it spells a control token that the tokenizer cannot write as text, or
            more than one of prompt, template, their ids and messages is given, an id is none of the vocabulary, or there is no
            chat template for the messages.
    """
    ids = {"prompt_ids": prompt_ids, "template_ids": template_ids}
    name, text = _only({"prompt": prompt, "template": template, **ids, "messages": messages})
    room = None if seq_len is None else _room(seq_len, frame)
    most = room if seq_len is not None or max_tokens is None else max_tokens - len(frame)
    if template is not None and most is not None and (holes := template.count(MASK_TEXT)) > most:
        raise ParameterError("template", _fits(seq_len, max_tokens, frame), f"{holes} holes")
    if messages is not None:
        tokens = chat_ids(tokenizer, messages, most, frame=frame, fits=_fits(seq_len, max_tokens, frame))
    elif text is not None and not isinstance(text, str):
        tokens = _given(tokenizer, name, text, vocab_size)
    else:
        with _readable(tokenizer, name, text or "", most, _fits(seq_len, max_tokens, frame)):
            tokens = _with_holes(tokenizer, template) if template is not None else _plain(tokenizer, prompt or "")
    if inject_start_token and not frame.prefix and messages is None:
        tokens = [_start_token(tokenizer), *tokens]
    if room is None:
        if not tokens:
            raise ParameterError(name, "hold at least one token where seq_len is not given", text)
        return frame.around(tokens)
    if len(tokens) > room:
        raise ParameterError(name, _fits(seq_len, max_tokens, frame), f"{len(tokens)} tokens")
    return frame.around(tokens + [OPEN] * (room - len(tokens)))


def plain_ids(
    tokenizer: PreTrainedTokenizerBase, name: str, text: str, max_tokens: int | None, *, continuing: bool = False
) -> list[int]:
    """Ids of the text called `name`, without a frame; it may have more than `max_tokens`, but not so long that it must have.

    Args:
        continuing: it goes on after something, so no space is put before it.

    Raises:
        ParameterError: it has, is no Unicode, or spells a control token that the tokenizer cannot write as text.
    """
    with _readable(tokenizer, name, text, max_tokens, f"fit into {max_tokens} tokens"):
        return _plain(tokenizer, text, continuing=continuing)


def chat_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    max_tokens: int | None,
    *,
    frame: Frame = UNKNOWN.frame,
    fits: str | None = None,
) -> list[int]:
    """Ids of a conversation up to where the next message is the model's to say, without the frame, though the template may begin
    with it itself; they may be more than `max_tokens`, but not so much text that they must be.

    Args:
        fits: the rule that too much text breaks.

    Raises:
        ParameterError: it is too much text, no Unicode, or none that the chat template takes; it spells a control token that the
            tokenizer cannot write as text; or there is no such template.
    """
    conversation = Conversation(tokenizer, messages)
    with _readable(tokenizer, "messages", conversation.text, max_tokens, fits or f"fit into {max_tokens} tokens"):
        ids = conversation.ids()
    if tokenizer.mask_token_id in ids:
        rule = "be written by the chat template without the mask token, which stands for what is drawn"
        raise ParameterError("messages", rule, str(tokenizer.mask_token))
    count = len(frame.prefix)
    return ids[count:] if tuple(ids[:count]) == frame.prefix else ids


def check_ids(name: str, ids: Sequence[int], vocab_size: int) -> None:
    """Raises `ParameterError` for what is no id of the vocabulary."""
    for id in ids:
        if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < vocab_size:
            raise ParameterError(name, f"hold token ids in [0, {vocab_size})", id)


@contextmanager
def _readable(
    tokenizer: PreTrainedTokenizerBase, name: str, text: str, max_tokens: int | None, fits: str
) -> Iterator[None]:
    """In here `text` may be tokenised: it is found out first, by its characters alone, whether it can be and is short enough.

    Raises:
        ParameterError: of `name`, for what is no Unicode, what cannot be `max_tokens` (the rule `fits`), and in here for a
            control token that the tokenizer cannot write as text.
    """
    if has_surrogates(text):
        raise ParameterError(name, "be valid Unicode, without lone surrogates", text)
    if max_tokens is not None and (way := plain(tokenizer)).exceeds(text, max_tokens):
        raise ParameterError(name, f"{fits}, each of at most {way.reach} characters", f"{len(text)} characters")
    try:
        yield
    except LostToken as error:
        rule = f"hold no {error.name!r}, which the tokenizer knows as a control token and cannot write as text"
        raise ParameterError(name, rule, text) from None


def has_surrogates(text: str) -> bool:
    """Whether `text` holds half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def decode(
    tokenizer: PreTrainedTokenizerBase, token_ids: Iterable[int], *, keep_masks: bool = False, start: int = 0
) -> str:
    """Text without special tokens; `keep_masks` shows the masks of an unfinished state.

    Args:
        start: of the token with which the text begins, which goes on after those before it.
    """
    hidden = hidden_ids(tokenizer) - ({tokenizer.mask_token_id} if keep_masks else set())
    ids = list(token_ids)
    before, text = (str(tokenizer.decode([id for id in part if id not in hidden])) for part in (ids[:start], ids))
    return text[common(before, text) :] if start else text


def common(one: str, other: str) -> int:
    """Characters that both begin with."""
    differing = (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def _only(given: dict[str, Any]) -> tuple[str, Any]:
    """The one that is not None, or else the first. Raises `ParameterError` if there are two."""
    first, *others = [each for each in given.items() if each[1] is not None] or given.items()
    if first[1] is not None and others:
        raise ParameterError(others[0][0], f"be absent where {first[0]} is given", others[0][1])
    return first


def _room(seq_len: int, frame: Frame) -> int:
    """Tokens that the frame leaves for text."""
    if seq_len <= len(frame):
        raise ParameterError("seq_len", f"be more than {len(frame)}, the control tokens of the frame", seq_len)
    return seq_len - len(frame)


def _fits(seq_len: int | None, max_tokens: int | None, frame: Frame) -> str:
    less = f", {len(frame)} of which are the frame's" if frame else ""
    return f"fit into {f'{max_tokens}' if seq_len is None else f'seq_len = {seq_len}'} tokens{less}"


def _plain(tokenizer: PreTrainedTokenizerBase, text: str, *, continuing: bool = False) -> list[int]:
    """Ids of text in which nothing is special."""
    return plain(tokenizer).ids([text], continuing=continuing, lossless=True)[0] if text else []


def _given(
    tokenizer: PreTrainedTokenizerBase, name: str, ids: Sequence[int], vocab_size: int | None = None
) -> list[int]:
    """Ids that were given as such, OPEN where a template has the mask's."""
    check_ids(name, ids, len(tokenizer) if vocab_size is None else vocab_size)
    if name == "prompt_ids" and tokenizer.mask_token_id in ids:
        raise ParameterError(name, "hold no mask token, as template_ids may", tokenizer.mask_token_id)
    return [OPEN if id == tokenizer.mask_token_id else id for id in ids]


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
