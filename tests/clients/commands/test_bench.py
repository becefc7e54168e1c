"""Load on a real server, figures that are known, and what a file of prompts may hold."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.clients.scripted_server import EVENTS, Reply, answer, envelope, scripted, sse
from tests.live_server import LiveServer
from token_diffusion_client import SampleError, Usage, Vocabulary
from token_diffusion_client.__main__ import main
from token_diffusion_client.commands.figures import Trace, percentile, report, summary
from token_diffusion_client.commands.traffic import Lexicon, arrivals, model_for, prompts_of, requests
from token_diffusion_client.protocol.answers import Frame, Model

pytest_plugins = ["tests.server_fixtures"]

Capture = pytest.CaptureFixture[str]

MODELS = [Model("h", "hybrid"), Model("a", "absorbing"), Model("u", "uniform")]
LISTED = {"models": [{"name": model.name, "process": model.process} for model in MODELS]}


def bench(url: str, *arguments: str) -> int:
    return main(["bench", "--url", url, *arguments])


def test_load_on_a_server(live: LiveServer, capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    sizes = ["--num_prompts", "12", "--max_concurrency", "3", "--num_warmups", "2", "--random_output_len", "16"]
    fields = ["--num_inference_steps", "8", "--model", "uniform"]
    assert bench(live.url, *sizes, *fields, "--output_file", str(file), "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads(file.read_text(encoding="utf-8"))
    assert (figures["completed"], figures["failed"], figures["failures"]) == (12, 0, {})
    assert (figures["total_output_tokens"], figures["request_rate"]) == (12 * 16, "inf")
    assert 1 <= figures["max_concurrent_requests"] <= 3
    assert 0 < figures["total_nfe"] <= 12 * 8
    assert figures["request"] == {"num_inference_steps": 8, "model": "uniform"}
    assert 0 < figures["median_ttfs_ms"] <= figures["median_e2el_ms"] <= figures["p99_e2el_ms"]
    assert figures["output_throughput"] == pytest.approx(12 * 16 / figures["duration"])


def test_people_get_lines(capsys: Capture) -> None:
    with scripted(sample=Reply([sse()]), models=answer(LISTED)) as server:
        assert bench(server.url, "--num_prompts", "3", "--request_rate", "1000") == 0
        assert sorted(request.body["seq_len"] for request in server.requests[1:]) == [64] * 3
    out, error = capsys.readouterr()
    assert error == ""
    assert "Successful requests:                             3\n" in out
    assert (
        "Median TTFS (ms):" in out
        and "P99 E2EL (ms):" in out
        and "Failed requests:                                 0" in out
    )


def test_failures_are_counted_by_their_kind(capsys: Capture) -> None:
    busy, wrong = answer(envelope(429), 429), answer(envelope(422), 422)
    busy.then = Reply([sse(EVENTS[:2])], "abort", then=Reply([sse()], then=wrong))
    with scripted(sample=busy, models=answer(LISTED)) as server:
        assert bench(server.url, "--num_prompts", "5", "--max_concurrency", "1", "--json") == 0
    out, error = capsys.readouterr()
    figures = json.loads(out)
    assert figures["failures"] == {"429 invalid_request": 1, "IncompleteStream": 1, "422 invalid_request": 2}
    assert (figures["completed"], figures["failed"]) == (1, 4)
    assert error == "4 of 5 requests failed, one of them: top_p must be in (0, 1], got 1.5\n"


def test_nothing_done_is_a_failure(capsys: Capture) -> None:
    with scripted(sample=answer(envelope(422), 422), models=answer(LISTED)) as server:
        assert bench(server.url, "--num_prompts", "2") == 1
    out, error = capsys.readouterr()
    assert "Mean E2EL (ms):                                  -" in out
    assert "  failed with 422 invalid_request:" in out and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--request_rate", "0"], "argument --request_rate: must be > 0 or inf, got '0'"),
        (["--request_rate", "nan"], "argument --request_rate: must be > 0 or inf, got 'nan'"),
        (["--num_prompts", "0"], "argument --num_prompts: must be >= 1, got '0'"),
        (["--random_range_ratio", "1.5"], "argument --random_range_ratio: must be in [0, 1], got '1.5'"),
        (["--endpoint", "score"], "argument --endpoint: invalid choice: 'score'"),
        (["--seed", "-1"], "argument --seed: must be >= 0, got '-1'"),
    ],
)
def test_wrong_flags(arguments: list[str], message: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench("http://127.0.0.1:1", *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n\n", "dataset_path must have a line, got "),
        ("latin.txt", b"caf\xe9\n", "dataset_path must be UTF-8, got "),
        ("list.jsonl", b'{"prompt": "a"}\n[1]\n', "dataset_path must have a JSON object a line, got '[1]' in "),
        ("broken.jsonl", b"{", "dataset_path must have a JSON object a line, got '{' in "),
        (None, b"", "[Errno 2] No such file or directory: "),
    ],
)
def test_a_file_that_cannot_be_used(
    tmp_path: Path, capsys: Capture, name: str | None, content: bytes, message: str
) -> None:
    path = tmp_path / (name or "absent.txt")
    if name is not None:
        path.write_bytes(content)
    assert main(["bench", "--url", "http://127.0.0.1:1", "--dataset_path", str(path)], prog="bench") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bench: error: {message}") and error.count("\n") == 1


def test_figures_go_nowhere_before_anything_is_sent(capsys: Capture, tmp_path: Path) -> None:
    with scripted(models=answer(LISTED)) as server:
        assert bench(server.url, "--output_file", str(tmp_path / "no" / "where.json")) == 2
        assert server.requests == []
    assert "No such file or directory" in capsys.readouterr().err


def options(**others: Any) -> argparse.Namespace:
    values = {"seed": 3, "num_prompts": 5, "endpoint": "sample", "random_input_len": 0, "random_output_len": 8}
    return argparse.Namespace(**values | {"random_range_ratio": 0.0} | others)


def test_prompts_of_a_file_are_taken_in_turn(tmp_path: Path) -> None:
    lines, objects = tmp_path / "a.txt", tmp_path / "b.jsonl"
    lines.write_text("one\n\nzwei שלום\n", encoding="utf-8")
    objects.write_text('{"prompt": "x", "seq_len": 9}\n{"template": "[MASK]"}\n', encoding="utf-8")
    nothing = Lexicon([], 0)
    made = requests(options(), {"top_k": 2}, prompts_of(str(lines)), nothing)
    assert [request["prompt"] for request in made] == ["one", "zwei שלום", "one", "zwei שלום", "one"]
    assert all(request.get("top_k") == 2 and "seq_len" not in request for request in made)
    made = requests(options(num_prompts=2), {}, prompts_of(str(objects)), nothing)
    assert (made[0]["seq_len"], made[1]["template"]) == (9, "[MASK]")


def test_random_prompts_are_words_of_the_lengths_asked_for() -> None:
    vocabulary = Vocabulary("a", 6, 0, [0, 1], ["[MASK]", "[CLS]", " ", "a", " b", ""])
    lexicon = Lexicon.of(vocabulary, Model("a", frame=Frame([1], [1])))
    assert lexicon == Lexicon([3, 4], 2)
    asked = options(random_input_len=4, num_prompts=50, random_range_ratio=0.5)
    made = requests(asked, {}, [], lexicon)
    assert made == requests(asked, {}, [], lexicon) != requests(options(**vars(asked) | {"seed": 4}), {}, [], lexicon)
    lengths = [len(request["prompt_ids"] or []) for request in made]
    assert set(lengths) == {2, 3, 4, 5, 6}
    assert {id for request in made for id in request["prompt_ids"] or []} == {3, 4}
    outputs = [(request["seq_len"] or 0) - length - 2 for request, length in zip(made, lengths, strict=True)]
    assert min(outputs) >= 4 and max(outputs) <= 12


@pytest.mark.parametrize(
    ("endpoint", "name", "found"),
    [("sample", None, "a"), ("sample/hybrid", None, "h"), ("sample/block", None, "h"), ("sample", "u", "u")],
)
def test_the_model_is_the_one_that_the_server_would_take(endpoint: str, name: str | None, found: str) -> None:
    assert model_for(endpoint, name, MODELS).name == found


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"^model must be a loaded checkpoint that fits sample, got 'x' of h, a, u$"):
        model_for("sample", "x", MODELS)


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    times = list(arrivals(20.0, 4000, seed=1))
    gaps = [late - early for early, late in pairwise(times)]
    assert times[0] == 0 and times == list(arrivals(20.0, 4000, seed=1)) and times == sorted(times)
    # Exponential gaps: the mean and the deviation are both 1/20, here within five standard errors.
    assert statistics.fmean(gaps) == pytest.approx(0.05, abs=5 * 0.05 / math.sqrt(4000))
    assert statistics.stdev(gaps) == pytest.approx(0.05, abs=5 * 0.05 * math.sqrt(2 / 4000))
    assert list(arrivals(math.inf, 3, seed=1)) == [0, 0, 0]


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [([], 50, None), ([7.0], 99, 7), ([1.0, 2.0], 50, 1.5), ([0.0, 10.0, 20.0, 30.0], 90, 27), ([1.0, 2.0], 100, 2)],
)
def test_percentiles(values: list[float], q: float, expected: float | None) -> None:
    assert percentile(values, q) == (expected if expected is None else pytest.approx(expected))


def test_figures_of_known_traces() -> None:
    usage = Usage(1, 10, 4, 2)
    traces = [
        Trace(0.0, [0.1, 0.2, 0.4], 0.5, usage),
        Trace(0.2, [0.5], 1.2, usage),
        Trace(1.3, [], None, None, SampleError("no", "overloaded", code=429)),
        Trace(1.4, [1.5], None, None, ConnectionError()),
    ]
    figures = summary(traces, 2.0)
    assert (figures["completed"], figures["failed"], figures["max_concurrent_requests"]) == (2, 2, 2)
    assert figures["failures"] == {"429 overloaded": 1, "ConnectionError": 1}
    assert (figures["total_output_tokens"], figures["output_throughput"], figures["nfe_throughput"]) == (20, 10, 4)
    assert figures["mean_ttfs_ms"] == pytest.approx(200) and figures["median_e2el_ms"] == pytest.approx(750)
    assert figures["mean_isl_ms"] == pytest.approx(150) and figures["p90_isl_ms"] == pytest.approx(190)
    assert figures["std_e2el_ms"] == pytest.approx(250)
    assert len({len(line) for line in report(figures).splitlines()}) == 1
