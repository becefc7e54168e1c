"""`bench`: load on a server, and what each request felt of it; the words are those of `vllm bench serve`."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing, suppress
from datetime import UTC, datetime
from typing import Any

from ..cells import one_line
from ..client import AsyncClient
from ..progress import Bar
from ..protocol.answers import Models, Vocabulary
from ..protocol.events import DoneEvent, StateEvent
from ..protocol.parsing import convert
from ..protocol.requests import SampleRequest
from ..terminal import say
from .figures import Trace, report, summary
from .flags import BLOCK_SIZE, REQUEST, add_output, add_request, add_server, async_client_of, count, given, positive
from .sample import ENDPOINTS
from .traffic import Lexicon, arrivals, model_for, prompts_of, requests

OWN = {"prompt", "prompt_ids", "template", "template_ids", "messages", "seed", "keyframe_every"}
"""Fields of a request that the benchmark itself chooses, or has no use for."""

FIELDS = {name: kind for name, kind in (REQUEST | {"block_size": BLOCK_SIZE}).items() if name not in OWN}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("bench", help="load on a server, and figures of it", allow_abbrev=False)
    add_server(parser)
    parser.set_defaults(max_retries=0, run=run)
    own: list[tuple[str, Any, Any, str]] = [
        ("num_prompts", positive, 100, "requests"),
        (
            "request_rate",
            rate,
            math.inf,
            "requests a second, at the times of a Poisson process; inf sends all at once",
        ),
        ("max_concurrency", positive, None, "most requests at a time, whatever the rate; without it no bound"),
        ("num_warmups", count, 0, "requests before those that count"),
        ("seed", count, 0, "same seed: same requests, at the same times"),
        (
            "dataset_path",
            str,
            None,
            "prompts: one a line, or with .jsonl a request's fields; without it random tokens",
        ),
        ("random_input_len", count, 0, "tokens of a random prompt"),
        ("random_output_len", positive, 64, "tokens beyond a random prompt; --seq_len says both for all"),
        ("random_range_ratio", ratio, 0.0, "how far these two lengths range, as a part of themselves: 0 to 1"),
        ("output_file", str, None, "where the figures are written, as JSON"),
    ]
    for name, kind, default, help in own:
        parser.add_argument(
            f"--{name}", type=kind, default=default, help=help if default is None else f"{help} (%(default)s)"
        )
    parser.add_argument("--endpoint", choices=ENDPOINTS.values(), default="sample", help="(%(default)s)")
    add_request(parser, FIELDS)
    add_output(parser, "print the figures as JSON", "print nothing while it runs")


def rate(value: str) -> float:
    """Requests a second: more than none."""
    parsed = float(value)
    if not parsed > 0:
        raise argparse.ArgumentTypeError(f"must be > 0 or inf, got {value!r}")
    return parsed


def ratio(value: str) -> float:
    """A part: 0 to 1."""
    parsed = float(value)
    if not 0 <= parsed <= 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1], got {value!r}")
    return parsed


def run(options: argparse.Namespace) -> int:
    prompts = prompts_of(options.dataset_path) if options.dataset_path else []
    with ExitStack() as opened:
        # Opened before anything is sent: hours of load are not to be lost to a folder that is not there.
        file = opened.enter_context(open(options.output_file, "w", encoding="utf-8")) if options.output_file else None
        traces, duration_s = asyncio.run(_bench(options, prompts))
        figures = _settings(options) | summary(traces, duration_s)
        if file is not None:
            json.dump(figures, file, indent=2)
    say(json.dumps(figures) if options.json else report(figures))
    failed = [trace.error for trace in traces if trace.error is not None]
    if failed:
        reason = one_line(str(failed[0]))
        print(f"{len(failed)} of {len(traces)} requests failed, one of them: {reason}", file=sys.stderr)
    return 0 if figures["completed"] else 1


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What was measured, so that it can be measured again."""
    names = ("url", "endpoint", "num_prompts", "max_concurrency", "num_warmups", "seed", "dataset_path")
    lengths = ("random_input_len", "random_output_len", "random_range_ratio") if not options.dataset_path else ()
    shown = {name: getattr(options, name) for name in (*names, *lengths)}
    request_rate = "inf" if math.isinf(options.request_rate) else options.request_rate
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, **shown, "request_rate": request_rate, "request": given(options, FIELDS)}


async def _bench(options: argparse.Namespace, prompts: Sequence[SampleRequest]) -> tuple[list[Trace], float]:
    """What each request felt, and how long all of them took."""
    async with AsyncExitStack() as opened:
        client = await opened.enter_async_context(async_client_of(options))
        asked = requests(options, given(options, FIELDS), prompts, await _lexicon(client, options))
        for request in asked[: options.num_warmups]:
            await felt(client, request)
        drawn = sys.stderr.isatty() and not options.quiet and not options.json
        bar = None
        with suppress(ImportError):  # rich: it goes without
            bar = opened.enter_context(Bar(len(asked))) if drawn else None
        gate = asyncio.Semaphore(options.max_concurrency or len(asked))
        start = time.perf_counter()

        async def send(request: SampleRequest, at: float) -> Trace:
            await asyncio.sleep(max(start + at - time.perf_counter(), 0))
            async with gate:
                trace = await felt(client, request)
            if bar is not None:
                bar.show(trace.error)
            return trace

        times = arrivals(options.request_rate, len(asked), options.seed)
        traces = await asyncio.gather(*(send(request, at) for request, at in zip(asked, times, strict=True)))
        return traces, time.perf_counter() - start


async def _lexicon(client: AsyncClient, options: argparse.Namespace) -> Lexicon:
    """What is needed to make random prompts, and no more."""
    if options.dataset_path:
        return Lexicon([], 0)
    models = convert(await client.models(), Models, "/models").models
    model = model_for(options.endpoint, getattr(options, "model", None), models)
    if not options.random_input_len:
        return Lexicon.of(Vocabulary("", 0, 0, [], []), model)
    return Lexicon.of(await client.tokens(model.name), model)


async def felt(client: AsyncClient, request: SampleRequest) -> Trace:
    """One request to its end, whichever that is."""
    fields: dict[str, Any] = dict(request)
    trace = Trace(time.perf_counter())
    try:
        async with aclosing(client.stream_sample(**fields)) as events:
            async for event in events:
                if isinstance(event, StateEvent):
                    trace.states.append(time.perf_counter())
                elif isinstance(event, DoneEvent):
                    trace.done, trace.usage = time.perf_counter(), event.usage
    except Exception as error:
        trace.error = error
    return trace
