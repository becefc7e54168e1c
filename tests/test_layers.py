"""The arrows: server -> token_diffusion <- trainer; clients stand alone. Read from the source, and tried in a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"token_diffusion", "server", "trainer", "clients", "tests", "benchmarks"}
TRAINING = {"accelerate", "datasets", "tensorboard"}
SERVING = {"fastapi", "starlette", "uvicorn"}
SETTINGS = {"pydantic", "pydantic_settings"}
FORBIDDEN = {
    "token_diffusion": OURS | TRAINING | SERVING | SETTINGS,
    "server": OURS - {"token_diffusion"} | TRAINING,
    "trainer": OURS - {"token_diffusion"} | SERVING,
    "clients": OURS | TRAINING | SERVING | {"torch", "transformers", "diffusers"},
}


def imports(source: str, package: str) -> set[str]:
    """Top-level names that a module of `package` imports, wherever in its text, `package` itself excluded."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.append(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            inside = package.split(".")[: 1 - node.level or None]
            targets = [node.module] if node.module else [alias.name for alias in node.names]
            names += [".".join([*inside, str(target)]) for target in targets]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names += [str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)]
    return {name.split(".")[0] for name in names} - {package.split(".")[0]}


def offences(source: str, package: str) -> set[str]:
    """What a module of `package` imports though it must not."""
    return imports(source, package) & FORBIDDEN[package.split(".")[0]]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_the_arrows_hold(folder: str) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert len(files) >= 5
    found: set[str] = set()
    for file in files:
        source, package = file.read_text(encoding="utf-8"), ".".join(file.parent.relative_to(ROOT).parts)
        assert offences(source, package) == set(), f"{file.relative_to(ROOT)} imports upwards"
        found |= imports(source, package)
    expected = {"token_diffusion": "torch", "server": "token_diffusion", "trainer": "token_diffusion"}
    assert expected.get(folder, "httpx2") in found, "the scan sees nothing"


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
        ("if TYPE_CHECKING:\n    import torch", "clients", {"torch"}),
        ("from token_diffusion import sample", "clients", {"token_diffusion"}),
        ("from token_diffusion import sample\nimport pydantic", "server", set()),
        ("import serverless, trainers", "token_diffusion", set()),
    ],
)
def test_the_scan_finds_what_is_forbidden(source: str, package: str, expected: set[str]) -> None:
    assert offences(source, package) == expected


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("token_diffusion.__main__", [*SERVING, "datasets", "server", "trainer", "clients"]),
        ("clients.__main__", ["torch", "transformers", "diffusers", *TRAINING, *SERVING, "token_diffusion", "server"]),
    ],
)
def test_an_import_loads_nothing_from_above(module: str, absent: list[str]) -> None:
    """A fresh process: this one has loaded everything."""
    program = f"import sys, {module}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    loaded = set(result.stdout.split())
    assert module in loaded
    assert loaded & set(absent) == set()
