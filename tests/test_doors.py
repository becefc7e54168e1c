"""Whichever door a broken folder comes to, it is refused in one line, with exit code 2, and nothing is served."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import server.__main__
import token_diffusion.__main__
import trainer.__main__
from tests.tiny import save_tiny

ROOT = Path(__file__).parent.parent
DOORS: dict[str, tuple[Callable[[Sequence[str]], int], list[str], str]] = {
    "token_diffusion": (token_diffusion.__main__.main, ["sample"], "error: "),
    "server": (server.__main__.main, ["--port", "0"], "python -m server: error: "),
    "trainer": (trainer.__main__.main, ["evaluate", "--num_samples", "1"], ""),
}
"""Of each program: its main, flags before --checkpoint_path, and what its line begins with."""


def _nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"][7, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _edited(name: str, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def _cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


BROKEN: dict[str, Callable[[Path], None]] = {
    "nan": _nan,
    "cut off": _cut,
    "other shapes": _edited("config.json", vocab_size=60),
    "fewer layers": _edited("config.json", num_hidden_layers=1),
    "another scheduler": _edited("scheduler_config.json", _class_name="DDPMScheduler"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("doors") / "good", "absorbing")


@pytest.mark.parametrize("breaking", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("door", DOORS)
def test_a_broken_folder_is_refused_in_one_line(
    door: str, breaking: Callable[[Path], None], good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    main, flags, start = DOORS[door]
    folder = shutil.copytree(good, tmp_path / "bad")
    breaking(folder)
    capfd.readouterr()
    assert main([*flags, "--checkpoint_path", str(folder)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"{start}checkpoint_path must hold ")
    assert err.endswith(f", got {str(folder)!r}\n")


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_as_programs_too(door: str, good: Path, tmp_path: Path) -> None:
    """What libraries log as they are imported, or at exit, this process does not hear. A server that ends never was /ready."""
    _, flags, start = DOORS[door]
    folder = shutil.copytree(good, tmp_path / "bad")
    _edited("config.json", vocab_size=60, num_hidden_layers=1)(folder)
    command = [sys.executable, "-m", door, *flags, "--checkpoint_path", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"{start}checkpoint_path must hold ") and result.stderr.count("\n") == 1
