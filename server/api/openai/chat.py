"""/v1/chat/completions: what comes next in a conversation, for a checkpoint whose tokenizer has a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.text import chat_ids, chat_template

from ..admission import ServiceDep, first_for
from ..middleware.bodies import BoundedRoute
from ..openapi import chunks_of
from ..pieces import bytes_of
from .answers import ChatChoice, ChatChunk, ChatCompletion, ChatLogprobs, ChunkChoice, Delta, Message, TokenLogprob
from .reading import find, room
from .requests import CHAT_TOKENS, ChatRequest
from .serving import serve
from .sheet import Blank, Piece

router = APIRouter(route_class=BoundedRoute, tags=["openai"])


@router.post("/v1/chat/completions", responses=chunks_of(ChatCompletion, ChatChunk))
async def chat_completions(wire: ChatRequest, request: Request, service: ServiceDep) -> Response:
    """What the assistant says next, in OpenAI's shape, denoised block by block; 422 where the model has no chat template."""
    if wire.model is None:
        chatty = [each for each in service.engine.checkpoints.values() if chat_template(each.tokenizer)]
        sampler = wire.with_preset()[0].sampler
        wire.model = first_for(sampler, chatty).name if chatty else None
    checkpoint = find(service, wire.model)
    if not chat_template(checkpoint.tokenizer):
        raise ParameterError(
            "model", "have a chat template to chat, which /v1/completions does without", checkpoint.name
        )
    if not wire.messages:
        raise ParameterError("messages", "hold at least one message", [])
    if wire.max_tokens not in (None, wire.answer_tokens):
        rule = f"be max_completion_tokens, which is {wire.answer_tokens}, or absent"
        raise ParameterError("max_tokens", rule, wire.max_tokens)
    return await serve(wire, 1, partial(_read, wire), ChatShape(wire.has_logprobs), request, service)


class ChatShape:
    """Chat completions; in a stream the first chunk of an answer has its role, and the last one why it ended.

    logprobs: whether choices have them.
    """

    prefix = "chatcmpl"

    def __init__(self, logprobs: bool) -> None:
        self.logprobs = logprobs

    def chunks(self, piece: Piece, *, first: bool, **head: Any) -> list[ChatChunk]:
        choices = []
        if first:
            choices.append(ChunkChoice(index=piece.index, delta=Delta(role="assistant", content="")))
        if piece.text:
            delta = Delta(content=piece.text)
            choices.append(ChunkChoice(index=piece.index, delta=delta, logprobs=self._logprobs(piece)))
        if piece.finish_reason is not None:
            choices.append(ChunkChoice(index=piece.index, delta=Delta(), finish_reason=piece.finish_reason))
        return [ChatChunk(choices=[choice], **head) for choice in choices]

    def empty(self, **head: Any) -> ChatChunk:
        return ChatChunk(choices=[], **head)

    def whole(self, pieces: Sequence[Piece], **head: Any) -> ChatCompletion:
        choices = [
            ChatChoice(
                index=each.index,
                message=Message(content=each.text),
                logprobs=self._logprobs(each),
                finish_reason=each.finish_reason or "length",
            )
            for each in pieces
        ]
        return ChatCompletion(choices=choices, **head)

    def _logprobs(self, piece: Piece) -> ChatLogprobs | None:
        if not self.logprobs:
            return None
        content = [
            TokenLogprob(token=each.text, logprob=each.logprob, bytes=list(bytes_of(each.text)))
            for each in piece.tokens
        ]
        return ChatLogprobs(content=content)


def _read(wire: ChatRequest, checkpoint: Checkpoint, most: int) -> list[Blank]:
    messages = [message.said for message in wire.messages]
    before = chat_ids(checkpoint.tokenizer, messages, most, frame=checkpoint.facts.frame)
    field = "max_tokens" if wire.max_completion_tokens is None else "max_completion_tokens"
    length = room(checkpoint, most, len(before), "messages", field, wire.answer_tokens, CHAT_TOKENS)
    return [Blank(tuple(before), (), length)]
