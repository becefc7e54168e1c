"""/v1/models: what is loaded, in OpenAI's shape."""

from __future__ import annotations

from fastapi import APIRouter

from token_diffusion.checkpoint import Checkpoint

from ...errors import ErrorEvent
from ..admission import Service, ServiceDep
from .answers import ModelCard, ModelList
from .reading import find

router = APIRouter(tags=["openai"])


@router.get("/v1/models")
async def models(service: ServiceDep) -> ModelList:
    """The loaded checkpoints, the default one first."""
    return ModelList(data=[_card(service, checkpoint) for checkpoint in service.engine.checkpoints.values()])


@router.get("/v1/models/{id:path}", responses={404: {"model": ErrorEvent, "description": "No such checkpoint."}})
async def model(id: str, service: ServiceDep) -> ModelCard:
    """One of them."""
    return _card(service, find(service, id))


def _card(service: Service, checkpoint: Checkpoint) -> ModelCard:
    return ModelCard(
        id=checkpoint.name,
        created=int(checkpoint.path.stat().st_mtime),
        owned_by="token-diffusion",
        max_model_len=service.longest(checkpoint),
    )
