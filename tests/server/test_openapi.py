"""The live server keeps what its openapi.json says: schemathesis asks for what the document allows, and for what it does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from pydantic import TypeAdapter
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode
from starlette.testclient import TestClient

from server.api.openai.answers import Completion
from server.api.openapi import DocumentedAPI
from server.api.protocol.events import EVENT_NAMES
from server.errors import ErrorEvent
from server.settings import Settings
from tests.live_server import LiveServer, serving
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.samplers.catalogue import KINDS, all_options

pytest_plugins = ["tests.server_fixtures"]

KEY = {"Authorization": "Bearer secret"}
SMALL: dict[str, Any] = {
    "max_seq_len": 12,
    "max_num_samples": 2,
    "max_num_inference_steps": 8,
    "request_timeout_s": 20,
    "max_body_bytes": 1 << 20,
}
STATE = ("GET /health", "GET /ready", "GET /models", "GET /info", "GET /version", "GET /v1/models")
SAMPLING = ("POST /sample", "POST /sample/block", "POST /sample/hybrid")
TEXT = ("POST /tokenize", "POST /detokenize")

OPENAI = ("POST /v1/completions",)

TEXTS = ("prompt", "template", "prompt_ids", "template_ids", "messages", "tokens")
TOLD_BY_OTHERS = ("suffix", "max_tokens", "n", "best_of", "diffusing")
TOLD_BY_THE_SAMPLER = ("sampler", "preset", "guidance_scale", "suppress_end", "early_end", "logprobs", *all_options())
TOLD_BY_THE_CHECKPOINT = (
    *(*TEXTS, *TOLD_BY_OTHERS, *TOLD_BY_THE_SAMPLER),
    *("model", "label", "seed", "num_inference_steps", "on_disconnect"),
)
"""Fields that may be refused although the document allows them: by what is loaded, how long a text is in tokens, which ids are
in a vocabulary, which labels and conversations a model knows, whether the process has a continuous-time limit, for which process
a sampler is and which options it has, `keep` without a stream, what goes with other fields, and a seed at its bound, which is
none in doubles."""


@pytest.fixture(scope="module")
def limited(tiny: Mapping[str, Checkpoint]) -> Iterator[LiveServer]:
    with serving(tiny, api_key="secret", **SMALL) as server:
        yield server


@pytest.fixture(scope="module")
def document(limited: LiveServer) -> Any:
    document = schemathesis.openapi.from_url(f"{limited.url}/openapi.json", headers=KEY)
    document.config.max_stream_events = 10_000  # samplers that correct have more than its twenty
    return document


def fits(body: Any, mode: GenerationMode) -> Any:
    """A `timeout_s` that is allowed as it is by default: 504 is the true answer to 1e-300 seconds, and not the server's fault.

    Nor does what is to be answered ask for options that another sampler has: hardly any such request would be left.
    """
    if not isinstance(body, dict):
        return body
    kept = {name: value for name, value in body.items() if name != "timeout_s" or not is_allowed(value)}
    if mode is GenerationMode.NEGATIVE:
        return kept  # of which any field may be the one to be refused
    own = KINDS[kept.get("sampler", "ancestral")].options
    return {name: value for name, value in kept.items() if name in own or name not in all_options()}


def is_allowed(timeout_s: Any) -> bool:
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    return is_number and 0 < timeout_s <= SMALL["request_timeout_s"]


def check_stream(text: str) -> None:
    """Events of known names whose data fit their models, the last one done or error; or chunks of a completion, and `[DONE]`."""
    if text.endswith("data: [DONE]\n\n"):
        for line in text.split("\n\n")[:-2]:
            TypeAdapter(Completion | ErrorEvent).validate_json(line.removeprefix("data: "))
        return
    models = {name: model for model, name in EVENT_NAMES.items()}
    names: list[str] = []
    last = -1
    for event in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.splitlines())
        models[fields["event"]].model_validate_json(fields["data"])
        assert last < (last := int(fields["id"]))
        names.append(fields["event"])
    assert names[0] == "start" and names[-1] in ("done", "error")


def is_refused_for_the_checkpoint(response: Any) -> bool:
    return response.status_code == 422 and response.json()["error"]["param"] in TOLD_BY_THE_CHECKPOINT


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("label", SAMPLING + TEXT + OPENAI)
def test_requests_get_the_answers_that_are_documented(document: Any, label: str, mode: GenerationMode) -> None:
    seen: set[int] = set()

    @settings(max_examples=15, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=document.find_operation_by_label(label).as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.body = fits(case.body, mode)
        response = case.call(headers=KEY)
        seen.add(response.status_code)
        unfair = ["positive_data_acceptance"] if is_refused_for_the_checkpoint(response) else []
        case.validate_response(response, excluded_checks=[CHECKS.get_one(name) for name in unfair])
        if "text/event-stream" in response.headers["content-type"][0]:
            check_stream(response.text)

    ask()
    assert (200 in seen) if mode is GenerationMode.POSITIVE else (422 in seen)


@pytest.mark.parametrize("label", STATE)
def test_the_state_is_told_as_documented(document: Any, label: str) -> None:
    @settings(max_examples=3, derandomize=True, database=None, deadline=None)
    @given(case=document.find_operation_by_label(label).as_strategy())
    def ask(case: Any) -> None:
        assert case.call_and_validate(headers=KEY).status_code == 200

    ask()


@pytest.mark.slow
def test_schemathesis_finds_nothing_in_all_its_phases(limited: LiveServer, tmp_path: Path) -> None:
    """Boundary values, missing and duplicated fields, other methods, random ones: a thousand requests."""
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(
        "[checks]\nnot_a_server_error.expected-statuses = ['2xx', '3xx', '4xx', 504]\npositive_data_acceptance.enabled = false\n"
        "negative_data_rejection.expected-statuses = ['4xx', 504]\n"
    )
    run = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration), "run"]
    options = [
        "-n",
        "200",
        "--seed",
        "1",
        "--continue-on-failure",
        "--header",
        f"Authorization: {KEY['Authorization']}",
    ]
    result = subprocess.run(
        [*run, f"{limited.url}/openapi.json", *options], cwd=tmp_path, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-1000:]
    assert limited.get("/ready").status_code == 200


def test_405_names_all_methods_of_a_path() -> None:
    app = DocumentedAPI(settings=Settings())
    app.get("/a/{b}")(lambda b: b)
    app.delete("/a/{b}")(lambda b: b)
    app.put("/a")(lambda: None)
    client = TestClient(app)
    assert client.put("/a/1").headers["allow"] == "DELETE, GET"
    assert client.get("/a").headers["allow"] == "PUT"
    assert client.post("/openapi.json").headers["allow"] == "GET"


def test_keys_are_documented_where_there_are_some(limited: LiveServer, live: LiveServer) -> None:
    guarded, free = limited.get("/openapi.json", headers=KEY).json(), live.get("/openapi.json").json()
    assert guarded["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    for path, item in guarded["paths"].items():
        for method, operation in item.items():
            refused = httpx2.request(method, limited.url + path).status_code == 401
            assert ("401" in operation["responses"], operation.get("security")) == (
                (True, [{"key": []}]) if refused else (False, None)
            )
    assert "securitySchemes" not in free["components"]
    assert not any("401" in operation["responses"] for item in free["paths"].values() for operation in item.values())


def test_every_answer_has_a_schema_and_every_error_the_one(live: LiveServer) -> None:
    document = live.get("/openapi.json").json()
    num_errors = 0
    for item in document["paths"].values():
        for operation in item.values():
            for code, response in operation["responses"].items():
                assert response["description"]
                schemas = [
                    media.get("schema") for media in response.get("content", {}).values() if "itemSchema" not in media
                ]
                if code >= "400":
                    assert schemas == [{"$ref": "#/components/schemas/ErrorEvent"}]
                    num_errors += 1
                assert all(schemas)
    assert num_errors > 20
    assert "ErrorEvent" in document["components"]["schemas"]


def test_the_limits_are_documented_and_the_defaults_within_them(limited: LiveServer, live: LiveServer) -> None:
    def fields(server: LiveServer) -> Any:
        schemas = server.get("/openapi.json", headers=KEY).json()["components"]["schemas"]
        return schemas["BlockSampleRequest"]["properties"]

    small, large = fields(limited), fields(live)
    assert (small["seq_len"]["maximum"], small["seq_len"]["default"]) == (12, 12)
    assert (small["num_inference_steps"]["anyOf"][0]["maximum"], small["num_inference_steps"]["default"]) == (8, 8)
    assert (small["timeout_s"]["maximum"], small["timeout_s"]["default"]) == (20, 20)
    assert (large["seq_len"]["maximum"], large["seq_len"]["default"]) == (1024, 64)
    answer = limited.post("/sample/block", {"stream": False}, headers=KEY)
    assert answer.status_code == 200
    assert [len(sample["tokens"]) for sample in answer.json()["samples"]] == [12]


@pytest.mark.parametrize(("field", "value"), [("seq_len", 13), ("num_inference_steps", 128), ("timeout_s", 60)])
def test_what_is_asked_for_is_not_brought_down(limited: LiveServer, field: str, value: int) -> None:
    answer = limited.post("/sample", {"stream": False, field: value}, headers=KEY)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == field
