"""The distribution by itself: what its wheel holds and asks for, and that a stream can be read with that alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from tests.clients.scripted_server import Reply, scripted, sse
from token_diffusion_client import __version__

SOURCE = Path(__file__).parents[2] / "clients"

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"

STREAM = """\
import sys
sys.path.insert(0, sys.argv[1])
import token_diffusion_client.__main__
from token_diffusion_client import Client
assert token_diffusion_client.__file__.startswith(sys.argv[1])
with Client(sys.argv[2]) as client:
    *_, done = client.stream_sample()
print(*(sample.text for sample in done.samples))
heavy = {"torch", "fastapi", "transformers", "diffusers", "pydantic", "rich", "token_diffusion", "server", "trainer"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network, of a copy, as building leaves traces."""
    source, target = tmp_path_factory.mktemp("clients") / "clients", tmp_path_factory.mktemp("wheel")
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    command = [sys.executable, "-c", BUILD, str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as file:
        return Parser().parsestr(file.read(f"{wheel.name[: -len('-py3-none-any.whl')]}.dist-info/METADATA").decode())


def test_it_needs_httpx2_and_nothing_else(metadata: Message) -> None:
    asked = metadata.get_all("Requires-Dist") or []
    assert [line for line in asked if "extra ==" not in line] == ["httpx2>=2.10"]
    assert sorted(metadata.get_all("Provides-Extra") or []) == ["notebook", "terminal"]


def test_its_name_and_version_are_said_once(metadata: Message, wheel: Path) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("token-diffusion-client", __version__)
    assert wheel.name == f"token_diffusion_client-{__version__}-py3-none-any.whl"
    assert metadata["License-Expression"] == "Apache-2.0"


def test_it_holds_the_package_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        script = "[console_scripts]\ntoken-diffusion-client = token_diffusion_client.__main__:main"
        assert file.read(entry_points).decode().strip() == script
    top = {name.split("/")[0] for name in names}
    assert top == {"token_diffusion_client", f"token_diffusion_client-{__version__}.dist-info"}
    files = {path.relative_to(SOURCE).as_posix() for path in (SOURCE / "token_diffusion_client").rglob("*.py")}
    assert files | {"token_diffusion_client/py.typed"} == {
        name for name in names if name.startswith("token_diffusion_client/")
    }
    assert any(name.endswith("LICENSE") for name in names)


def test_a_stream_can_be_read_with_it(wheel: Path) -> None:
    """Isolated: nothing of this checkout is on the path. What is heavy, or optional, is not loaded, installed or not."""
    with scripted(sample=Reply([sse()])) as server:
        command = [sys.executable, "-I", "-c", STREAM, str(wheel), server.url]
        done = subprocess.run(command, cwd=wheel.parent, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("the dög sat über\n", "", 0)
