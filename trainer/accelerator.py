"""The accelerator of a run, with its logs and trackers."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from accelerate import Accelerator
from transformers.utils.logging import disable_progress_bar

from token_diffusion.errors import ParameterError

from .config import TrainingConfig

logger = logging.getLogger(__name__)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """The accelerator, with logs on the main process only. Raises `ParameterError` for a tracker that is not there."""
    trackers: list[Any] = list(config.trackers)
    try:
        accelerator = Accelerator(
            cpu=without_devices(),
            mixed_precision=config.mixed_precision,
            dynamo_backend="inductor" if config.torch_compile else "no",
            log_with=trackers or None,
            project_dir=str(config.output_dir),
        )
    except ValueError as error:
        message = str(error).splitlines()[0]
        name = "report_to" if any(tracker in message for tracker in trackers) else "mixed_precision"
        raise ParameterError(name, f"be usable here ({message})", getattr(config, name)) from error
    check_precision(accelerator, config.mixed_precision)
    # The learner divides by the tokens of the whole window; accelerate would divide once more by what its variable says.
    accelerator.gradient_accumulation_steps = 1
    if len(accelerator.log_with) < len(set(trackers)):
        raise ParameterError("report_to", "be none or installed trackers of accelerate", config.report_to)
    set_up_logging(accelerator)
    for name in ("num_train_timesteps", "min_timestep"):
        if name in config.model_fields_set:
            logger.warning("%s has no effect: t is continuous in (0, 1]", name)
    return accelerator


def start_trackers(accelerator: Accelerator, config: TrainingConfig) -> None:
    """Has the trackers make their files and runs: once it is sure that there is something to track."""
    if accelerator.log_with:
        accelerator.init_trackers("token-diffusion", config=_plain(config))


def check_launch() -> None:
    """Raises `ParameterError` for a way of sharding that this trainer's steps and checkpoints do not know."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        # Its engine owns the backward pass, the optimizer and their accumulation.
        raise ParameterError("distributed_type", "be FSDP to shard (trainer/configs/fsdp.yaml)", "DEEPSPEED")
    version = os.environ.get("FSDP_VERSION", "1")
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and version != "2":
        raise ParameterError("fsdp_version", "be 2 (trainer/configs/fsdp.yaml)", version)


def check_precision(accelerator: Accelerator, precision: str) -> None:
    """Raises `ParameterError` for fp16 on a CPU: accelerate says nothing, and computes in float32."""
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise ParameterError("mixed_precision", "be no or bf16 on a CPU", precision)


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
