"""Every setting of the server: a flag, or else an environment variable (TD_FLAG), or else its default."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from token_diffusion.errors import ParameterError
from token_diffusion.networks.weights.hub import repository

DEMO_FOLDER = Path(__file__).resolve().parents[1] / "checkpoints"
"""Served when no checkpoint is named: every folder in it that holds a scheduler_config.json."""

ORDER = ("absorbing", "uniform", "hybrid")
"""Of the demos' processes. The first that fits is an endpoint's default: masks, if it can be, whose prompts are exact."""

KEY = re.compile(r"[!-~]+")
"""What an API key is made of: what a header can carry, and no space, as that ends it there."""

MAY_NOT_BE_EMPTY = {"api_key", "api_keys_file"}
"""Whoever sets them wants a guarded server; where another variable is empty, as in a compose file, it counts as absent."""
BODY_BYTES_A_TOKEN = 64
"""Of JSON: ten characters, each as \\uXXXX, which only few tokens have; or sixteen of four bytes."""

OTHER_FIELDS_BYTES = 4096


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


def _split_names(value: object) -> object:
    """`FOLDER,NAME=FOLDER` -> {"": FOLDER, NAME: FOLDER}."""
    parts = _split(value)
    if not isinstance(parts, list):
        return value
    named = _split_pairs([part for part in parts if "=" in part])
    for_all = [part for part in parts if "=" not in part]
    if len(for_all) > 1:
        raise ValueError(f"must be one for all checkpoints that hold none, got {for_all!r}")
    return {"": for_all[0], **named} if for_all and isinstance(named, dict) else named


def _check_key(key: SecretStr) -> SecretStr:
    if not KEY.fullmatch(key.get_secret_value()):
        raise ValueError("must be one or more printable ASCII characters, none of them a space")
    return key


def _check_keys_file(value: object) -> object:
    if value == "":
        raise ValueError("must be the path of a file, got ''")
    return value


def _check_proxies(networks: list[str]) -> list[str]:
    for network in networks:
        try:
            ip_network(network)
        except ValueError as error:
            raise ValueError(f"must be addresses or networks ({error}), got {network!r}") from None
    return networks


def _check_root_path(path: str) -> str:
    if path and not re.fullmatch(r"(/[\w.~-]+)+", path, re.ASCII):
        raise ValueError(f"must be a path such as /models/small, without a slash at the end, got {path!r}")
    return path


def _is_loopback(host: str) -> bool:
    """Whether nobody on another machine reaches `host`; names but localhost are taken to be reached."""
    if host in ("localhost", "::1"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.version == 4 and address.is_loopback


class Settings(BaseSettings):
    """Serve token diffusion checkpoints over HTTP."""

    model_config = SettingsConfigDict(
        env_prefix="TD_",
        frozen=True,
        extra="forbid",
        cli_prog_name="python -m server",
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        cli_exit_on_error=False,
        use_attribute_docstrings=True,
    )

    checkpoint_path: str | None = None
    """folder of a checkpoint, or org/name or org/name@revision of the hub; served under the folder's or repository's name"""
    checkpoint: Annotated[dict[str, str], NoDecode, BeforeValidator(_split_pairs)] = Field(
        default={}, validate_default=False
    )
    """NAME=DIR or NAME=org/name@revision, repeatable: a checkpoint and the name it is served under"""
    tokenizer_name: Annotated[dict[str, str], NoDecode, BeforeValidator(_split_names)] = Field(
        default={}, validate_default=False
    )
    """folder, or repository of the hub, of the tokenizer for all checkpoints that hold none; or NAME=FOLDER, repeatable, of
    the one for a checkpoint, whatever that holds"""
    host: str = "127.0.0.1"
    """address to listen on"""
    port: int = Field(default=8000, ge=0, le=65535)
    """port to listen on; 0 takes a free one"""
    device: str = "auto"
    """torch device: auto, cpu, cuda, cuda:1, ..."""
    dtype: Literal["float32", "bfloat16", "float16", "int8", "auto"] | None = None
    """type of the weights; without it bfloat16 ones stay that, and others are float32. int8 is for the CPU, and gives each row
    a forward pass of its own. auto: bfloat16 where the device multiplies it natively, else float32; the log says which, and by
    how much answers are off"""
    backend: Literal["torch", "openvino", "compile"] = "torch"
    """who computes the forward passes: torch, OpenVINO (on a CPU; `pip install '.[openvino]'`), or torch.compile"""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads of the network; without it as many as there are cores in the affinity mask and whole CPUs in the quota"""
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
    max_num_texts: int = Field(default=64, ge=1)
    """most texts that one request scores"""
    max_num_times: int = Field(default=256, ge=1)
    """most num_times of a request that scores"""
    max_body_bytes: int | None = Field(default=None, ge=1)
    """largest body of a request, in bytes; a larger one is answered 413; 64 a token of max_seq_len, and 4096 more, without it"""
    request_timeout_s: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    """longest timeout_s of a request, in seconds"""
    reattach_s: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """seconds that a request with on_disconnect keep outlives its last reader, running or ended, to be come back to"""
    shutdown_grace_s: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """seconds that running requests may still take after SIGTERM"""
    max_connections: int | None = Field(default=None, ge=1)
    """connections at a time; for one more, the one that has been idle longest is closed, or else all but the probes is
    answered 503; about three quarters of the process's file descriptors without it. A client, other than one of
    trusted_proxies, may have as many as it leaves free, hence one alone half of them"""
    header_timeout_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """seconds that the line and the headers of a request may take to arrive"""
    body_timeout_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """seconds that the body of a request may take to arrive after its headers; then it is answered 408"""
    send_timeout_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """seconds after which a connection is ended whose reader takes nothing at all of what it was sent"""
    keep_alive_s: float = Field(default=75.0, gt=0, allow_inf_nan=False)
    """seconds that a connection is kept for another request; longer than a proxy before the server keeps its own"""
    stall_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """seconds that one step may take before the engine is taken for hung and the process ends, with exit code 70; 20 times
    the slowest one measured, but 60 s at least, without it"""
    api_key: Annotated[SecretStr, AfterValidator(_check_key)] | None = None
    """asked for as `Authorization: Bearer KEY` by everything but /health, /ready and the pages; better set as TD_API_KEY"""
    api_keys_file: Annotated[Path, BeforeValidator(_check_keys_file)] | None = None
    """TOML file of further keys, read again when it changes: a table for each, named as its holder, with `key` or `sha256`,
    and perhaps `weight` (of its share) and `work_per_s` (token passes)"""
    allow_anonymous: bool = False
    """needed to listen beyond this machine without any API key"""
    trusted_proxies: Annotated[list[str], NoDecode, BeforeValidator(_split), AfterValidator(_check_proxies)] = []
    """addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; repeatable"""
    root_path: Annotated[str, AfterValidator(_check_root_path)] = ""
    """path prefix under which a proxy shows this server, whether it takes it away or passes it on"""
    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(_split)] = []
    """origins of other web pages that may call this server; repeatable, * for any"""
    pages: bool = True
    """the pages for people: the player at /, the API at /docs"""
    instance: str = Field(default="", pattern=r"^[0-9A-Za-z]{0,64}$")
    """name of this server among several, put into the id of each request, by which whoever shares them out finds it again"""
    log_level: Annotated[Literal["critical", "error", "warning", "info", "debug"], BeforeValidator(str.lower)] = "info"
    """least severe messages that are logged"""
    log_format: Annotated[Literal["text", "json"], BeforeValidator(str.lower)] = "text"
    """text: lines for people; json: one object a line, tracebacks and the messages of libraries included"""

    @model_validator(mode="before")
    @classmethod
    def _what_is_empty_is_absent(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in given.items() if value != "" or name in MAY_NOT_BE_EMPTY}

    @model_validator(mode="after")
    def _strangers_are_let_in_on_purpose(self) -> Settings:
        if not (self.is_guarded or self.allow_anonymous or _is_loopback(self.host)):
            rule = "be 127.0.0.1 or ::1 without api_key and api_keys_file, unless allow_anonymous is set"
            raise ParameterError("host", rule, self.host)
        return self

    @property
    def is_guarded(self) -> bool:
        """Whether a key is asked for."""
        return self.api_key is not None or self.api_keys_file is not None

    @model_validator(mode="before")
    @classmethod
    def _none_that_are_gone(cls, values: dict[str, Any]) -> dict[str, Any]:
        given = {name.upper() for name in os.environ} | {f"TD_{name}".upper() for name in values}
        for name, instead in GONE.items():
            if f"TD_{name}".upper() in given:
                raise ValueError(f"{name} is no setting any more; {instead}")
        return values

    @property
    def body_bytes(self) -> int:
        """`max_body_bytes`, or else what the longest text needs, escaped, and the other fields."""
        return self.max_body_bytes or BODY_BYTES_A_TOKEN * self.max_seq_len + OTHER_FIELDS_BYTES

    def checkpoint_places(self) -> dict[str, str]:
        """name -> folder or repository of all checkpoints to load, the first being the default one.

        Raises:
            ParameterError: two checkpoints of one name, or none named and no demo found.
        """
        places = dict(self.checkpoint)
        if self.checkpoint_path is not None:
            name = _served_as(self.checkpoint_path)
            if name in places:
                raise ParameterError("checkpoint", f"not use the name of --checkpoint_path, {name!r}", places[name])
            places = {name: self.checkpoint_path, **places}
        if not places:
            places = {file.parent.name: str(file.parent) for file in _demos()}
        if not places:
            raise ParameterError("checkpoint_path", "be given, as there is no demo in checkpoints/", None)
        for name in self.tokenizer_name:
            if name and name not in places:
                raise ParameterError("tokenizer_name", f"be of a checkpoint ({', '.join(places)})", name)
        return places


def _demos() -> list[Path]:
    """Their scheduler_config.json, by process and by name."""

    def place(file: Path) -> tuple[int, str]:
        try:
            return ORDER.index(json.loads(file.read_text(encoding="utf-8"))["forward_process"]), file.parent.name
        except (OSError, ValueError, KeyError, TypeError):  # what is wrong with it is said when it is loaded
            return len(ORDER), file.parent.name

    return sorted(DEMO_FOLDER.glob("*/scheduler_config.json"), key=place)


def _served_as(place: str) -> str:
    """The name of a checkpoint that was given none: its folder's, or its repository's."""
    named = repository(place)
    return Path(place).resolve().name if named is None else named[0].rpartition("/")[2]


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
