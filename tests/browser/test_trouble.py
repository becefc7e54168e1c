"""When things go wrong: the page says what happened, goes on where it can, and asks for a key where there is one."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from playwright.sync_api import Request, expect

from server.app import create_app
from server.settings import Settings
from server.work.engine import Engine
from server.work.room import Bounds
from tests.browser.player import Player, link, pieces
from tests.browser.severing_proxy import severing
from tests.browser.watched import Open
from tests.live_server import LiveServer, faked, serving, wait_until
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]
pytestmark = pytest.mark.browser

BODY: dict[str, Any] = {"seq_len": 24, "num_inference_steps": 100, "seed": 5}
SMALL: dict[str, Any] = {"seq_len": 8, "num_inference_steps": 4, "seed": 5}


def final(server: LiveServer, body: Mapping[str, Any]) -> list[str]:
    """What the cells show in the end."""
    done = server.post("/sample", {**body, "stream": False}).json()
    names = pieces(server, done["model"])
    return [names[token] for token in done["samples"][0]["tokens"]]


START: dict[str, Any] = {"id": "x", "model": "m", "process": "absorbing", "seed": 1, "num_inference_steps": 2}
NONSENSE: dict[str, list[tuple[str, Any]]] = {
    "not JSON": [("start", "{")],
    "an object": [("start", None)],
    "tokens": [("start", START)],
    "one length": [("start", START | {"tokens": [[4], [4, 4]]})],
    "begins with start": [("done", {})],
    "no event “surprise”": [("start", START | {"tokens": [[4]]}), ("surprise", {})],
    "a state must": [("start", START | {"tokens": [[4]]}), ("state", {"step": 1, "t": 1, "nfe": 1, "changes": None})],
    "lies outside": [
        ("start", START | {"tokens": [[4]]}),
        ("state", {"step": 1, "t": 1, "nfe": 1, "changes": [[0, 1, 7]]}),
    ],
    "step_map": [("start", START | {"tokens": [[4]]}), ("done", {})],
    "without a message": [("start", START | {"tokens": [[4]]}), ("error", None)],
    "<b>no</b>": [("error", {"error": {"message": "<b>no</b>", "type": "__proto__", "param": "__proto__"}})],
}
"""What a server must not say -> the events that say it."""


def test_a_server_that_talks_nonsense_is_told_so(live: LiveServer, open_page: Open) -> None:
    player = Player(open_page(live.url)).begun()
    banner = player.page.locator(".lane .banner")
    for word, events in NONSENSE.items():
        told = [
            f"event: {name}\ndata: {data if isinstance(data, str) else json.dumps(data)}\n\n" for name, data in events
        ]
        answer = {"content_type": "text/event-stream", "body": "".join(told)}
        player.page.route("**/sample", lambda route, _, answer=answer: route.fulfill(**answer), times=1)
        player.start()
        player.wait("error")
        expect(banner).to_contain_text("cannot be read" if word == "not JSON" else word)
    refusal = json.dumps({"error": {"message": "refused", "type": "x", "param": "__proto__", "code": 422}})
    player.page.route("**/sample", lambda route: route.fulfill(status=422, body=refusal))
    player.start()
    expect(player.page.locator("#form-problem")).to_have_text("refused")


def test_a_connection_that_breaks_is_taken_up_again(tiny: Mapping[str, Checkpoint], open_page: Open) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.06)
    with serving({"absorbing": checkpoint}) as server, severing(server.url) as proxy:
        player = Player(open_page(proxy.url + link("/sample", BODY))).begun()
        player.start()
        player.page.wait_for_function("() => document.querySelectorAll('.grid .set').length >= 3")
        proxy.down = True
        proxy.sever()
        expect(player.page.locator(".lane .banner")).to_contain_text("The connection broke")
        expect(player.page.locator("#strip")).to_contain_text("unreachable")
        proxy.down = False
        player.wait("done")
        player.end()
        expect(player.page.locator(".lane .banner")).to_be_hidden()
        assert player.labels() == final(server, BODY)
        player.page.close()


def test_a_server_that_restarts_meanwhile_is_said_to_have_done_so(
    tiny: Mapping[str, Checkpoint], open_page: Open
) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.06)
    checkpoints = {"absorbing": checkpoint}
    with serving(checkpoints) as before, serving(checkpoints) as after, severing(before.url) as proxy:
        player = Player(open_page(proxy.url + link("/sample", BODY))).begun()
        player.start()
        player.page.wait_for_function("() => document.querySelectorAll('.grid .set').length >= 3")
        proxy.upstream = after.url
        proxy.sever()
        player.wait("error")
        expect(player.page.locator(".lane .banner")).to_contain_text("may have restarted")
        assert any(player.labels()), "what had been told stays"
        player.page.get_by_role("button", name="Run again").click()
        player.wait("done")
        player.end()
        assert player.labels() == final(after, BODY)
        player.page.close()


def test_a_run_that_fails_midway_says_why_and_keeps_what_it_had(
    tiny: Mapping[str, Checkpoint], open_page: Open
) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"], delay_s=0.05)
    with serving({"absorbing": checkpoint}) as server:
        player = Player(open_page(server.url + link("/sample", BODY))).begun()
        player.start()
        player.page.wait_for_function("() => document.querySelectorAll('.grid .set').length >= 2")
        denoiser.failure = RuntimeError("<b>broken</b>")
        player.wait("error")
        banner = player.page.locator(".lane .banner")
        expect(banner).to_be_visible()
        expect(banner).to_have_attribute("role", "alert")
        assert "broken" not in banner.inner_text() and "Traceback" not in banner.inner_text()
        assert any(player.labels())
        player.page.get_by_role("button", name="Run again").click()
        player.wait("done")


def test_a_busy_server_is_waited_for_as_long_as_it_says(tiny: Mapping[str, Checkpoint], open_page: Open) -> None:
    checkpoint, denoiser = faked(tiny["absorbing"])
    with serving({"absorbing": checkpoint}, max_outstanding_work=600) as server:
        denoiser.gate.clear()
        other = threading.Thread(target=server.post, args=("/sample", {"seq_len": 24, "num_inference_steps": 20}))
        other.start()
        wait_until(lambda: denoiser.calls > 0)
        player = Player(open_page(server.url + link("/sample", BODY))).begun()
        player.start()
        banner = player.page.locator(".lane .banner")
        expect(banner).to_contain_text("The server is busy. Sending again in")
        expect(banner).to_contain_text("too much work is outstanding")
        denoiser.gate.set()
        other.join()
        player.wait("done")
        expect(banner).to_be_hidden()


def test_the_strip_tells_how_busy_the_server_is(tiny: Mapping[str, Checkpoint], open_page: Open) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.02)
    with serving({"absorbing": checkpoint}) as server:
        with server.reading("/sample", {"seq_len": 64, "num_inference_steps": 10_000}) as events:
            assert next(events).event == "start"
            strip = open_page(server.url).locator("#strip")
            expect(strip).to_contain_text("1 running · 0 waiting")
        expect(strip).to_contain_text("0 running · 0 waiting")
        expect(strip).to_contain_text("tokens/s")


def test_a_server_that_is_loading_or_stopping_says_so_and_the_page_begins_when_it_is_ready(
    tiny: Mapping[str, Checkpoint], open_page: Open
) -> None:
    checkpoint, _ = faked(tiny["absorbing"])
    settings = Settings()
    promise: Future[Engine] = Future()
    app = create_app(settings, promise)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        page = open_page(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
        expect(page.locator("#strip")).to_contain_text("loading")
        expect(page.locator("#run")).to_be_disabled()
        engine = Engine({"absorbing": checkpoint}, bounds=Bounds.of(settings))
        promise.set_result(engine)
        player = Player(page).begun()
        player.fill(**SMALL)
        player.run()
        engine.drain()
        expect(page.locator("#strip")).to_contain_text("stopping")
        page.close()
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def test_a_key_is_asked_for_sent_and_never_in_the_address(tiny: Mapping[str, Checkpoint], open_page: Open) -> None:
    asked: list[Request] = []
    with serving(tiny, api_key="s3cret&key") as server:
        page = open_page(server.url, lambda page: page.on("request", lambda request: asked.append(request)))
        dialog = page.get_by_role("dialog", name="API key")
        expect(dialog).to_be_visible()
        expect(page.get_by_label("Key", exact=True)).to_be_focused()
        page.get_by_label("Key", exact=True).fill("wr\u00f6ng")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("refused")
        page.get_by_label("Key", exact=True).fill("s3cret&key")
        page.get_by_role("button", name="Use key").click()
        player = Player(page).begun()
        player.fill(model="absorbing", **SMALL)
        player.run()
        headers = {"Authorization": "Bearer s3cret&key"}
        done = server.post("/sample", SMALL | {"stream": False}, headers=headers).json()
        expect(page.locator(".lane .facts")).to_contain_text(f"seed {done['seed']}")
        posts = [request for request in asked if request.method == "POST"]
        assert [urlsplit(request.url).path for request in posts].count("/sample") == 1
        assert {request.header_value("authorization") for request in posts} == {"Bearer s3cret&key"}
        assert not [request.url for request in asked if "s3cret" in request.url]
        assert "s3cret" not in page.url and "s3cret" not in page.evaluate("() => JSON.stringify(localStorage)")
        page.reload()  # kept for the tab
        player.begun()
        expect(dialog).to_be_hidden()
        page.get_by_role("button", name="API key").click()
        page.get_by_role("button", name="Forget key").click()
        page.reload()
        expect(dialog).to_be_visible()
        page.close()


def test_a_key_is_remembered_only_where_that_is_wished(tiny: Mapping[str, Checkpoint], open_page: Open) -> None:
    with serving(tiny, api_key="s3cret") as server:
        page = open_page(server.url)
        page.get_by_label("Key", exact=True).fill("s3cret")
        page.get_by_label("Remember it on this device").check()
        page.get_by_role("button", name="Use key").click()
        Player(page).begun()
        tab = page.context.new_page()
        tab.goto(server.url)
        Player(tab).begun()
        tab.get_by_role("button", name="API key").click()
        tab.get_by_role("button", name="Forget key").click()
        kept = tab.evaluate("() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }])")
        assert "s3cret" not in kept and "key" not in {name for store in json.loads(kept) for name in store}


def test_a_page_under_a_prefix(tiny: Mapping[str, Checkpoint], open_page: Open) -> None:
    asked: list[Request] = []
    with serving(tiny, root_path="/models/small") as server:
        page = open_page(
            f"{server.url}/models/small", lambda page: page.on("request", lambda request: asked.append(request))
        )
        assert page.url.startswith(f"{server.url}/models/small/")
        player = Player(page).begun()
        player.fill(**SMALL)
        player.run()
        assert any(player.labels())
        assert not [request.url for request in asked if "/models/small" not in request.url]
        page.get_by_role("button", name="Code").click()
        assert f"{server.url}/models/small/sample" in page.get_by_label("Code", exact=True).input_value()
