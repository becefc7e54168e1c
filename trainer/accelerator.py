"""The accelerator of a run, with its logs and trackers."""

from __future__ import annotations

import logging

from accelerate import Accelerator
from transformers.utils.logging import disable_progress_bar

from token_diffusion.errors import ParameterError

from .config import TrainingConfig

logger = logging.getLogger(__name__)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """The accelerator, with logs on the main process only. Raises `ParameterError` for a tracker that is not there."""
    tracker = None if config.report_to == "none" else config.report_to
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision, log_with=tracker, project_dir=str(config.output_dir)
        )
    except ValueError as error:
        message = str(error).splitlines()[0]
        name = "report_to" if tracker is not None and tracker in message else "mixed_precision"
        raise ParameterError(name, f"be usable here ({message})", getattr(config, name)) from error
    if tracker is not None and not accelerator.log_with:
        raise ParameterError("report_to", "be none or an installed tracker of accelerate", tracker)
    level = logging.INFO if accelerator.is_main_process else logging.ERROR
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("trainer").setLevel(level)
    disable_progress_bar()
    # Its retries without a network are many lines; the error that follows says it in one.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for name in ("num_train_timesteps", "min_timestep"):
        if name in config.model_fields_set:
            logger.warning("%s has no effect: t is continuous in (0, 1]", name)
    if tracker is not None:
        accelerator.init_trackers("token-diffusion", config=_plain(config))
    return accelerator


def _plain(config: TrainingConfig) -> dict[str, str | int | float]:
    """The flags in types that every tracker can store."""
    values = config.model_dump(mode="json")
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in values.items()}
