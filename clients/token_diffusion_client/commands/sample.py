"""`sample`, `sample-block`, `sample-hybrid`: one request, which a terminal shows as it denoises."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict

from ..cells import Reader
from ..client import Client
from ..protocol.errors import SampleError
from ..protocol.events import DoneEvent, Event, StateEvent
from ..protocol.requests import Endpoint
from ..terminal import say, terminal
from .flags import (
    BLOCK_SIZE,
    REQUEST,
    add_color,
    add_output,
    add_request,
    add_server,
    client_of,
    given,
    not_negative,
    text,
)

ENDPOINTS: dict[str, Endpoint] = {"sample": "sample", "sample-block": "sample/block", "sample-hybrid": "sample/hybrid"}

NOT_FOUND = 404


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for command, endpoint in ENDPOINTS.items():
        parser = commands.add_parser(command, help=f"POST /{endpoint}", allow_abbrev=False)
        add_server(parser)
        add_request(parser, REQUEST | ({"block_size": BLOCK_SIZE} if endpoint == "sample/block" else {}))
        help = "a text is cut before it; may be given several times"
        parser.add_argument("--stop", action="append", type=text, default=argparse.SUPPRESS, help=help)
        help = "with --json: states carry the text of each sample, masks shown"
        parser.add_argument("--include_text", action="store_true", default=argparse.SUPPRESS, help=help)
        add_output(parser, "print each event as a line of JSON", "print the final texts alone, on a terminal, too")
        add_color(parser)
        help = "slow motion: milliseconds that each state stays"
        parser.add_argument("--delay_ms", type=not_negative, default=0.0, help=help)
        parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    parameters = given(options, REQUEST | {"block_size": 0, "include_text": 0, "stop": 0})
    if options.color == "confidence":
        parameters["logprobs"] = True
    with ExitStack() as opened:
        client = opened.enter_context(client_of(options))
        stream = client.stream_sample(endpoint=ENDPOINTS[options.command], **parameters)
        show(slowly(opened.enter_context(closing(stream)), options.delay_ms / 1000), client, options)
    return 0


def slowly(events: Iterable[Event], delay_s: float) -> Iterator[Event]:
    """`events`, those after a state `delay_s` later."""
    for event in events:
        yield event
        if isinstance(event, StateEvent):
            time.sleep(delay_s)


def show(events: Iterable[Event], client: Client, options: argparse.Namespace) -> None:
    """A stream's events, as drawing, as JSON or by its last texts."""
    console = None if options.json or options.quiet else terminal()
    if options.json:
        for event in events:
            say(json.dumps({"event": event.event, **asdict(event)}, ensure_ascii=False))
    elif console is not None:
        from ..terminal.drawing import watch

        watch(events, console, lambda model: reader_of(client, model), options.color)
    else:
        for event in events:
            if isinstance(event, DoneEvent):
                say(*(sample.text for sample in event.samples), sep="\n")


def reader_of(client: Client, model: str) -> Reader | None:
    """Who reads the tokens of `model`; None where the server is too old to tell."""
    try:
        return Reader(client.tokens(model))
    except SampleError as error:
        if error.code != NOT_FOUND:
            raise
        return None
