"""The endpoints that say how the server is, and what it has loaded."""

from __future__ import annotations

from typing import Any

import torch
from fastapi import APIRouter

from token_diffusion import __version__
from token_diffusion.checkpoint import Checkpoint

from ...errors import ErrorEvent
from ...work.engine import Engine
from ..admission import OpeningDep, Service, ServiceDep
from ..protocol.samplers import samplers_of
from ..protocol.state import Frame, Health, Info, Limits, Load, ModelInfo, Models, Version

router = APIRouter()


@router.get("/health", tags=["state"], responses={503: {"model": ErrorEvent}})
async def health(service: OpeningDep) -> Health:
    """Alive: the process answers, and its engine, once the checkpoints are loaded, runs and comes back from its steps."""
    if service is not None:
        service.engine.check_alive()
    return Health(status="ok")


@router.get("/ready", tags=["state"], responses={503: {"model": ErrorEvent}})
async def ready(service: ServiceDep) -> Health:
    """Ready for work: the checkpoints are loaded, their last steps have not all failed, and the server is not stopping."""
    service.engine.check_ready()
    return Health(status="ready")


@router.get("/models", tags=["state"])
async def models(service: ServiceDep) -> Models:
    """The loaded checkpoints, the default one first."""
    return Models(models=_model_infos(service))


@router.get("/version", tags=["state"])
async def version() -> Version:
    """Which server this is."""
    return Version(version=__version__)


@router.get("/info", tags=["state"])
async def info(service: ServiceDep) -> Info:
    """Version, models, limits, device, and how busy the server is."""
    limits: dict[str, Any] = service.settings.model_dump(include=set(Limits.model_fields))
    limits["max_body_bytes"] = service.settings.body_bytes
    limits["max_batch_tokens"] = service.engine.max_batch_tokens  # the one in force, where none was set
    first = next(iter(service.engine.checkpoints.values()))
    return Info(
        version=__version__,
        torch=torch.__version__,
        device=first.device,
        dtype=first.dtype,
        determinism=service.engine.determinism,
        models=_model_infos(service),
        limits=Limits(**limits),
        load=_load(service.engine),
    )


def _load(engine: Engine) -> Load:
    jobs = engine.jobs
    return Load(
        rows=jobs.rows,
        running=jobs.num_running,
        waiting=jobs.num_waiting,
        outstanding_work=jobs.work,
        work_per_s=round(engine.rate.per_s, 1),
        ticks=engine.ticks,
    )


def _model_infos(service: Service) -> list[ModelInfo]:
    return [_model_info(checkpoint) for checkpoint in service.engine.checkpoints.values()]


def _model_info(checkpoint: Checkpoint) -> ModelInfo:
    return ModelInfo(
        name=checkpoint.name,
        family=checkpoint.family,
        process=checkpoint.process,
        alpha_schedule=checkpoint.alpha_schedule,
        time_input=checkpoint.time_input,
        dtype=checkpoint.dtype,
        backend=checkpoint.backend,
        max_seq_len=checkpoint.max_seq_len,
        block_size=checkpoint.block_size,
        num_classes=checkpoint.num_classes,
        vocab_size=checkpoint.scheduler.config["vocab_size"],
        mask_token_id=checkpoint.scheduler.config["mask_token_id"],
        mask_token=str(checkpoint.tokenizer.mask_token),
        batching=checkpoint.batching,
        frame=Frame(prefix=list(checkpoint.facts.frame.prefix), suffix=list(checkpoint.facts.frame.suffix)),
        end_tokens=sorted(checkpoint.facts.ends(checkpoint.tokenizer)),
        samplers=samplers_of(checkpoint.process),
    )
