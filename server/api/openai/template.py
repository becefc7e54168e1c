"""A conversation to token ids, by the tokenizer's chat template: its control tokens are real, those that one types are text."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from token_diffusion.errors import ParameterError, in_short
from token_diffusion.plain import plain
from token_diffusion.text import plain_ids


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], *, max_tokens: int | None = None
) -> list[int]:
    """Token ids of `messages`, up to where the next one is the model's to say.

    Args:
        messages: each with `role` and `content`, and whatever else the template reads.
        max_tokens: refuse, before it is tokenised, what cannot be so few.

    Raises:
        ParameterError: there is no template, it does not take these messages, or they are too long, or spell a control token that
            the tokenizer cannot write as text.
    """
    if not tokenizer.chat_template:
        raise ParameterError(
            "messages", "be sent to a model with a chat template", [each["role"] for each in messages]
        )
    way = plain(tokenizer)
    names = {str(tokenizer.convert_ids_to_tokens(id)): id for id in way.control}
    # What people typed is told apart by marks that nobody can type: noncharacters of Unicode around a number drawn now.
    marks = {name: f"\uffff{secrets.token_hex(8)}{id}\uffff" for name, id in names.items()}
    typed = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    marked = [
        {key: typed.sub(lambda match: marks[match[0]], text) for key, text in message.items()} for message in messages
    ]
    try:
        rendered = str(tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template raises what it likes, of its own will or by mistake
        rule = f"be what the model's chat template takes ({in_short(error)})"
        raise ParameterError("messages", rule, [each["role"] for each in messages]) from None
    if max_tokens is not None and way.exceeds(rendered, max_tokens):
        rule = f"fit into {max_tokens} tokens, each of at most {way.reach} characters"
        raise ParameterError("messages", rule, f"{len(rendered)} characters")
    return _ids(tokenizer, rendered, names, typed, {mark: name for name, mark in marks.items()})


def _ids(
    tokenizer: PreTrainedTokenizerBase,
    rendered: str,
    names: Mapping[str, int],
    control: re.Pattern[str],
    typed: Mapping[str, str],
) -> list[int]:
    """The ids of rendered messages, in which `control` finds the template's tokens, and `typed` is what each mark stands for."""
    marks = re.compile("|".join(map(re.escape, typed)))
    added = tokenizer.added_tokens_decoder
    pieces = re.split(f"({control.pattern})", rendered)
    tokens: list[int] = []
    for index, piece in enumerate(pieces):
        if index % 2:
            tokens.append(names[piece])
            continue
        before, after = (names.get(each) for each in (pieces[index - 1], pieces[(index + 1) % len(pieces)]))
        if index and before in added and added[before].rstrip:
            piece = piece.lstrip()
        if index + 1 < len(pieces) and after in added and added[after].lstrip:
            piece = piece.rstrip()
        text = marks.sub(lambda match: typed[match[0]], piece)
        tokens += plain_ids(tokenizer, "messages", text, None, continuing=bool(tokens))
    return tokens
