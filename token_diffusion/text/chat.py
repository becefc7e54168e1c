"""A conversation to token ids, by the tokenizer's chat template: its control tokens are real, those that one types are text."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from ..errors import ParameterError, in_short
from ..plain import plain
from .encoding import plain_ids

Message = Mapping[str, str]


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, max_tokens: int | None = None
) -> list[int]:
    """Token ids of `messages`, up to where the next one is the model's to say.

    Args:
        messages: each with `role` and `content`, and whatever else the template reads.
        max_tokens: refuse, before it is tokenised, what cannot be so few.

    Raises:
        ParameterError: there is no template, it does not take these messages, or they are too long, or spell a control token that
            the tokenizer cannot write as text.
    """
    template = ChatTemplate(tokenizer)
    rendered = template.render(messages, is_prompt=True)
    way = plain(tokenizer)
    if max_tokens is not None and way.exceeds(rendered, max_tokens):
        rule = f"fit into {max_tokens} tokens, each of at most {way.reach} characters"
        raise ParameterError("messages", rule, f"{len(rendered)} characters")
    return template.ids(rendered)


class ChatTemplate:
    """Renders messages with marks, which nobody can type, for what people typed of control tokens; tokenises what comes of it.

    Its methods raise `ParameterError` as `encode_chat` does.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.names = {str(tokenizer.convert_ids_to_tokens(id)): id for id in plain(tokenizer).control}
        # Noncharacters of Unicode around a number drawn now.
        self.marks = {name: f"\uffff{secrets.token_hex(8)}{id}\uffff" for name, id in self.names.items()}
        self.typed = {mark: name for name, mark in self.marks.items()}
        longest_first = sorted(self.names, key=len, reverse=True)
        self.control = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self.marked = re.compile("|".join(map(re.escape, self.typed)))

    def exchange(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Ids of all messages but the last, as `encode_chat` has them, and of the last: what a model is to say behind those.

        The answer ends with the control token that the template puts behind a message, where it puts one.

        Raises:
            ParameterError: also if the template renders the last message otherwise than behind the others.
        """
        prompt = self.render(messages[:-1], is_prompt=True)
        whole = self.render(messages, is_prompt=False)
        if not whole.startswith(prompt):
            rule = "be rendered by the chat template so that an answer follows what is there before it is given"
            raise ParameterError("messages", rule, _roles(messages))
        before = self.ids(prompt)
        return before, self.ids(self._to_its_end(whole[len(prompt) :]), continuing=bool(before))

    def render(self, messages: Sequence[Message], *, is_prompt: bool) -> str:
        """The text, marks in it; of a prompt up to where an answer begins."""
        if not self.tokenizer.chat_template:
            raise ParameterError("messages", "be sent to a model with a chat template", _roles(messages))
        marked = [
            {key: self.control.sub(lambda match: self.marks[match[0]], text) for key, text in message.items()}
            for message in messages
        ]
        try:
            return str(self.tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=is_prompt))
        except Exception as error:  # a template raises what it likes, of its own will or by mistake
            rule = f"be what the model's chat template takes ({in_short(error)})"
            raise ParameterError("messages", rule, _roles(messages)) from None

    def _to_its_end(self, answer: str) -> str:
        """Without the white space that the template puts behind the last control token."""
        *before, last = self.control.split(answer)
        return "".join(before) if before and not last.strip() else answer

    def ids(self, rendered: str, *, continuing: bool = False) -> list[int]:
        """The ids of rendered messages: the template's control tokens are themselves, marks the text that they stand for."""
        added, pieces = self.tokenizer.added_tokens_decoder, self.control.split(rendered)
        tokens: list[int] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                tokens.append(self.names[piece])
                continue
            before, after = (self.names.get(each) for each in (pieces[index - 1], pieces[(index + 1) % len(pieces)]))
            if index and before in added and added[before].rstrip:
                piece = piece.lstrip()
            if index + 1 < len(pieces) and after in added and added[after].lstrip:
                piece = piece.rstrip()
            text = self.marked.sub(lambda match: self.typed[match[0]], piece)
            tokens += plain_ids(self.tokenizer, "messages", text, None, continuing=continuing or bool(tokens))
        return tokens


def _roles(messages: Sequence[Message]) -> list[str]:
    return [each["role"] for each in messages]
