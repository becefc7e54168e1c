"""A conversation as a model's chat template writes it: the template's control tokens are real, those that one types are text."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import ParameterError, in_short
from .plain import plain
from .template import RENDERER, TemplateError

RULE = "be a list of messages, each with a role and a content, and text in all its fields"


class Conversation:
    """`messages` up to where the next one is the model's to say.

    Args:
        messages: each with `role` and `content`, and whatever else the template reads; a developer is a system by another name.

    text: what the template writes.

    Raises:
        ParameterError: they are no such list, there is no template, or it does not take them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> None:
        check_messages(messages)
        template = chat_template(tokenizer)
        if template is None:
            raise ParameterError(
                "messages", f"be sent to a model with a chat template{_others(tokenizer)}", _shown(messages)
            )
        self._tokenizer, self._way = tokenizer, plain(tokenizer)
        self._names = {str(tokenizer.convert_ids_to_tokens(id)): id for id in self._way.control}
        self._control = _any_of(sorted(self._names, key=len, reverse=True))
        # What people typed is told apart by marks that nobody can type: noncharacters of Unicode around a number drawn now.
        number = secrets.randbelow(10**18)
        self._marks_of = {name: f"\uffff{number}-{id}\uffff" for name, id in self._names.items()}
        self._typed = {mark: name for name, mark in self._marks_of.items()}
        self._marks = _any_of(self._typed)
        self._template, self._messages = template, messages
        self._rendered = self._render(messages, add_generation_prompt=True)

    @property
    def text(self) -> str:
        return self._as_typed(self._rendered)

    def ids(self) -> list[int]:
        """Its token ids. Raises `LostToken` for a control token that is typed, and that the tokenizer cannot write as text."""
        return self._ids(self._rendered)

    def answer_ids(self, message: Mapping[str, str]) -> list[int]:
        """Those of the message that comes next, as a model is to say it: behind `ids`, and to the control token that ends it.

        What the template writes behind that, such as white space or the next turn's beginning, is nobody's to say.

        Raises:
            ParameterError: the template does not take it, or writes it otherwise than behind the others.
            LostToken: as `ids` does.
        """
        messages = [*self._messages, message]
        check_messages(messages)
        whole = self._render(messages, add_generation_prompt=False)
        answer = whole.removeprefix(self._rendered)
        said = self._marked(message["content"]).strip()
        if not whole.startswith(self._rendered) or (said and not answer.strip()):
            rule = "be written by the chat template so that an answer follows what stands there before it is given"
            raise ParameterError("messages", rule, _shown(messages))
        end = self._control.search(answer, max(answer.find(said), 0) + len(said))
        return self._ids(answer if end is None else answer[: end.end()], continuing=bool(self._rendered))

    def _marked(self, text: str) -> str:
        """With marks for the control tokens that are typed in it."""
        return self._control.sub(lambda match: self._marks_of[match[0]], text)

    def _render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """As the template writes them, with marks for what people typed of control tokens."""
        marked = [
            {key: self._marked(text) for key, text in message.items()}
            | ({"role": "system"} if message["role"] == "developer" else {})
            for message in messages
        ]
        names = self._tokenizer.special_tokens_map
        try:
            return RENDERER.render(self._template, marked, names, add_generation_prompt=add_generation_prompt)
        except TemplateError as error:
            rule = f"be what the model's chat template takes ({in_short(error)})"
            raise ParameterError("messages", rule, _shown(messages)) from None

    def _ids(self, rendered: str, *, continuing: bool = False) -> list[int]:
        added = self._tokenizer.added_tokens_decoder
        pieces = re.split(f"({self._control.pattern})", rendered)
        tokens: list[int] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                tokens.append(self._names[piece])
                continue
            before, after = (self._names.get(each) for each in (pieces[index - 1], pieces[(index + 1) % len(pieces)]))
            if index and before in added and added[before].rstrip:
                piece = piece.lstrip()
            if index + 1 < len(pieces) and after in added and added[after].lstrip:
                piece = piece.rstrip()
            if text := self._as_typed(piece):
                tokens += self._way.ids([text], continuing=continuing or bool(tokens), lossless=True)[0]
        return tokens

    def _as_typed(self, text: str) -> str:
        return self._marks.sub(lambda match: self._typed[match[0]], text)


def chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template that conversations are written by, of several the one called default; None where there is none."""
    found = tokenizer.chat_template
    return (found.get("default") if isinstance(found, dict) else found) or None


def read_messages(given: str | None) -> Any:
    """A conversation that is given as JSON, or in a file; not looked into. Raises `ParameterError` for what is neither."""
    if given is None:
        return None
    try:
        is_json = given.lstrip().startswith(("[", "{"))
        return json.loads(given if is_json else Path(given).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or in_short(error)
        rule = f"be a list of messages in JSON, or a file that holds one ({reason})"
        raise ParameterError("messages", rule, given) from None


def check_messages(messages: object) -> None:
    """Raises `ParameterError` for what is no conversation."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ParameterError("messages", RULE, messages)
    if not messages:
        raise ParameterError("messages", "hold at least one message", messages)
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise ParameterError("messages", RULE, message)
        if not all(isinstance(text, str) for text in message.values()):
            raise ParameterError("messages", RULE, message)


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Finds the first of these that fits; nothing where there are none."""
    return re.compile("|".join(map(re.escape, names)) or "(?!)")


def _others(tokenizer: PreTrainedTokenizerBase) -> str:
    """The templates that there are, though none of them is the default one."""
    names = tokenizer.chat_template
    return f" called default, which has {', '.join(sorted(names))} alone" if isinstance(names, dict) and names else ""


def _shown(messages: Sequence[Mapping[str, str]], most: int = 8) -> list[str]:
    """Who speaks in them."""
    return [*(message["role"] for message in messages[:most]), *["…"] * (len(messages) > most)]
