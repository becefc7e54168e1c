"""The JavaScript client where it is at home: in a browser, against a live server."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.severing_proxy import severing
from tests.browser.watched import Open
from tests.live_server import FakeDenoiser, LiveServer, faked, serving, tokens_of, wait_until
from token_diffusion.checkpoint import Checkpoint

pytest_plugins = ["tests.server_fixtures"]
pytestmark = pytest.mark.browser

BODY: dict[str, Any] = {"prompt": "w3 w4", "num_samples": 2, "seq_len": 20, "num_inference_steps": 16, "seed": 5}

PROGRAM = """
async (given) => {
  const { Client, SampleError, ConnectionError } = await import(new URL("web/client.js", document.baseURI));
  const client = new Client(given.options);
  const failed = async (work) => {
    try {
      await work();
      return null;
    } catch (error) {
      const { name, message, type, param, code, retryAfter } = error;
      return { name, message, type, param, code, retryAfter, known: error instanceof SampleError };
    }
  };
  const story = async (parameters, options = {}) => {
    const events = [];
    for await (const event of client.stream(parameters, options)) events.push(event);
    return events;
  };
  %s
}
"""


def told(page: Page, program: str, body: Mapping[str, Any] = BODY, **options: Any) -> Any:
    """What `program` returns, which has a `client` of `options` and `given.body`."""
    return page.evaluate(PROGRAM % program, {"body": dict(body), "options": options})


def replayed(events: list[dict[str, Any]]) -> list[list[int]]:
    """The tokens that the events lead to."""
    tokens: list[list[int]] = events[0]["data"]["tokens"]
    for event in events[1:]:
        tokens = event["data"].get("keyframe", tokens)
        for sample, position, token in event["data"].get("changes", []):
            tokens[sample][position] = token
    return tokens


@pytest.fixture
def held(tiny: Mapping[str, Checkpoint]) -> Iterator[tuple[LiveServer, FakeDenoiser]]:
    """A server with room for hardly more than one request, and its denoiser, which can be told to wait."""
    checkpoint, denoiser = faked(tiny["absorbing"])
    with serving({"absorbing": checkpoint}, max_outstanding_work=600) as server:
        yield server, denoiser
        denoiser.gate.set()


@pytest.mark.parametrize("endpoint", ["/sample", "/sample/block", "/sample/hybrid"])
def test_samples_are_those_of_any_other_client(live: LiveServer, open_page: Open, endpoint: str) -> None:
    page = open_page(live.url)
    body = BODY | ({"block_size": 8} if endpoint == "/sample/block" else {})
    done = told(page, f"return client.sample(given.body, {{ endpoint: '{endpoint}' }})", body)
    expected = live.post(endpoint, body | {"stream": False}).json()
    assert (done["samples"], done["step_map"]) == (expected["samples"], expected["step_map"])


def test_a_seed_beyond_what_a_number_holds_comes_back_whole(live: LiveServer, open_page: Open) -> None:
    program = "return String((await client.sample({ ...given.body, seed: 2n ** 63n - 1n })).seed)"
    assert told(open_page(live.url), program) == str(2**63 - 1)


def test_a_stream_replays_to_its_end(live: LiveServer, open_page: Open) -> None:
    events = told(open_page(live.url), "return story(given.body)")
    assert [events[0]["event"], events[-1]["event"]] == ["start", "done"]
    assert replayed(events) == tokens_of(events[-1]["data"])


def test_a_stream_that_breaks_is_read_on(tiny: Mapping[str, Checkpoint], open_page: Open) -> None:
    program = """
    const waits = [];
    const events = [];
    for await (const event of client.stream(given.body, { onWait: ({ attached }) => waits.push(attached) })) {
      events.push(event);
      if (events.length === 3 || events.length === 6) await sever();
    }
    return { events, waits };
    """
    body = BODY | {"num_inference_steps": 64}
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.03)
    with serving({"absorbing": checkpoint}) as server, severing(server.url) as proxy:
        page = open_page(proxy.url)
        page.expose_function("sever", lambda: proxy.sever())
        found = told(page, program, body)
        expected = server.post("/sample", body | {"stream": False}).json()
        page.close()
    assert set(found["waits"]) == {True} and len(found["waits"]) >= 2
    assert replayed(found["events"]) == tokens_of(expected) == tokens_of(found["events"][-1]["data"])


def test_what_is_refused_is_told_in_the_server_s_words(live: LiveServer, open_page: Open) -> None:
    page = open_page(live.url)
    error = told(page, "return failed(() => client.sample({ ...given.body, top_p: 1.5 }))")
    assert error == {
        "name": "SampleError",
        "message": live.post("/sample", BODY | {"top_p": 1.5}).json()["error"]["message"],
        "type": "invalid_request",
        "param": "top_p",
        "code": 422,
        "retryAfter": None,
        "known": True,
    }
    lone = told(page, "return failed(() => client.sample({ ...given.body, prompt: 'w3 \\ud800' }))")
    assert (lone["type"], lone["code"], lone["param"]) == ("invalid_request", 422, "prompt")
    assert told(page, "return client.cancel('smp-none')") is False


def test_texts_and_tokens(live: LiveServer, open_page: Open) -> None:
    page = open_page(live.url)
    told_tokens = told(page, "return client.tokenize({ prompt: 'w3 w4 [MASK]', model: 'uniform' })")
    assert told_tokens == live.post("/tokenize", {"prompt": "w3 w4 [MASK]", "model": "uniform"}).json()
    text = told(page, f"return client.detokenize({{ tokens: {told_tokens['tokens'][:2]}, model: 'uniform' }})")
    assert text["prompt"] == "w3 w4"
    assert told(page, "return client.tokens('uniform')") == live.get("/models/uniform/tokens").json()
    assert told(page, "return failed(() => client.tokens('no/such model'))")["code"] == 404


def test_a_busy_server_is_asked_again_when_it_said(held: tuple[LiveServer, FakeDenoiser], open_page: Open) -> None:
    server, denoiser = held
    denoiser.gate.clear()
    body = BODY | {"num_samples": 1}
    first = threading.Thread(target=server.post, args=("/sample", body))
    first.start()
    wait_until(lambda: denoiser.calls > 0)
    page = open_page(server.url)
    refused = told(page, "return failed(() => client.sample(given.body, { retries: 0 }))", body)
    assert (refused["type"], refused["code"]) == ("overloaded", 429)
    assert refused["retryAfter"] >= 1
    page.expose_function("release", lambda: denoiser.gate.set())
    program = """
    const waits = [];
    const onWait = (wait) => { waits.push([wait.attached, wait.error.code]); release(); };
    const done = await client.sample(given.body, { onWait });
    return { waits, done };
    """
    found = told(page, program, body)
    first.join()
    assert found["waits"][0] == [False, 429]
    assert len(found["done"]["samples"]) == 1


def test_whoever_leaves_a_stream_ends_its_request(tiny: Mapping[str, Checkpoint], open_page: Open) -> None:
    checkpoint, _ = faked(tiny["absorbing"], delay_s=0.02)
    program = "for await (const event of client.stream(given.body)) if (event.event === 'state') break;"
    abort = """
    const leaver = new AbortController();
    const error = failed(() => story(given.body, { signal: leaver.signal }));
    setTimeout(() => leaver.abort(), 100);
    return error;
    """
    body = {"seq_len": 64, "num_inference_steps": 1000, "seed": 3}
    with serving({"absorbing": checkpoint}) as server:
        page = open_page(server.url)
        told(page, program, body)
        wait_until(lambda: server.engine.jobs.rows == 0)
        assert told(page, abort, body)["name"] == "AbortError"
        wait_until(lambda: server.engine.jobs.rows == 0)


def test_a_stream_that_fails_says_why(held: tuple[LiveServer, FakeDenoiser], open_page: Open) -> None:
    server, denoiser = held
    page = open_page(server.url)
    denoiser.failure = RuntimeError("<b>broken</b>")
    error = told(page, "return failed(() => story(given.body))", BODY | {"num_samples": 1})
    assert (error["known"], error["code"], error["type"]) == (True, 500, "internal")
    assert "broken" not in error["message"]


def test_a_key_goes_along(tiny: Mapping[str, Checkpoint], open_page: Open) -> None:
    checkpoint, _ = faked(tiny["absorbing"])
    with serving({"absorbing": checkpoint}, api_key="secret") as server:
        page = open_page(server.url)
        assert told(page, "return failed(() => client.models())")["code"] == 401
        assert told(page, "return client.models()", apiKey="secret")[0]["name"] == "absorbing"
        assert "done" in [event["event"] for event in told(page, "return story(given.body)", apiKey="secret")]
