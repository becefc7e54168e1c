"""The arrows: server -> token_diffusion <- trainer; clients stand alone; and inside each house from the upper rooms to the lower.

Read from the source, and tried in a fresh process.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"token_diffusion", "server", "trainer", "clients", "token_diffusion_client", "tests", "benchmarks"}
TRAINING = {"accelerate", "datasets", "tensorboard"}
SERVING = {"fastapi", "starlette", "uvicorn"}
SETTINGS = {"pydantic", "pydantic_settings"}
HEAVY = {"torch", "transformers", "diffusers"}
FORBIDDEN = {
    "token_diffusion": OURS | TRAINING | SERVING | SETTINGS,
    "server": OURS - {"token_diffusion"} | TRAINING,
    "trainer": OURS - {"token_diffusion"} | SERVING,
    "token_diffusion_client": OURS - {"token_diffusion_client"} | TRAINING | SERVING | HEAVY,
}

STOREYS = {
    "token_diffusion": [
        {"__main__"},
        {"commands", "pipelines"},
        {"sampling"},
        {"checkpoint", "engine"},
        {"text"},
        {"facts"},
        {"samplers", "networks"},
        {"diffusion"},
        {"errors"},
    ],
    "server": [
        {"__main__"},
        {"app", "connections", "lifecycle"},
        {"api", "web"},
        {"work"},
        {"owners", "telemetry"},
        {"errors", "settings", "sockets"},
    ],
    "trainer": [
        {"__main__"},
        {"run"},
        {"report"},
        {"evaluation"},
        {"data"},
        {"output"},
        {"accelerator"},
        {"config"},
        {"errors", "signals", "command_line"},
    ],
    "token_diffusion_client": [
        {"__main__"},
        {"commands"},
        {"notebook", "terminal"},
        {"client"},
        {"drivers", "endpoints"},
        {"cells", "progress"},
        {"protocol", "version"},
    ],
}
"""The rooms of each house, from the top: what stands on one storey knows those below it, and neither its neighbours nor those
above. Files that stand directly in the house are rooms, too."""


def imported(source: str, package: str) -> set[str]:
    """Full names of the modules that a module of `package` imports, wherever in its text."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = package.split(".")[: 1 - node.level or None] if node.level else []
            start = ".".join([*inside, *([node.module] if node.module else [])])
            # What is imported may be a module, or a name in one: with both there is no telling which is meant.
            names += [f"{start}.{alias.name}".lstrip(".") for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names += [str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)]
    return set(names)


def imports(source: str, package: str) -> set[str]:
    """Top-level names that a module of `package` imports, `package` itself excluded."""
    return {name.split(".")[0] for name in imported(source, package)} - {package.split(".")[0]}


def offences(source: str, package: str) -> set[str]:
    """What a module of `package` imports though it must not."""
    return imports(source, package) & FORBIDDEN[package.split(".")[0]]


def rooms(source: str, package: str) -> set[str]:
    """The rooms of its own house that a module of `package` imports; the house itself is a room called ""."""
    house = package.split(".")[0]
    inside = [name.split(".")[1:] for name in imported(source, package) if name.split(".")[0] == house]
    known = set().union(*STOREYS[house])
    return {path[0] if path and path[0] in known else "" for path in inside}


def climbs(source: str, package: str, room: str) -> set[str]:
    """The rooms that a module of `room` imports though they are not below it."""
    house = package.split(".")[0]
    storey = {name: level for level, names in enumerate(STOREYS[house]) for name in names}
    allowed = {name for name, level in storey.items() if level > storey[room]} | {room}
    return rooms(source, package) - allowed


def place(house: str) -> Path:
    """The folder in which a house stands."""
    return ROOT / "clients" if house == "token_diffusion_client" else ROOT


def modules(house: str) -> Iterator[tuple[Path, str, str]]:
    """Each file of a house, with its package and its room."""
    for file in (place(house) / house).rglob("*.py"):
        parts = file.relative_to(place(house)).with_suffix("").parts
        yield file, ".".join(parts[:-1]), parts[1]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_the_arrows_hold(folder: str) -> None:
    files = list((place(folder) / folder).rglob("*.py"))
    assert len(files) >= 5
    found: set[str] = set()
    for file in files:
        source, package = file.read_text(encoding="utf-8"), ".".join(file.parent.relative_to(place(folder)).parts)
        assert offences(source, package) == set(), f"{file.relative_to(ROOT)} imports upwards"
        found |= imports(source, package)
    expected = {"token_diffusion": "torch", "server": "token_diffusion", "trainer": "token_diffusion"}
    assert expected.get(folder, "httpx2") in found, "the scan sees nothing"


@pytest.mark.parametrize("house", STOREYS)
def test_the_arrows_inside_a_house_point_down(house: str) -> None:
    seen: set[str] = set()
    for file, package, room in modules(house):
        if room == "__init__":  # the house's own door may look into any room
            continue
        source = file.read_text(encoding="utf-8")
        up = climbs(source, package, room)
        assert up == set(), f"{file.relative_to(ROOT)} imports {up}, which are not below {room}"
        seen |= rooms(source, package)
    assert len(seen) >= 4, "the scan sees nothing"


@pytest.mark.parametrize("house", STOREYS)
def test_no_folder_is_crowded_and_no_files_are_in_a_circle(house: str) -> None:
    """Below the storeys, too: files of one room may know each other, but not in a circle."""
    graph: dict[str, set[str]] = {}
    names = {".".join(file.relative_to(place(house)).with_suffix("").parts): file for file, _, _ in modules(house)}
    for name, file in names.items():
        package = name.removesuffix(".__init__") if name.endswith(".__init__") else name.rpartition(".")[0]
        targets = imported(file.read_text(encoding="utf-8"), package)
        graph[name] = {
            module for target in targets for module in (target, target.rpartition(".")[0]) if module in names
        }
    while leaves := {name for name, targets in graph.items() if not targets & graph.keys() - {name}}:
        graph = {name: targets for name, targets in graph.items() if name not in leaves}
    assert not graph, f"a circle among {sorted(graph)}"
    for folder in {file.parent for file in names.values()}:
        inside = [path for path in folder.iterdir() if path.name not in ("__init__.py", "__pycache__")]
        assert len(inside) <= 12, f"{folder.relative_to(ROOT)} has {len(inside)} rooms"


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("import server.app", "token_diffusion", {"server"}),
        ("import torch, accelerate as a", "token_diffusion", {"accelerate"}),
        ("from trainer.data import read_files", "server", {"trainer"}),
        ("def f() -> None:\n    from fastapi import FastAPI", "trainer", {"fastapi"}),
        ("from ...server import app", "token_diffusion.samplers", {"server"}),
        ("from ... import server", "token_diffusion.samplers", {"server"}),
        ("from ..errors import ParameterError", "token_diffusion.samplers", set()),
        ("from . import errors", "token_diffusion", set()),
        ("from .server import x", "token_diffusion", set()),
        ("import importlib\nimportlib.import_module('datasets')", "server", {"datasets"}),
        ("if TYPE_CHECKING:\n    import torch", "token_diffusion_client", {"torch"}),
        ("from token_diffusion import sample", "token_diffusion_client", {"token_diffusion"}),
        ("from token_diffusion import sample\nimport pydantic", "server", set()),
        ("import serverless, trainers", "token_diffusion", set()),
    ],
)
def test_the_scan_finds_what_is_forbidden(source: str, package: str, expected: set[str]) -> None:
    assert offences(source, package) == expected


@pytest.mark.parametrize(
    ("source", "package", "room", "expected"),
    [
        ("from ..sampling import run", "token_diffusion.engine", "engine", {"sampling"}),
        ("from .. import sampling", "token_diffusion.engine", "engine", {"sampling"}),
        ("from ..networks.denoiser import Denoiser", "token_diffusion.samplers", "samplers", {"networks"}),
        ("from ..networks.denoiser import Denoiser", "token_diffusion.engine", "engine", set()),
        ("from token_diffusion import sample", "token_diffusion.engine", "engine", {""}),
        ("from ...errors import ParameterError", "token_diffusion.networks.transformer", "networks", set()),
        ("if TYPE_CHECKING:\n    from ..run.train import Run", "trainer.report", "report", {"run"}),
        ("from trainer.report import watch", "trainer.evaluation", "evaluation", {"report"}),
        ("from .batch import Batch", "token_diffusion.engine", "engine", set()),
        ("from token_diffusion import sample", "trainer.data", "data", set()),
    ],
)
def test_the_scan_finds_who_climbs(source: str, package: str, room: str, expected: set[str]) -> None:
    assert climbs(source, package, room) == expected


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("token_diffusion.__main__", [*SERVING, "datasets", "server", "trainer", "token_diffusion_client"]),
        ("token_diffusion_client.__main__", [*HEAVY, *TRAINING, *SERVING, "token_diffusion", "server"]),
    ],
)
def test_an_import_loads_nothing_from_above(module: str, absent: list[str]) -> None:
    """A fresh process: this one has loaded everything."""
    program = f"import sys, {module}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=place(module.partition(".")[0]),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    loaded = set(result.stdout.split())
    assert module in loaded
    assert loaded & set(absent) == set()
