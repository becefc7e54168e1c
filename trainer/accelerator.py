"""The accelerator of a run, with its logs and trackers."""

from __future__ import annotations

import logging
import os

import torch
from accelerate import Accelerator
from transformers.utils.logging import disable_progress_bar

from token_diffusion.errors import ParameterError

from .config import TrainingConfig

logger = logging.getLogger(__name__)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """The accelerator, with logs on the main process only. Raises `ParameterError` for a tracker that is not there."""
    check_launch()
    tracker = None if config.report_to == "none" else config.report_to
    try:
        accelerator = Accelerator(
            cpu=without_devices(),
            mixed_precision=config.mixed_precision,
            dynamo_backend="inductor" if config.torch_compile else None,
            log_with=tracker,
            project_dir=str(config.output_dir),
        )
    except ValueError as error:
        message = str(error).splitlines()[0]
        name = "report_to" if tracker is not None and tracker in message else "mixed_precision"
        raise ParameterError(name, f"be usable here ({message})", getattr(config, name)) from error
    if tracker is not None and not accelerator.log_with:
        raise ParameterError("report_to", "be none or an installed tracker of accelerate", tracker)
    set_up_logging(accelerator)
    for name in ("num_train_timesteps", "min_timestep"):
        if name in config.model_fields_set:
            logger.warning("%s has no effect: t is continuous in (0, 1]", name)
    if tracker is not None:
        accelerator.init_trackers("token-diffusion", config=_plain(config))
    return accelerator


def check_launch() -> None:
    """Raises `ParameterError` for a way of sharding that this trainer's steps and checkpoints do not know."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        # Its engine owns the backward pass, the optimizer and their accumulation.
        raise ParameterError("distributed_type", "be FSDP to shard (trainer/configs/fsdp.yaml)", "DEEPSPEED")
    version = os.environ.get("FSDP_VERSION", "1")
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and version != "2":
        raise ParameterError("fsdp_version", "be 2 (trainer/configs/fsdp.yaml)", version)


def without_devices() -> bool:
    """Whether several processes were started where there is no device for them: accelerate would then start each alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and torch.accelerator.current_accelerator() is None


def set_up_logging(accelerator: Accelerator) -> None:
    """Lines on stderr, of the main process alone."""
    level = logging.INFO if accelerator.is_main_process else logging.ERROR
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("trainer").setLevel(level)
    disable_progress_bar()
    # Its retries without a network are many lines; the error that follows says it in one.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def _plain(config: TrainingConfig) -> dict[str, str | int | float]:
    """The flags in types that every tracker can store."""
    values = config.model_dump(mode="json")
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in values.items()}
