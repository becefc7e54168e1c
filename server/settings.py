"""Every setting of the server: a flag, or else an environment variable (TD_FLAG), or else its default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from token_diffusion.errors import ParameterError

DEMO_FOLDER = Path(__file__).resolve().parents[1] / "checkpoints"
"""Served when no checkpoint is named: every folder in it that holds a scheduler_config.json."""


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
    max_batch_rows: int = Field(default=64, ge=1)
    """sequences denoised at the same time, over all requests"""
    max_batch_tokens: int | None = Field(default=None, ge=1)
    """most tokens of one forward pass, padding included: the longest that a new request waits for a turn; 2048 on a CPU
    and 65536 on an accelerator without it"""
    determinism: Literal["exact", "fast"] = "fast"
    """exact: a request's tokens do not depend on its neighbours even by rounding, as each row gets a forward pass of its
    own; fast: rows share forward passes, and rarely a draw on the edge between two tokens falls otherwise"""
    max_waiting: int = Field(default=64, ge=0)
    """requests that may wait for rows; one more is answered 429"""
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
    instance: str = Field(default="", pattern=r"^[0-9A-Za-z]{0,64}$")
    """name of this server among several, put into the id of each request, by which whoever shares them out finds it again"""
    log_level: Annotated[Literal["critical", "error", "warning", "info", "debug"], BeforeValidator(str.lower)] = "info"
    """least severe messages that are logged"""

    @model_validator(mode="after")
    def _samples_fit_the_batch(self) -> Settings:
        if self.max_num_samples > self.max_batch_rows:
            rule = f"be at most max_batch_rows ({self.max_batch_rows})"
            raise ParameterError("max_num_samples", rule, self.max_num_samples)
        return self

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
