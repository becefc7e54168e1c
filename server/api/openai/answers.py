"""The answers of /v1, in OpenAI's shapes. What is no field of OpenAI's says so."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from ..protocol.events import FinishReason


def _is_none(value: object) -> bool:
    return value is None


class ModelCard(BaseModel):
    """A loaded checkpoint."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    object: Literal["model"] = "model"
    created: int
    """when its folder was written, in seconds since 1970"""
    owned_by: str
    max_model_len: int
    """tokens of prompt, answer and frame together at most; not OpenAI's, but vLLM's"""


class ModelList(BaseModel):
    """All loaded checkpoints, the default one first."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Usage(BaseModel):
    """Tokens of all prompts, suffixes included, and of all answers; those of the frame are not counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Answer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    object: str
    created: int
    model: str
    seed: int
    """asked with this seed again, the same model gives the same answers; not OpenAI's"""
    choices: list[Any]
    usage: Usage | None = None
    """null in a stream, but for its last chunk; absent where a stream does not tell it"""

    @model_serializer(mode="wrap")
    def _without_usage(self, write: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]  # none is the schema's
        body = write(self)
        if "usage" not in self.model_fields_set:
            del body["usage"]
        return body


class TextLogprobs(BaseModel):
    """Of the tokens of a completion, or of a piece of one: what each reads as, its log-probability, and where it begins."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    tokens: list[str]
    token_logprobs: list[float | None]
    """the model's own, unshaped, when the token was set; null where it was set by noise alone"""
    top_logprobs: None = None
    text_offset: list[int]


class TextChoice(BaseModel):
    """A completion, or the next piece of one."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(_Answer):
    """The answer of /v1/completions, and one line of its stream."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]


class TokenLogprob(BaseModel):
    """A token of an answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    token: str
    logprob: float | None
    """the model's own, unshaped, when the token was set; null where it was set by noise alone"""
    bytes: list[int]
    top_logprobs: list[Any] = []


class ChatLogprobs(BaseModel):
    """Of the tokens of an answer, or of a piece of one."""

    content: list[TokenLogprob]
    refusal: None = None


class Message(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(_Answer):
    """The answer of /v1/chat/completions."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class Delta(BaseModel):
    """What comes next."""

    role: Literal["assistant"] | None = Field(default=None, exclude_if=_is_none)
    content: str | None = Field(default=None, exclude_if=_is_none)


class ChunkChoice(BaseModel):
    """The next piece of one of the answers."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(_Answer):
    """One line of the stream of /v1/chat/completions."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChunkChoice]
