"""From flags to settings, and the help that lists them: in groups, a group a class, with the kinds of their values in words."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, _ArgumentGroup
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

from pydantic.fields import FieldInfo
from pydantic_settings import CliSettingsSource

from .settings import CommandLine

NO_DEFAULT = re.compile(r" \(default(: null| factory: .*)\)$")
KINDS = {"int": "INT", "float": "FLOAT", "str": "TEXT", "SecretStr": "TOKEN", "Path": "FILE"}
FOLDERS = ("_dir", "_path")
"""How the names of paths end that are folders."""


class _Source(CliSettingsSource[Any]):
    """Reads the words of a list as they were typed: on their way here they are letters that mean nothing to anybody.

    pydantic-settings alone would split them at commas, take numbers for numbers, and fail at quotation marks.
    """

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        return [unquote(word[1:], errors="surrogateescape") for word in json.loads(value)]


def _coded(word: str) -> str:
    return f'"={quote(word, safe="", errors="surrogateescape")}"'


def read(settings: type[CommandLine], command: str, flags: Sequence[str]) -> CommandLine:
    """The command's settings from its flags. Raises `ValidationError`, `SettingsError` or `ParameterError`."""
    groups: dict[str, _ArgumentGroup] = {}

    def add_argument(parser: ArgumentParser, *names: str, **options: Any) -> Any:
        title = _group(settings, options.get("dest", ""))
        place = (
            parser
            if title is None
            else groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        )
        return place.add_argument(*names, **_plain(names[0].removeprefix("--"), options))

    name = f"python -m trainer {command}"
    source = _Source(settings, cli_prog_name=name, add_argument_method=add_argument)
    source.root_parser.usage = f"{name} [flags]"
    return settings(_cli_settings_source=source(args=list(flags)))  # type: ignore[call-arg]


def describe(problem: Any) -> str:
    """One of pydantic's errors in our words: name, rule, value."""
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):  # `ParameterError`, which says all of it
        return str(cause)
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{name} must be given"
    return f"{name} must {problem['msg'].removeprefix('Input should ')}, got {problem['input']!r}"


def _group(settings: type[CommandLine], field: str) -> str | None:
    """The first line of the class that brings a field; None for the command's own."""
    owner = [each for each in settings.__mro__ if field in getattr(each, "model_fields", ())][-1:]
    return (owner[0].__doc__ or "").splitlines()[0].rstrip(".") if owner and owner[0] is not settings else None


def _plain(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """argparse's options with kinds in words, and lists that take several values, in a row or repeated."""
    kind = options.get("metavar")
    if options.get("action") == "append":
        options |= {"action": "extend", "nargs": "+", "type": _coded}
        kind = "Path" if name.endswith("_file") else "str"
    if kind in KINDS:
        options["metavar"] = "FOLDER" if kind == "Path" and name.endswith(FOLDERS) else KINDS[kind]
    if isinstance(options.get("help"), str):
        options["help"] = NO_DEFAULT.sub("", " ".join(options["help"].split()))
    return options
