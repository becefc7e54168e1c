"""The requests of /v1, in OpenAI's shapes: their own fields, and those that any request of ours has.

A field of OpenAI's, or of the servers that follow it, which means nothing here is taken where it asks for nothing, and refused by
name else. null is the same as absent, but where null says something of its own.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from ..protocol.requests import PromptMessage, SamplingFields
from ..protocol.values import LARGEST, Count, Stop, Text, Whole, bounds
from .values import Only, TopK, no_nulls, nullable, prompts

BLOCK_SIZE = 16
"""Tokens of a block: how much of an answer comes at a time, and about how much of it is thought of together."""

COMPLETION_TOKENS, CHAT_TOKENS = 16, 128
"""Of an answer, where the request does not say; the first is OpenAI's."""

NULL_SAYS = frozenset({"num_inference_steps", "block_size"})

Prompts = Annotated[
    list[str | list[int]],
    PlainValidator(prompts, json_schema_input_type=str | list[str] | list[Whole] | list[list[Whole]]),
]


class StreamOptions(BaseModel):
    """What a stream tells besides text."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, json_schema_extra=nullable)

    include_usage: bool = False
    """a last chunk says how many tokens there were"""
    continuous_usage_stats: bool = False
    """every chunk says how many there are so far"""
    include_obfuscation: bool = False
    """without effect"""

    _nulls = model_validator(mode="before")(no_nulls(frozenset()))


class OpenAIRequest(SamplingFields):
    """What completions and chats have in common."""

    model_config = ConfigDict(json_schema_extra=nullable)

    n: Count = 1
    """answers to each prompt; answer i of a seed is the same however many are drawn beside it"""
    num_inference_steps: Count | None = None
    """steps of the time grid, for each block; absent: as many as it has tokens; null: the continuous-time limit"""
    block_size: Annotated[Whole, bounds(minimum=1, maximum=LARGEST)] | None = BLOCK_SIZE
    """tokens of a block: blocks are filled from left to right, and streamed as they are; null: everywhere at once; a block-causal
    model has its own, which is its default and takes no other"""
    top_k: TopK = 0
    """most probable tokens kept; 0 keeps all, and so does -1, as other servers have it"""
    stop: Stop | None = None
    """an answer ends before the first of these strings in it; what is given does not count"""
    stream: bool = False
    """server-sent events, each with text that nothing will change any more"""
    stream_options: StreamOptions = StreamOptions()
    diffusing: bool = False
    """with stream: each chunk has an answer's whole text as it is now, masks shown, in place of what came before"""
    ignore_eos: bool = False
    """an end token does not end the text"""
    user: str | None = None
    """without effect, as the next three"""
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None

    frequency_penalty: Annotated[Any, Only(0)] = 0
    presence_penalty: Annotated[Any, Only(0)] = 0
    repetition_penalty: Annotated[Any, Only(1)] = 1
    length_penalty: Annotated[Any, Only(1)] = 1
    logit_bias: Annotated[Any, Only({})] = None
    min_tokens: Annotated[Any, Only(0)] = 0
    use_beam_search: Annotated[Any, Only(False)] = False
    skip_special_tokens: Annotated[Any, Only(True)] = True
    include_stop_str_in_output: Annotated[Any, Only(False)] = False
    service_tier: Annotated[Any, Only("auto", "default")] = None

    _nulls = model_validator(mode="before")(no_nulls(NULL_SAYS))

    @property
    def has_logprobs(self) -> bool:
        """Whether answers have log-probabilities."""
        raise NotImplementedError


class CompletionRequest(OpenAIRequest):
    """Go on after each prompt, or fill in what stands between it and the suffix."""

    prompt: Prompts = Field(default=[""])
    """texts, or their token ids; several are several requests in one, and those that are the same get different answers"""
    suffix: Text | None = None
    """text that follows the answer: it is filled in, max_tokens long"""
    max_tokens: Count = COMPLETION_TOKENS
    """tokens of an answer; where absent, no more than the model has room for"""
    echo: bool = False
    """answers begin with their prompt"""

    best_of: Annotated[Whole, bounds(minimum=1)] | None = None
    """as many as n, if given"""
    logprobs: Annotated[Whole, bounds(minimum=0, maximum=1)] | None = None
    """0 or 1: with the log-probability of each token of an answer; of no others, so 1 is as 0; not with echo"""

    @property
    def has_logprobs(self) -> bool:
        return self.logprobs is not None


class ChatMessage(PromptMessage):
    """What somebody said; an answer of ours can be sent back as it is, its nulls too."""

    model_config = ConfigDict(json_schema_extra=nullable)

    refusal: Annotated[Any, Only()] = None
    audio: Annotated[Any, Only()] = None
    annotations: Annotated[Any, Only([])] = None
    tool_calls: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only()] = None

    _nulls = model_validator(mode="before")(no_nulls(frozenset()))


class ChatRequest(OpenAIRequest):
    """Say what comes next in a conversation; for a checkpoint whose tokenizer has a chat template."""

    messages: Annotated[list[ChatMessage], bounds(minItems=1)]
    max_completion_tokens: Count | None = None
    """tokens of an answer; where absent, no more than the model has room for"""
    max_tokens: Count | None = None
    """the same, by its former name"""

    logprobs: bool = False
    """with the log-probability of each token of an answer"""
    top_logprobs: Annotated[Any, Only(0)] = None
    response_format: Annotated[Any, Only({"type": "text"})] = None
    tools: Annotated[Any, Only([])] = None
    tool_choice: Annotated[Any, Only("none", "auto")] = None
    parallel_tool_calls: Annotated[Any, Only(True, False)] = None
    functions: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only("none", "auto")] = None
    modalities: Annotated[Any, Only(["text"])] = None
    reasoning_effort: Annotated[Any, Only("none")] = None
    verbosity: Annotated[Any, Only("medium")] = None
    prediction: Annotated[Any, Only()] = None
    audio: Annotated[Any, Only()] = None
    web_search_options: Annotated[Any, Only()] = None
    store: Annotated[Any, Only(False)] = None
    add_generation_prompt: Annotated[Any, Only(True)] = True
    continue_final_message: Annotated[Any, Only(False)] = False

    @property
    def has_logprobs(self) -> bool:
        return self.logprobs

    @property
    def answer_tokens(self) -> int | None:
        """Tokens of an answer, where the request says so."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
