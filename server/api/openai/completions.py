"""/v1/completions: text that goes on after a prompt, or that stands between a prompt and a suffix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.text import check_ids, decode, plain_ids

from ..admission import ServiceDep
from ..middleware.bodies import BoundedRoute
from ..openapi import chunks_of
from .answers import Completion, TextChoice, TextLogprobs
from .reading import room
from .requests import CompletionRequest
from .serving import serve
from .sheet import Blank, Piece

router = APIRouter(route_class=BoundedRoute, tags=["openai"])


@router.post("/v1/completions", responses=chunks_of(Completion, Completion))
async def completions(wire: CompletionRequest, request: Request, service: ServiceDep) -> Response:
    """Completions in OpenAI's shape, denoised block by block; with `suffix`, what stands before it is filled in."""
    if wire.best_of not in (None, wire.n):
        raise ParameterError("best_of", f"be n, which is {wire.n}, as nothing here says which are best", wire.best_of)
    if wire.logprobs is not None and not 0 <= wire.logprobs <= 1:
        rule = "be absent, 0 or 1, as of tokens that were not drawn none are told"
        raise ParameterError("logprobs", rule, wire.logprobs)
    if wire.has_logprobs and wire.echo:
        raise ParameterError("logprobs", "be absent where echo is on: a prompt has none; /score has", wire.logprobs)
    return await serve(wire, len(wire.prompt), partial(_read, wire), TextShape(wire.has_logprobs), request, service)


class TextShape:
    """Completions; a chunk of a stream is one with a piece of the text. logprobs: whether choices have them."""

    prefix = "cmpl"

    def __init__(self, logprobs: bool) -> None:
        self.logprobs = logprobs

    def chunks(self, piece: Piece, *, first: bool, **head: Any) -> list[Completion]:
        return [self.whole([piece], **head)]

    def empty(self, **head: Any) -> Completion:
        return Completion(choices=[], **head)

    def whole(self, pieces: Sequence[Piece], **head: Any) -> Completion:
        choices = [
            TextChoice(
                index=each.index, text=each.text, logprobs=self._logprobs(each), finish_reason=each.finish_reason
            )
            for each in pieces
        ]
        return Completion(choices=choices, **head)

    def _logprobs(self, piece: Piece) -> TextLogprobs | None:
        if not self.logprobs:
            return None
        return TextLogprobs(
            tokens=[each.text for each in piece.tokens],
            token_logprobs=[each.logprob for each in piece.tokens],
            text_offset=[each.offset for each in piece.tokens],
        )


def _read(wire: CompletionRequest, checkpoint: Checkpoint, most: int) -> list[Blank]:
    after = plain_ids(checkpoint.tokenizer, "suffix", wire.suffix or "", most, continuing=True)
    asked = wire.max_tokens if "max_tokens" in wire.model_fields_set else None
    blanks = []
    for prompt in wire.prompt:
        before = _ids(checkpoint, prompt, most)
        length = room(checkpoint, most, len(before) + len(after), "prompt", "max_tokens", asked, wire.max_tokens)
        shown = prompt if isinstance(prompt, str) else decode(checkpoint.tokenizer, prompt)
        blanks.append(Blank(tuple(before), tuple(after), length, shown if wire.echo else ""))
    return blanks


def _ids(checkpoint: Checkpoint, prompt: str | list[int], most: int) -> list[int]:
    if isinstance(prompt, str):
        return plain_ids(checkpoint.tokenizer, "prompt", prompt, most)
    check_ids("prompt", prompt, checkpoint.scheduler.config["vocab_size"])
    if (mask := checkpoint.scheduler.config["mask_token_id"]) in prompt:
        raise ParameterError("prompt", f"hold no mask, which is {mask}: what stands before a suffix is open", mask)
    return prompt
