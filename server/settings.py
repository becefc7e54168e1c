"""Every setting of the server: a flag, or else an environment variable (TD_FLAG), or else its default."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from token_diffusion.errors import ParameterError

DEMO_FOLDER = Path(__file__).resolve().parents[1] / "checkpoints"
"""Served when no checkpoint is named: every folder in it that holds a scheduler_config.json."""


GONE = {
    "max_batch_rows": "any number of rows share the engine, max_batch_tokens bounds a forward pass, max_resident_tokens the rows",
    "max_waiting": "max_outstanding_s or max_outstanding_work bounds what waits",
}
"""Settings that there were, and what there is instead."""


def _split(value: object) -> object:
    """`a,b` -> [a, b]: how a list comes from an environment variable and from a repeated flag."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_pairs(value: object) -> object:
    """`NAME=DIR,NAME=DIR` -> {NAME: DIR}. Raises ValueError for a part without a name or without a folder."""
    parts = _split(value)
    if not isinstance(parts, list):
        return value
    pairs = [part.partition("=") for part in parts]
    for part, (name, _, folder) in zip(parts, pairs, strict=True):
        if not name or not folder:
            raise ValueError(f"must be NAME=DIR, got {part!r}")
    names = [name for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"must name each checkpoint once, got {names!r}")
    return {name: folder for name, _, folder in pairs}


class Settings(BaseSettings):
    """Serve token diffusion checkpoints over HTTP."""

    model_config = SettingsConfigDict(
        env_prefix="TD_",
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
        cli_prog_name="python -m server",
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,
        use_attribute_docstrings=True,
    )

    checkpoint_path: Path | None = None
    """folder of a checkpoint, served under the folder's name"""
    checkpoint: Annotated[dict[str, Path], NoDecode, BeforeValidator(_split_pairs)] = Field(
        default={}, validate_default=False
    )
    """NAME=DIR, repeatable: a checkpoint and the name it is served under"""
    host: str = "127.0.0.1"
    """address to listen on"""
    port: int = Field(default=8000, ge=0, le=65535)
    """port to listen on; 0 takes a free one"""
    device: str = "auto"
    """torch device: auto, cpu, cuda, cuda:1, ..."""
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    """type of the weights; int8 is for the CPU, and gives each row a forward pass of its own"""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch; torch's own choice without it"""
    max_batch_tokens: int | None = Field(default=None, ge=1)
    """most tokens of one forward pass, padding included: the longest that a new request waits for a turn; 2048 on a CPU
    and 65536 on an accelerator without it"""
    determinism: Literal["exact", "fast"] = "fast"
    """exact: a request's tokens do not depend on its neighbours even by rounding, as each row gets a forward pass of its
    own; fast: rows share forward passes, and rarely a draw on the edge between two tokens falls otherwise"""
    max_request_work: int = Field(default=2**22, ge=1)
    """most work of one request in token passes, num_samples x seq_len x the network's evaluations that a row may need, which
    are at most a step or a mask (absorbing) each; more is answered 422. The default is some minutes of a CPU, about what
    request_timeout_s allows; an accelerator can take more"""
    max_outstanding_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """seconds of work, at the measured rate, that may be outstanding before requests are answered 429. A client gets as much
    as is left free, hence one alone half of it; one that has nothing outstanding is measured against twice as much"""
    max_outstanding_work: int | None = Field(default=None, ge=1)
    """the same in token passes, instead of max_outstanding_s"""
    max_resident_tokens: int = Field(default=2**20, ge=1)
    """positions of all rows that are in memory, about 100 bytes each, shared out as outstanding work is; beyond it 429"""
    max_seq_len: int = Field(default=1024, ge=1)
    """longest seq_len of a request, in tokens"""
    max_num_inference_steps: int = Field(default=10_000, ge=1)
    """most num_inference_steps of a request"""
    max_num_samples: int = Field(default=16, ge=1)
    """most num_samples of a request"""
    max_body_bytes: int = Field(default=1_000_000, ge=1)
    """largest body of a request, in bytes; a larger one is answered 413"""
    request_timeout_s: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    """longest timeout_s of a request, in seconds"""
    shutdown_grace_s: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """seconds that running requests may still take after SIGTERM"""
    api_key: SecretStr | None = Field(default=None, min_length=1)
    """asked for as `Authorization: Bearer KEY` by everything but /health and /ready; better set as TD_API_KEY"""
    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(_split)] = []
    """origins of other web pages that may call this server; repeatable, * for any"""
    log_level: Annotated[Literal["critical", "error", "warning", "info", "debug"], BeforeValidator(str.lower)] = "info"
    """least severe messages that are logged"""

    @model_validator(mode="before")
    @classmethod
    def _none_that_are_gone(cls, values: dict[str, Any]) -> dict[str, Any]:
        given = {name.upper() for name in os.environ} | {f"TD_{name}".upper() for name in values}
        for name, instead in GONE.items():
            if f"TD_{name}".upper() in given:
                raise ValueError(f"{name} is no setting any more; {instead}")
        return values

    def checkpoint_folders(self) -> dict[str, Path]:
        """name -> folder of all checkpoints to load, the first being the default one.

        Raises:
            ParameterError: two checkpoints of one name, or none named and no demo found.
        """
        folders = dict(self.checkpoint)
        if self.checkpoint_path is not None:
            name = self.checkpoint_path.resolve().name
            if name in folders:
                raise ParameterError("checkpoint", f"not use the name of --checkpoint_path, {name!r}", folders[name])
            folders = {name: self.checkpoint_path, **folders}
        if not folders:
            folders = {file.parent.name: file.parent for file in sorted(DEMO_FOLDER.glob("*/scheduler_config.json"))}
        if not folders:
            raise ParameterError("checkpoint_path", "be given, as there is no demo in checkpoints/", None)
        return folders


def read_settings(arguments: Sequence[str]) -> Settings:
    """Settings from the arguments of the shell and the environment. Raises ValueError, in one line."""
    for name, instead in GONE.items():
        if any(argument.partition("=")[0] == f"--{name}" for argument in arguments):
            raise ValueError(f"{name} is no setting any more; {instead}")
    try:
        return Settings(_cli_parse_args=list(arguments))  # type: ignore[call-arg]
    except SettingsError as error:
        raise ValueError(str(error).removeprefix("error parsing CLI: ")) from error
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] != "value_error":
            reason += f", got {first['input']!r}"
        raise ValueError(": ".join([*map(str, first["loc"]), reason])) from error
