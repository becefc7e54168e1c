"""Coming back to a request over a real socket: reading on, asking, ending it."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2
import pytest

import server.api.routes.requests
import server.api.routes.sampling
from server.errors import shutdown
from server.owners.owner import Owner
from tests.live_server import (
    FakeDenoiser,
    LiveServer,
    assert_rising,
    done_of,
    faked,
    replay,
    serving,
    tokens_of,
    wait_until,
)
from tests.server.api.routes.test_sampling import ENDPOINTS, LONG, REQUEST, _parse, of_type
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]

KEEP = {"on_disconnect": "keep"}

Events = list[httpx2.ServerSentEvent]


@contextmanager
def reading(
    url: str, body: Any = None, last: str | None = None
) -> Iterator[tuple[str, Iterator[httpx2.ServerSentEvent]]]:
    """A stream that may be left in the middle: its id, and its events."""
    options: dict[str, Any] = {"method": "GET"} if body is None else {"method": "POST", "json": body}
    headers = {} if last is None else {"Last-Event-ID": last}
    with httpx2.Client(timeout=30) as client, client.sse(url, headers=headers, **options) as source:
        assert source.response.status_code == 200, source.response.read()
        yield source.response.headers["x-sample-id"], iter(source)


def begin(server: LiveServer, path: str, body: Any, num_events: int) -> tuple[str, Events]:
    """The first events of a stream that is then left before its end, and its id."""
    with reading(server.url + path, body) as (id, events):
        before_done = itertools.takewhile(lambda event: event.event != "done", events)
        return id, list(itertools.islice(before_done, num_events))


def resume(server: LiveServer, id: str, last: str | None = None, url: str = "") -> Events:
    """What there is after the event `last`, to the end."""
    with reading(events_of(server, id) + url, last=last) as (same, events):
        assert same == id
        return list(events)


def events_of(server: LiveServer, id: str) -> str:
    return f"{server.url}/requests/{id}/events"


def delete(server: LiveServer, id: str) -> int:
    return httpx2.delete(f"{server.url}/requests/{id}", timeout=30).status_code


@contextmanager
def slow_server(
    tiny: Mapping[str, Checkpoint], delay_s: float = 0.02, process: str = "absorbing", **settings: Any
) -> Iterator[tuple[LiveServer, FakeDenoiser]]:
    checkpoint, denoiser = faked(tiny[process], delay_s)
    with serving({process: checkpoint}, **settings) as server:
        yield server, denoiser


@contextmanager
def in_a_step(tiny: Mapping[str, Checkpoint]) -> Iterator[tuple[LiveServer, FakeDenoiser]]:
    """A server whose engine is held in a step: what comes now joins only after it."""
    with slow_server(tiny) as (server, denoiser):
        denoiser.gate.clear()
        with reading(server.url + "/sample", REQUEST):
            wait_until(lambda: denoiser.calls == 1)
            yield server, denoiser


@pytest.mark.parametrize("num_events", [1, 2, 5])
@pytest.mark.parametrize(("path", "fields"), ENDPOINTS)
def test_a_stream_that_is_cut_goes_on_after_its_last_event_without_a_seam(
    live: LiveServer, path: str, fields: dict[str, Any], num_events: int
) -> None:
    body = REQUEST | fields | KEEP
    undisturbed = live.events(path, body)
    id, seen = begin(live, path, body, num_events)
    rest = resume(live, id, seen[-1].id)
    assert "start" not in [event.event for event in rest]
    assert_rising(seen + rest)
    assert replay(seen + rest) == tokens_of(done_of(rest)) == tokens_of(done_of(undisturbed))
    assert of_type(seen + rest, "block") == of_type(undisturbed, "block")
    assert done_of(rest)["step_map"] == done_of(undisturbed)["step_map"]
    states = [event for event in rest if event.event == "state"]
    assert [number for number, state in enumerate(states) if "keyframe" in state.data] == [0][: len(states)]
    for state in states[:1]:
        assert json.loads(state.data)["keyframe"] == replay([*seen, state])


@pytest.mark.parametrize(("path", "fields"), ENDPOINTS)
def test_who_comes_without_an_event_is_told_everything(live: LiveServer, path: str, fields: dict[str, Any]) -> None:
    body = REQUEST | fields | KEEP | {"include_text": True}
    undisturbed = live.events(path, body)
    id, seen = begin(live, path, body, 3)
    for _ in range(2):
        events = resume(live, id)
        assert events[0].data == seen[0].data and events[0].id == "0"
        assert_rising(events)
        assert replay(events) == tokens_of(done_of(events)) == tokens_of(done_of(undisturbed))
        assert of_type(events, "block") == of_type(undisturbed, "block")
        assert of_type(events, "state")[-1]["text"] == [sample["text"] for sample in done_of(events)["samples"]]


def test_a_running_request_is_read_on_while_it_runs(tiny: Mapping[str, Checkpoint]) -> None:
    with slow_server(tiny) as (server, _):
        id, seen = begin(server, "/sample", LONG | KEEP | {"seed": 3}, 4)
        rest = resume(server, id, seen[-1].id)
        assert len(rest) > 10
        assert replay(seen + rest) == tokens_of(done_of(rest))
        assert tokens_of(done_of(server.events("/sample", LONG | {"seed": 3}))) == tokens_of(done_of(rest))


def test_how_a_request_wants_to_be_told_holds_for_who_comes_back(tiny: Mapping[str, Checkpoint]) -> None:
    with slow_server(tiny, 0.05) as (server, _):
        body = REQUEST | KEEP | {"stream_every": 3, "include_text": True, "keyframe_every": 2}
        id, _ = begin(server, "/sample", body, 1)
        events = resume(server, id)
        states = of_type(events, "state")
        assert all(len(state["text"]) == 2 for state in states)
        assert ["keyframe" in state for state in states] == [number % 2 == 1 for number in range(len(states))]
        assert len(states) <= -(-done_of(events)["usage"]["nfe"] // 3) + 1


def test_who_has_seen_the_end_gets_it_again(live: LiveServer) -> None:
    events = live.events("/sample/block", REQUEST | KEEP | {"block_size": 8})
    id = done_of(events)["id"]
    for _ in range(2):
        (again,) = resume(live, id, events[-1].id)
        assert (again.event, again.id, again.data) == ("done", events[-1].id, events[-1].data)
    (before_done,) = resume(live, id, events[-2].id)
    assert before_done.event == "done"


def test_an_id_of_an_event_may_come_in_the_url(live: LiveServer) -> None:
    id, seen = begin(live, "/sample", REQUEST | KEEP, 2)
    rest = resume(live, id, url=f"?last_event_id={seen[-1].id}")
    assert rest[0].event == "state" and replay(seen + rest) == tokens_of(done_of(rest))


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "99999", "9" * 40, "٣"])
def test_what_is_no_event_of_the_request_is_refused(live: LiveServer, last: str) -> None:
    id, _ = begin(live, "/sample", REQUEST | KEEP, 1)
    response = httpx2.get(events_of(live, id), params={"last_event_id": last})
    error = response.json()["error"]
    assert response.status_code == error["code"] == 422
    assert error["message"].startswith("Last-Event-ID must be the id of an event of this request, got ")


def test_a_request_that_has_not_begun_can_be_read(tiny: Mapping[str, Checkpoint]) -> None:
    with in_a_step(tiny) as (server, denoiser):
        with reading(server.url + "/sample", {"seq_len": 2, "num_inference_steps": 2} | KEEP) as (id, _):
            pass
        assert server.get(f"/requests/{id}").json()["status"] == "waiting"
        with reading(events_of(server, id)) as (_, events):
            denoiser.gate.set()
            told = list(events)
        assert told[0].event == "start" and replay(told) == tokens_of(done_of(told))


def test_two_read_one_request_and_it_ends_with_the_last_of_them(tiny: Mapping[str, Checkpoint]) -> None:
    with slow_server(tiny) as (server, denoiser):
        with ExitStack() as first:
            id, beginning = first.enter_context(reading(server.url + "/sample", LONG))
            assert next(beginning).event == "start"
            with reading(events_of(server, id)) as (_, events):
                assert next(events).event == "start"
                first.close()
                assert [next(events).event for _ in range(3)] == ["state"] * 3
                assert server.get(f"/requests/{id}").json()["status"] == "running"
        calls = denoiser.calls
        wait_until(lambda: server.engine.idle, timeout_s=2)
        assert denoiser.calls <= calls + 4
        assert server.get(f"/requests/{id}").status_code == 404


def test_a_reader_that_does_not_read_holds_up_none_beside_it(tiny: Mapping[str, Checkpoint]) -> None:
    body = {"seq_len": 512, "num_samples": 16, "num_inference_steps": 100, "include_text": True, "seed": 3} | KEEP
    with slow_server(tiny, 0.005, "uniform") as (server, _), socket.socket() as slow:
        id, _ = begin(server, "/sample", body, 1)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(30)
        slow.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
        slow.sendall(f"GET /requests/{id}/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        fast = resume(server, id)  # to its end, while the other has not read a byte
        late = _parse(b"".join(iter(lambda: slow.recv(2**20), b"")))
    assert len(late) < done_of(late)["usage"]["nfe"], "states were merged"
    assert replay(late) == tokens_of(done_of(late)) == replay(fast) == tokens_of(done_of(fast))


def test_what_is_kept_runs_on_for_a_while_and_is_gone_then(tiny: Mapping[str, Checkpoint]) -> None:
    with slow_server(tiny, reattach_s=0.3) as (server, denoiser):
        id, _ = begin(server, "/sample", LONG | KEEP, 2)
        calls = denoiser.calls
        wait_until(lambda: denoiser.calls > calls + 4)
        wait_until(lambda: server.engine.idle)
        assert denoiser.calls < 60
        assert server.get(f"/requests/{id}/events").status_code == 404


def test_the_time_of_a_request_runs_without_a_reader_too(tiny: Mapping[str, Checkpoint]) -> None:
    with slow_server(tiny) as (server, _):
        id, seen = begin(server, "/sample", LONG | KEEP | {"timeout_s": 0.5}, 2)
        wait_until(lambda: server.engine.idle)
        *_, last = resume(server, id, seen[-1].id)
        assert json.loads(last.data)["error"]["type"] == "timeout"
        status = server.get(f"/requests/{id}").json()
        assert (status["status"], status["error"]["type"], status["done"]) == ("failed", "timeout", None)


def test_a_server_that_stops_tells_all_readers(tiny: Mapping[str, Checkpoint]) -> None:
    with slow_server(tiny) as (server, _):
        unread, _ = begin(server, "/sample", LONG | KEEP, 1)
        with reading(server.url + "/sample", LONG) as (id, first), reading(events_of(server, id)) as (_, second):
            assert next(first).event == next(second).event == "start"
            server.engine.drain()
            server.engine.abort(shutdown)
            for events in (first, second):
                *_, last = events
                assert json.loads(last.data)["error"]["type"] == "shutdown"
        *_, last = resume(server, unread)
        assert json.loads(last.data)["error"]["type"] == "shutdown"
        assert server.engine.idle


@pytest.mark.parametrize("fields", [{}, KEEP])
def test_delete_ends_a_running_request(tiny: Mapping[str, Checkpoint], fields: dict[str, str]) -> None:
    with slow_server(tiny, 0.05) as (server, denoiser):
        with reading(server.url + "/sample", LONG | fields) as (id, events):
            assert next(events).event == "start" and next(events).event == "state"
            assert delete(server, id) == 204
            calls = denoiser.calls
            *_, last = events
        assert json.loads(last.data) == {
            "error": {"message": "the request was cancelled", "type": "cancelled", "param": None, "code": 499}
        }
        wait_until(lambda: server.engine.idle, timeout_s=1)
        assert denoiser.calls <= calls + 2
        assert delete(server, id) == 404


def test_delete_ends_a_request_that_has_not_begun(tiny: Mapping[str, Checkpoint]) -> None:
    with in_a_step(tiny) as (server, denoiser):
        with reading(server.url + "/sample", LONG | {"seq_len": 7}) as (id, events):
            assert delete(server, id) == 204
            (last,) = events
        assert json.loads(last.data)["error"]["type"] == "cancelled"
        denoiser.gate.set()
        wait_until(lambda: server.engine.idle)
        assert 7 not in denoiser.widths


def test_delete_forgets_a_request_that_has_ended(live: LiveServer) -> None:
    id, _ = begin(live, "/sample", REQUEST | KEEP, 1)
    assert resume(live, id)[-1].event == "done"
    assert delete(live, id) == 204
    assert delete(live, id) == live.get(f"/requests/{id}/events").status_code == 404


def test_what_is_not_kept_is_unknown_once_it_is_over(live: LiveServer) -> None:
    start = of_type(live.events("/sample", REQUEST), "start")[0]
    unknown = live.get("/requests/smp-nobody")
    assert unknown.status_code == unknown.json()["error"]["code"] == 404
    assert unknown.json()["error"]["type"] == "not_found"
    assert live.get(f"/requests/{start['id']}").json() == unknown.json()


def test_the_status_says_how_far_it_is_and_at_last_the_answer(tiny: Mapping[str, Checkpoint]) -> None:
    with slow_server(tiny) as (server, _):
        id, _ = begin(server, "/sample", REQUEST | KEEP, 2)
        first = server.get(f"/requests/{id}").json()
        assert (first["id"], first["model"], first["status"]) == (id, "absorbing", "running")
        assert first["nfe"] >= 1 and first["step"] >= 1 and first["num_inference_steps"] == 16
        assert first["done"] is None and first["error"] is None
        wait_until(lambda: server.engine.idle)
        last = server.get(f"/requests/{id}").json()
        assert (last["status"], last["step"], last["t"]) == ("done", 16, 0)
        assert last["done"] == done_of(resume(server, id))


def test_with_keys_only_the_owners_key_opens_a_request(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answer for a stranger's request as for none."""

    def owner_of(request: Any) -> Owner:
        name = request.headers.get("x-owner", "alice")
        return Owner(f"key:{name}", name)

    monkeypatch.setattr(server.api.routes.sampling, "owner_of", owner_of)
    monkeypatch.setattr(server.api.routes.requests, "owner_of", owner_of)
    id, _ = begin(live, "/sample", REQUEST | KEEP, 1)
    bob = {"X-Owner": "bob"}
    unknown = live.get("/requests/smp-nobody").json()
    for url in (f"/requests/{id}", f"/requests/{id}/events"):
        refused = live.get(url, headers=bob)
        assert refused.status_code == 404 and refused.json() == unknown
    assert httpx2.delete(f"{live.url}/requests/{id}", headers=bob).status_code == 404
    assert resume(live, id)[-1].event == "done"
    assert delete(live, id) == 204


def test_an_answer_without_a_stream_cannot_be_kept_as_nobody_could_find_it(live: LiveServer) -> None:
    response = live.post("/sample", REQUEST | KEEP | {"stream": False})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, "on_disconnect")
    assert error["message"] == (
        "on_disconnect must be 'cancel' where stream is false, as only a stream tells its id, got 'keep'"
    )
    error = live.post("/sample", REQUEST | {"on_disconnect": "stay"}).json()["error"]
    assert error["message"] == "on_disconnect must be 'cancel' or 'keep', got 'stay'"
