from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2
import pytest
from starlette.types import Scope

import server.owners.keys
from server.__main__ import main
from server.api.middleware.owners import address_of
from server.owners.owner import Owner
from tests.live_server import LiveServer, faked, serving
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]

BODY = {"seq_len": 4, "num_inference_steps": 2, "stream": False}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text('[alice]\nkey = "a-key"\nweight = 3\n')
    return path


@pytest.fixture(scope="module")
def guarded(tiny: Mapping[str, Checkpoint], file: Path) -> Iterator[LiveServer]:
    checkpoint, _ = faked(tiny["absorbing"])
    with serving({"absorbing": checkpoint}, api_key="secret", api_keys_file=file) as server:
        yield server


@pytest.mark.parametrize("value", [None, "", "secret", "Bearer", "Bearer wrong", "Bearer secretly", "Basic secret"])
@pytest.mark.parametrize(
    "path", ["/info", "/models", "/openapi.json", "/nothing", "/web", "/health/", "/docs/x", "//health"]
)
def test_what_tells_something_wants_a_key(guarded: LiveServer, path: str, value: str | None) -> None:
    response = guarded.get(path, headers={} if value is None else {"Authorization": value})
    assert response.status_code == response.json()["error"]["code"] == 401
    assert response.json()["error"]["type"] == "unauthorized"
    assert response.headers["www-authenticate"] == "Bearer"


def test_probes_and_the_page_do_not(guarded: LiveServer) -> None:
    assert [guarded.get(path).status_code for path in ("/health", "/ready", "/docs", "/docs/docs.js")] == [200] * 4


def test_each_key_opens(guarded: LiveServer) -> None:
    assert guarded.post("/sample", BODY).status_code == 401
    for key in ("secret", "a-key"):
        assert guarded.post("/sample", BODY, headers=bearer(key)).status_code == 200
    assert guarded.get("/info", headers={"Authorization": "bearer  secret"}).status_code == 200


def test_a_key_that_is_taken_away_opens_no_more(
    guarded: LiveServer, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.owners.keys, "CHECK_EVERY_S", 0.0)
    before = file.read_text()
    file.write_text('[bob]\nkey = "b-key"\n')
    assert [guarded.get("/info", headers=bearer(key)).status_code for key in ("a-key", "b-key")] == [401, 200]
    file.write_text(before)
    assert [guarded.get("/info", headers=bearer(key)).status_code for key in ("a-key", "b-key")] == [200, 401]


def test_a_file_that_cannot_be_used_ends_the_start_in_one_line(
    tiny_folders: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "no.toml"
    assert main(["--checkpoint_path", str(tiny_folders["absorbing"]), "--api_keys_file", str(missing)]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    reason = "api_keys_file must be TOML with a table for each key (no such file or directory)"
    assert line == f"python -m server: error: {reason}, got {str(missing)!r}"


def test_a_job_belongs_to_the_holder_of_its_key(tiny: Mapping[str, Checkpoint], file: Path) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.05)
    body = {"seq_len": 30, "num_inference_steps": 30}
    with (
        serving({"absorbing": checkpoint}, api_keys_file=file) as server,
        httpx2.stream("POST", f"{server.url}/sample", json=body, headers=bearer("a-key"), timeout=30) as answer,
    ):
        next(answer.iter_lines())
        assert [job.owner for job in server.engine.jobs.all] == [Owner("key:alice", "alice", 3.0)]
    with serving({"absorbing": checkpoint}) as server, server.reading("/sample", body) as events:
        next(events)
        assert [job.owner for job in server.engine.jobs.all] == [Owner("address:127.0.0.1", "127.0.0.1")]
    assert denoiser.calls


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:bbbb::2", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        ("testclient", "testclient"),
        (None, "local"),
    ],
)
def test_an_ipv6_network_is_one_client(host: str | None, name: str) -> None:
    scope: Scope = {"client": None if host is None else (host, 1)}
    assert address_of(scope) == Owner(f"address:{name}", name)
