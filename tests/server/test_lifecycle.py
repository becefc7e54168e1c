"""How a server starts, or is told why it cannot; and how its streams end with it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import torch
import uvicorn
from safetensors.torch import load_file, save_file

from server.__main__ import main
from server.lifecycle import bound, listen, url
from tests.live_server import faked, serving, wait_until
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.errors import ParameterError

pytest_plugins = ["tests.server_fixtures"]


@pytest.mark.parametrize("stream", [True, False])
def test_after_the_grace_what_runs_or_waits_ends_with_an_error(tiny: Mapping[str, Checkpoint], stream: bool) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.05)
    limits = {"shutdown_grace_s": 0.3}
    body = {"seq_len": 96, "num_inference_steps": 1000, "stream": stream}
    with serving({"absorbing": checkpoint}, **limits) as server, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(httpx2.post, server.url + "/sample", json=body, timeout=30) for _ in range(2)]
        wait_until(lambda: len(server.engine.jobs.all) == 2)
        server.process.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: server.get("/ready").status_code == 503)
        for answer in answers:
            text = answer.result().text
            error = {"message": "the server is stopping", "type": "shutdown", "param": None, "code": 503}
            assert json.loads(text.strip().split("data: ")[-1].split("\n")[0]) == {"error": error}
            assert answer.result().status_code == (200 if stream else 503)
        wait_until(lambda: not server.engine.alive)


def test_an_idle_server_stops_at_once(tiny: Mapping[str, Checkpoint]) -> None:
    with serving({"absorbing": faked(tiny["absorbing"])[0]}, shutdown_grace_s=60) as server:
        server.process.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: not server.engine.alive, timeout_s=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "x"], "python -m server: error: port: Input should be a valid integer, "),
        (["--bogus"], "python -m server: error: unrecognized arguments: --bogus"),
        (["--checkpoint_path", "/nonexistent"], "checkpoint_path must be an existing folder, got '/nonexistent'"),
        (["--checkpoint_path", "x" * 300], "checkpoint_path must be an existing folder, got 'xxx"),
        (["--device", "gpu", "--checkpoint_path", "FOLDER"], "device must be"),
        (
            ["--allow_anonymous", "--host", "no.such.host.invalid"],
            "host must be an address, or a name that has one (",
        ),
        (
            ["--allow_anonymous", "--host", "192.0.2.1"],
            "host must be an address of this machine (Cannot assign ",
        ),
        (
            ["--allow_anonymous", "--host", "a" * 64 + ".b"],
            "host must be an address, or a name that has one (",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tiny_folders: Mapping[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = str(tiny_folders["absorbing"])
    assert main([folder if argument == "FOLDER" else argument for argument in ["--port", "0", *arguments]]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_a_port_that_is_taken_is_one_line_and_exit_code_2(
    tiny_folders: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before a folder is looked at; and where it is taken in between, as the port of a socket that listens only later can be."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--port", port, "--checkpoint_path", "/nonexistent"]) == 2
        message = f"python -m server: error: port must be free at 127.0.0.1 (Address already in use), got {port}\n"
        assert capfd.readouterr() == ("", message)
    with bound("127.0.0.1", 0) as ours, bound("127.0.0.1", ours[0].getsockname()[1]) as theirs:
        config = uvicorn.Config("none", host="127.0.0.1")
        listen(theirs, config)
        with pytest.raises(ParameterError, match="port must be free at"):
            listen(ours, config)


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")])
def test_a_bound_port_is_closed_until_it_listens(host: str, address: str) -> None:
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with bound(host, 0) as sockets:
        place = sockets[0].getsockname()[:2]
        assert [url(each) for each in sockets] == [f"{address}{place[1]}"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
        listen(sockets, uvicorn.Config("none", host=host))
        socket.create_connection(place).close()


async def _nodelay(listening: socket.socket) -> int:
    """Of a connection that was accepted there."""
    made: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    async with await asyncio.start_server(lambda _, writer: made.set_result(writer), sock=listening):
        _, client = await asyncio.open_connection(*listening.getsockname()[:2])
        found: int = (await made).get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for writer in (client, await made):
            writer.close()
            await writer.wait_closed()
    return found


def test_no_part_of_an_answer_waits_for_the_acknowledgement_of_the_last() -> None:
    with bound("127.0.0.1", 0) as (listening,):
        assert asyncio.run(_nodelay(listening))


def test_all_addresses_of_a_name_have_the_same_port() -> None:
    with bound("localhost", 0) as sockets:
        assert len({each.getsockname()[1] for each in sockets}) == 1


def _cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 2000)


def _poison(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.weight"][3, 5] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _widen(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _as_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _garbage(name: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / name).write_bytes(b"\x00\xff{[")

    return fill


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (_cut, "hold a readable masked language model (model.safetensors: "),
        (_garbage("model.safetensors"), "hold a readable masked language model (model.safetensors: "),
        (_without("model.safetensors"), "hold a readable masked language model (there are no weights)"),
        (_garbage("config.json"), "hold JSON in config.json"),
        (_without("config.json"), "be a folder that holds config.json"),
        (_garbage("scheduler_config.json"), "hold JSON in scheduler_config.json"),
        (_without("scheduler_config.json"), "be a folder that holds scheduler_config.json"),
        (_garbage("tokenizer.json"), "hold a readable tokenizer"),
        (_without("tokenizer.json"), "hold a readable tokenizer"),
        (_garbage("tokenizer_config.json"), "hold JSON in tokenizer_config.json"),
        (_empty, "be a folder that holds config.json"),
        (_as_file, "be an existing folder"),
        (_widen, "hold weights as its config.json describes them ("),
        (_poison, "hold weights that are finite in float32 ("),
    ],
)
def test_a_corrupted_checkpoint_is_one_line_and_exit_code_2(
    corrupt: Callable[[Path], None],
    message: str,
    tiny_folders: Mapping[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """All but the last two before the port is open."""
    folder = shutil.copytree(tiny_folders["absorbing"], tmp_path / "corrupted")
    corrupt(folder)
    assert main(["--port", "0", "--log_level", "error", "--checkpoint_path", str(folder)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"python -m server: error: checkpoint_path must {message}")
