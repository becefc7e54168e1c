"""Answers that are no events, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx2

from .events import Timings
from .parsing import convert, load_object


@dataclass(frozen=True)
class Score:
    """An upper bound on -log p of one text, given the prefix, and the standard error of its estimate.

    An error is None for num_times 1; any other number is None where it is infinite, as the model gives the text no
    probability at all. `num_tokens` are scored; `num_unknown` stand for what the tokenizer does not know, and are given.
    `tokens`, `token_nats` (None for one that is given) and `token_nats_error` are of the text, without prefix and frame.
    """

    index: int
    nats: float | None
    nats_error: float | None
    bits: float | None
    bits_error: float | None
    nats_per_token: float | None
    bits_per_token: float | None
    num_tokens: int
    tokens: list[int]
    token_nats: list[float | None]
    token_nats_error: list[float | None] | None = None
    num_unknown: int = 0


@dataclass(frozen=True)
class ScoreUsage:
    """What the scores cost."""

    prompt_tokens: int
    completion_tokens: int
    nfe: int


@dataclass(frozen=True)
class Scores:
    """The scores of several texts; `ranking` has their indices, the likeliest first, which is the one of the least nats."""

    id: str
    model: str
    seed: int
    num_times: int
    estimator: str
    scores: list[Score]
    ranking: list[int]
    usage: ScoreUsage
    timings: Timings


@dataclass(frozen=True)
class Tokenized:
    """The token ids of a text, and how each of them reads; `max_model_len` is None where there is no bound."""

    model: str
    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str]


@dataclass(frozen=True)
class Detokenized:
    """The text of token ids."""

    model: str
    prompt: str


@dataclass(frozen=True)
class Frame:
    """Token ids that a checkpoint puts around every text."""

    prefix: list[int]
    suffix: list[int]


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint, of which the server says more."""

    name: str
    process: str = ""
    frame: Frame | None = None


@dataclass(frozen=True)
class Models:
    """The loaded checkpoints, the default one first."""

    models: list[Model]


@dataclass(frozen=True)
class Vocabulary:
    """What the tokens of a checkpoint look like, each by itself: `pieces[token_id]`."""

    model: str
    vocab_size: int
    mask_token_id: int
    special_token_ids: list[int]
    pieces: list[str]


@dataclass(frozen=True)
class TextLogprobs:
    """Of the tokens of a completion, or of a chunk of it: how each reads, its log-probability, None where the network gave
    none, and where it begins in the text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    text_offset: list[int]


@dataclass(frozen=True)
class CompletionChoice:
    """One text of a completion, or what a chunk has of it; `logprobs` if they were asked for."""

    index: int
    text: str
    finish_reason: str | None = None
    logprobs: TextLogprobs | None = None


@dataclass(frozen=True)
class CompletionUsage:
    """Tokens of a completion, summed over its choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True)
class Completion:
    """OpenAI's object of that name; a stream is of many, each with what its choices have more."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None
    seed: int | None = None
    """gives the same texts again; other servers do not tell it"""


@dataclass(frozen=True)
class ChatMessage:
    """What the model says."""

    role: str
    content: str


@dataclass(frozen=True)
class TokenLogprob:
    """How a token of an answer reads, and its log-probability, None where the network gave none."""

    token: str
    logprob: float | None


@dataclass(frozen=True)
class ChatLogprobs:
    """Of the tokens of an answer, or of a chunk of it."""

    content: list[TokenLogprob]


@dataclass(frozen=True)
class ChatChoice:
    """One answer in a chat; `logprobs` if they were asked for."""

    index: int
    message: ChatMessage
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None


@dataclass(frozen=True)
class Chat:
    """OpenAI's `chat.completion`: what the model says next."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage | None = None
    seed: int | None = None


@dataclass(frozen=True)
class ChatDelta:
    """What a chunk has of an answer: its role in the first one, then text."""

    role: str | None = None
    content: str | None = None


@dataclass(frozen=True)
class ChatChunkChoice:
    """One answer in a chunk."""

    index: int
    delta: ChatDelta
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None


@dataclass(frozen=True)
class ChatChunk:
    """OpenAI's `chat.completion.chunk`."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: CompletionUsage | None = None
    seed: int | None = None


def read(response: httpx2.Response, kind: Any, where: str) -> Any:
    """The body of `response` as a dataclass, or as the `dict` that it is. Raises InvalidEvent, which calls it `where`."""
    value = load_object(where, response.text)
    return value if kind is dict else convert(value, kind, where)
