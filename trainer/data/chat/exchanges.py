"""Conversations as token sequences: a prompt that is given, an answer that is learnt, and where in each the answer begins."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from token_diffusion.errors import ParameterError
from token_diffusion.facts import Frame, control_ids
from token_diffusion.text.chat import Conversation, chat_template
from token_diffusion.text.plain import LostToken, plain

from ..reading.documents import Documents
from ..sequences import Sequences
from ..tables import TokenTable
from .conversations import Exchange, exchanges

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exchanges(Sequences):
    """Prompt and answer of each example, up to the answer's end; what fills it up to its length is not in the table.

    starts: where the answer begins, int64 [n]. end: the token that ends an answer and fills an example up. learnt: the control
    tokens of answers. ends: those of them that end one, as the template's end of a turn does. num_dropped_tokens: of examples
    that were cut off or, their prompts being too long, left out.
    """

    starts: np.ndarray
    end: int
    learnt: frozenset[int]
    ends: frozenset[int]

    def first(self, count: int | None) -> Exchanges:
        return replace(self, ids=self.ids.first(count), starts=self.starts[:count])

    @cached_property
    def fingerprint(self) -> str:
        digest = blake2b(super().fingerprint.encode(), digest_size=16)
        digest.update(self.starts.tobytes())
        return digest.hexdigest()


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """What ends an answer: EOS, else SEP. Raises `ParameterError` if there is neither."""
    for id in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if id is not None:
            return int(id)
    raise ParameterError("tokenizer_name", "be a tokenizer with an EOS or SEP token", type(tokenizer).__name__)


def tokenize_exchanges(
    tokenizer: PreTrainedTokenizerBase,
    documents: Documents,
    *,
    flag: str,
    max_length: int,
    frame: Frame,
    every_answer: bool = False,
    progress: bool = False,
) -> Exchanges:
    """The conversations' answers, each behind its prompt, in at most `max_length` tokens.

    An answer that is too long is cut off, and then has no end; one whose prompt leaves no room is left out.

    Raises:
        ParameterError: the tokenizer has no end token or, for messages, no chat template, or that does not take them; or `flag`
            names conversations of which nothing is left.
    """
    tokens, starts, ends, answers = array("i"), array("q"), array("q"), array("q")
    end, cut, left_out, dropped = end_token(tokenizer), 0, 0, 0
    learnt, ends_of_answers, control = set[int](), set[int](), control_ids(tokenizer)
    room = max_length - len(frame.prefix)
    for prompt, answer in _encoded(tokenizer, documents, flag, every_answer, progress):
        if tuple(prompt[: len(frame.prefix)]) == frame.prefix:  # some templates begin with it themselves
            prompt = prompt[len(frame.prefix) :]
        ends_of_answers.update(answer[-1:])
        answer = answer if answer[-1:] == [end] else [*answer, end]
        learnt.update(answer)
        over = len(prompt) + len(answer) - room
        if len(prompt) >= room:
            left_out, dropped = left_out + 1, dropped + len(prompt) + len(answer)
            continue
        if over > 0:
            cut, dropped, answer = cut + 1, dropped + over, answer[:-over]
        starts.append(len(tokens))
        tokens.extend([*prompt, *answer])
        ends.append(len(tokens))
        answers.append(len(frame.prefix) + len(prompt))
    if not starts:
        raise ParameterError(flag, f"hold prompts that leave room for an answer in {max_length} tokens", None)
    if dropped:
        told = "%s: %d answers are cut off at --max_length %d, and %d are left out, whose prompts fill it: %d tokens"
        logger.warning(told, flag, cut, max_length, left_out, dropped)
    stretches = np.array([starts, ends], dtype=np.int64)
    table = TokenTable(np.array(tokens, dtype=np.int32), stretches[0], stretches[1], frame.prefix)
    behind = np.array(answers, dtype=np.int64)
    return Exchanges(table, dropped, behind, end, control & learnt, control & ends_of_answers | {end})


def _encoded(
    tokenizer: PreTrainedTokenizerBase, documents: Documents, flag: str, every_answer: bool, progress: bool
) -> Iterator[tuple[list[int], list[int]]]:
    """The ids of prompts and answers, without a frame around them. Raises `ParameterError`, which names the conversation."""
    total, off = documents.survey.num_chars, None if progress else True
    with tqdm(total=total, desc="tokenise", unit="char", unit_scale=True, delay=1, disable=off) as bar:
        for number, document in enumerate(documents, start=1):
            for exchange in exchanges(document, every_answer):
                if exchange.plain is None and chat_template(tokenizer) is None:
                    rule = "be given for messages where the tokenizer has no chat template"
                    raise ParameterError("chat_template_path", rule, None)
                try:
                    yield _ids(tokenizer, exchange)
                except (ParameterError, LostToken) as error:
                    rule = f"hold conversations that can be tokenised (number {number}: {error})"
                    raise ParameterError(flag, rule, _shown(exchange)) from error
            bar.update(len(document))


def _ids(tokenizer: PreTrainedTokenizerBase, exchange: Exchange) -> tuple[list[int], list[int]]:
    if exchange.plain is None:
        *before_it, answer = exchange.messages
        conversation = Conversation(tokenizer, before_it)
        return conversation.ids(), conversation.answer_ids(answer)
    prompt, completion = exchange.plain
    before = plain(tokenizer).ids([prompt])[0] if prompt else []
    return before, plain(tokenizer).ids([completion], continuing=bool(before))[0] if completion else []


def _shown(exchange: Exchange) -> Sequence[str]:
    return [each["role"] for each in exchange.messages] if exchange.plain is None else ["prompt", "completion"]
