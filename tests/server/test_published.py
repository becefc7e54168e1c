"""A stranger's folder, laid out as its authors published it, serves with one command."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.token_diffusion.networks.families.hub_folders import write_dream, write_llada

ROOT = Path(__file__).parents[2]


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of that folder, in a process of its own."""
    command = [sys.executable, "-m", "server", "--port", "0", "--num_threads", "1", "--checkpoint_path", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stderr is not None
            lines = []
            for line in child.stderr:
                lines.append(line)
                if "running on http://" in line:
                    yield line.split("running on ")[1].split()[0]
                    break
            else:
                pytest.fail("".join(lines))
        finally:
            child.send_signal(signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "name", "frame"),
    [(write_llada, "LLaDA-8B-Instruct", []), (write_dream, "Dream-v0-Instruct-7B", [65])],
)
def test_it_serves_and_chats(tmp_path: Path, write: Callable[[Path], Path], name: str, frame: list[int]) -> None:
    with serving(write(tmp_path / name)) as url, httpx2.Client(base_url=url, timeout=60) as http:
        (model,) = http.get("/models").json()["models"]
        assert (model["name"], model["process"]) == (name, "absorbing")
        assert model["frame"] == {"prefix": frame, "suffix": []}
        drawn = http.post("/sample", json={"prompt": "the cat", "seq_len": 16, "stream": False, "seed": 1}).json()
        (sample,) = drawn["samples"]
        assert sample["tokens"][: len(frame) + 2] == [*frame, 44, 50] and sample["text"].startswith("the cat")
        assert model["mask_token_id"] not in sample["tokens"]
        asked = {"messages": [{"role": "user", "content": "the cat sat"}], "max_tokens": 16, "seed": 1, "model": name}
        (choice,) = http.post("/v1/chat/completions", json=asked).json()["choices"]
        assert choice["finish_reason"] in ("stop", "length") and "<|" not in choice["message"]["content"]
