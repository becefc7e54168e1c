"""Which code and which command made a model: without a path of the machine, and without a secret."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from huggingface_hub import ModelCard

ROOT = Path(__file__).parents[2]
SECRET = "--hub_token"
ELSEWHERE = re.compile(r"^(/|~|\.\.?$|\.\.?/|[A-Za-z]:[\\/]|\\\\)")
"""Paths that mean something on one machine, or in one folder of it, alone."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
CACHED = re.compile(r"/models--([^/]+)/snapshots/[0-9a-f]+$")
"""How the hub's cache names the folder of a model."""


def code_version(root: Path = ROOT) -> str:
    """The commit as `git describe` names it (`-dirty` with changes); of a copy without git, the installed version."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top and Path(top).resolve() == root.resolve():  # not a repository that merely contains this one
        described = _git(root, "describe", "--always", "--tags", "--dirty")
        if described:
            return f"commit {described}"
    try:
        return f"version {version('token-diffusion')}"
    except PackageNotFoundError:
        return "unknown"


def command_line(arguments: Sequence[str], num_processes: int = 1) -> str:
    """The command of `arguments` as it can be shown: of a path elsewhere the last name only, of the token nothing.

    Where several paths end in one name, each keeps what tells it from the others.
    """
    launcher = ["python", "-m"]
    if num_processes > 1:
        launcher = ["accelerate", "launch", "--num_processes", str(num_processes), "-m"]
    values = [each.partition("=")[2] if each.startswith("--") else each for each in arguments]
    places = [_path(value) for value in values if ELSEWHERE.match(value)]
    names = dict(zip(places, told_apart(places), strict=True))

    def portable(value: str) -> str:
        return names[_path(value)] if ELSEWHERE.match(value) else value

    shown, secret = [], False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if secret or name == SECRET:
            secret = not secret and not equals
            continue
        is_flag = argument.startswith("--") and bool(equals)
        shown.append(f"{name}={portable(value)}" if is_flag else portable(argument))
    return shlex.join([*launcher, "trainer", *shown])


def told_apart(paths: Sequence[PurePath]) -> list[str]:
    """Of each path the last name, with as many folders before it as tell it from the others that are not the same."""
    parts = [path.parts[1:] if path.anchor else path.parts for path in paths]

    def tail(mine: tuple[str, ...]) -> str:
        others = [each for each in parts if each != mine]
        lengths = (
            length for length in range(1, len(mine)) if all(each[-length:] != mine[-length:] for each in others)
        )
        return "/".join(mine[-next(lengths, len(mine)) :]) or "."

    return [tail(each) for each in parts]


def base_name(name_or_path: str) -> str:
    """A hub id as it is; of a folder its last name only."""
    return Path(name_or_path).resolve().name if Path(name_or_path).is_dir() else name_or_path


def hub_model(name_or_path: str) -> str | None:
    """The id on the hub of what was started from; None where that is not known.

    What is no folder was loaded from the hub, perhaps at a revision. A folder tells only if it lies in the hub's cache, or if
    its own card names the model that it was made of: `_name_or_path` in its config.json may as well be somebody's path.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        return name_or_path.partition("@")[0]
    if cached := CACHED.search(folder.resolve().as_posix()):
        return cached[1].replace("--", "/")
    try:
        claimed = ModelCard.load(folder / "README.md").data.to_dict().get("base_model")
    except Exception:  # no card, or one of somebody else's making: it names nothing
        return None
    return claimed if isinstance(claimed, str) and HUB_ID.fullmatch(claimed) else None


def hub_dataset(name: str | None) -> list[str]:
    """The id on the hub of a data set, if it has one."""
    known = name is not None and HUB_ID.fullmatch(name) and not Path(name).exists()
    return [name] if name is not None and known else []


def _path(value: str) -> PurePath:
    return PureWindowsPath(value) if "\\" in value else PurePosixPath(value)


def _git(root: Path, *arguments: str) -> str:
    """What git prints, nothing where it fails or is not there."""
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
