"""What a run goes on from: a folder that says its process, schedule, tokenizer and frame, whoever wrote or published it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from token_diffusion.checkpoint import SCHEDULER_FILE, Unloaded, open_checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.networks.families import published

from ..config import SFTConfig, TrainingConfig
from ..config.training import SCHEDULER_OPTIONS
from ..output.resume import check_same_run, read_facts
from .model import local

COMMANDS = {"absorbing": "mdlm", "uniform": "udlm", "hybrid": "hybrid"}

Config = TypeVar("Config", bound=TrainingConfig)


def is_here(config: TrainingConfig) -> bool:
    """Whether the model is on this machine, or made here."""
    return config.config_name is not None or Path(config.model_name_or_path).exists()


def begin(config: Config, checkpoint: Path | None, num_processes: int) -> tuple[Config, Unloaded | None]:
    """What `settled` and `find_start` return, of a run that goes on from `checkpoint` if there is one.

    Raises:
        ParameterError: as they do; or the rest of the run would differ from its start.
    """
    start = find_start(config)
    config = settled(config, start)
    if checkpoint is not None:
        check_same_run(read_facts(checkpoint), config, num_processes, checkpoint)
    return config, start


def find_start(config: TrainingConfig) -> Unloaded | None:
    """The folder that the flags name, opened; None for a network that has learnt no diffusion yet.

    A folder of ours that gets another tokenizer gives its weights alone.

    Raises:
        ParameterError: it is of a published format, or ours, and its parts are not there or do not fit each other.
    """
    if config.config_name is not None:
        return None
    folder = local(config, "model_name_or_path")
    is_ours = (folder / SCHEDULER_FILE).is_file() and config.tokenizer_name is None
    if not is_ours and published(folder, "model_name_or_path") is None:
        return None
    tokenizer = None if config.tokenizer_name is None else local(config, "tokenizer_name", weights=False)
    try:
        return open_checkpoint(folder, tokenizer_name=tokenizer)
    except ParameterError as error:
        name = "model_name_or_path" if error.name == "checkpoint_path" else error.name
        if name == "tokenizer":
            name = "model_name_or_path" if config.tokenizer_name is None else "tokenizer_name"
        raise ParameterError(name, error.rule, error.value) from error


def settled(config: Config, start: Unloaded | None) -> Config:
    """The flags, with what the folder says where nothing else was asked for.

    Raises:
        ParameterError: a flag, or the command itself, contradicts the folder; or a flag is of another process than is trained.
    """
    found = {} if start is None else _settings(config, start)
    if isinstance(config, SFTConfig):
        config.check_process(found.get("forward_process", config.process))
    return config.model_copy(update=found)


def _settings(config: TrainingConfig, start: Unloaded) -> dict[str, Any]:
    process, folder = start.scheduler.config.forward_process, str(start.path)
    if isinstance(config, SFTConfig) and config.forward_process not in (None, process):
        raise ParameterError("forward_process", f"be {process}, as of the model in {folder}", config.forward_process)
    if not isinstance(config, SFTConfig) and config.process != process:
        rule = f"be a folder of the {config.process} process: this one goes on with `trainer {COMMANDS[process]}`"
        raise ParameterError("model_name_or_path", rule, f"{folder} ({process})")
    options = {name: start.scheduler.config[name] for name in SCHEDULER_OPTIONS}
    fields = type(config).model_fields
    asked = config.model_fields_set
    found = {name: value for name, value in options.items() if name in fields and name not in asked}
    return found | ({"forward_process": process} if isinstance(config, SFTConfig) else {})
