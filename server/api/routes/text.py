"""The endpoints that know a checkpoint's tokens: what text is in them, and what they are as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.text import check_ids, decode, plain_ids

from ...errors import ErrorEvent, not_found
from ...work.deadline import Deadline
from ..admission import Service, ServiceDep, choose_loaded
from ..middleware.bodies import BoundedRoute
from ..middleware.owners import owner_of
from ..openapi import TEXT_RESPONSES
from ..pieces import PieceTable, pieces
from ..protocol.text import Detokenized, DetokenizeRequest, TokenizeRequest, TokenPieces, Tokens

T = TypeVar("T")

PATIENCE_S = 60.0
"""Seconds after which a text is given up that waits behind others."""

KEEP_S = 300
"""Seconds for which a client need not ask whether a vocabulary is still the same."""

router = APIRouter(route_class=BoundedRoute, tags=["text"])


@router.post("/tokenize", responses=TEXT_RESPONSES)
async def tokenize(wire: TokenizeRequest, request: Request, service: ServiceDep) -> Tokens:
    """The tokens of a text, as they would stand in a prompt; one that is too long for the model is counted all the same."""
    checkpoint = choose_loaded(service.engine.checkpoints, wire.model)
    longest = service.longest(checkpoint)

    def work() -> Tokens:
        ids = plain_ids(checkpoint.tokenizer, "prompt", wire.prompt, longest)
        ids = checkpoint.facts.frame.around(ids) if wire.add_frame else ids
        shown = pieces(checkpoint.tokenizer, ids)
        return Tokens(model=checkpoint.name, count=len(ids), max_model_len=longest, tokens=ids, token_strs=shown)

    return await _in_text_thread(work, request, service)


@router.post("/detokenize", responses=TEXT_RESPONSES)
async def detokenize(wire: DetokenizeRequest, request: Request, service: ServiceDep) -> Detokenized:
    """The text of token ids."""
    checkpoint = choose_loaded(service.engine.checkpoints, wire.model)
    if len(wire.tokens) > service.settings.max_seq_len:
        rule = f"hold at most {service.settings.max_seq_len} ids on this server"
        raise ParameterError("tokens", rule, f"{len(wire.tokens)} ids")
    check_ids("tokens", wire.tokens, checkpoint.scheduler.config["vocab_size"])

    def work() -> Detokenized:
        return Detokenized(model=checkpoint.name, prompt=decode(checkpoint.tokenizer, wire.tokens, keep_masks=True))

    return await _in_text_thread(work, request, service)


@router.get(
    "/models/{name:path}/tokens",
    response_model=TokenPieces,
    responses={
        304: {"description": "The client has it: If-None-Match holds its ETag."},
        404: {"model": ErrorEvent, "description": "No checkpoint of this name is loaded."},
    },
)
async def tokens(
    name: str, request: Request, service: ServiceDep, if_none_match: Annotated[str, Header()] = ""
) -> Response:
    """What each token of a checkpoint is, by its id: for who shows them one by one. It may be kept for some minutes."""
    checkpoint = service.engine.checkpoints.get(name)
    if checkpoint is None:
        raise not_found(f"no checkpoint of this name is loaded; loaded: {', '.join(service.engine.checkpoints)}")
    table = service.pieces.get(name)
    if table is None:
        table = await _in_text_thread(lambda: _table(service, checkpoint), request, service)
    headers = {"ETag": table.etag, "Cache-Control": f"private, max-age={KEEP_S}"}
    if table.is_kept(if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(table.body, media_type="application/json", headers=headers)


def _table(service: Service, checkpoint: Checkpoint) -> PieceTable:
    """Of the text thread, which does one thing after the other: so it is made once."""
    if checkpoint.name not in service.pieces:
        service.pieces[checkpoint.name] = PieceTable.of(checkpoint)
    return service.pieces[checkpoint.name]


async def _in_text_thread(work: Callable[[], T], request: Request, service: Service) -> T:
    deadline = Deadline.after(min(PATIENCE_S, service.settings.request_timeout_s))
    async with deadline.bound():
        return await service.text.run(work, owner_of(request))
