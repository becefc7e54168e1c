"""Sample from a running server: `token-diffusion-client sample --prompt "..."`; on a terminal you see it denoise.

Exit codes: 0 done, 1 the server failed or cannot be reached, 2 the request is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import httpx2

from .client import DEFAULT_URL, Client
from .protocol.errors import IncompleteStream, InvalidEvent, SampleError
from .protocol.events import Event, StateEvent
from .protocol.requests import Endpoint
from .terminal import watch

ENDPOINTS: dict[str, Endpoint] = {"sample": "sample", "sample-block": "sample/block", "sample-hybrid": "sample/hybrid"}

UNPROCESSABLE = 422

PROG = "token-diffusion-client"


def _steps(value: str) -> int | None:
    try:
        return None if value == "none" else int(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer or none, got {value!r}") from None


def _number(value: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {value!r}")
    return number


def _milliseconds(value: str) -> float:
    number = _number(value)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, got {value!r}")
    return number


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"must be valid Unicode, got {value!r}") from None
    return value


PARAMETERS: dict[str, tuple[Any, str]] = {
    "prompt": (_text, "fixed beginning of each sample"),
    "template": (_text, "text with [MASK] holes, everything else fixed"),
    "num_samples": (int, "samples drawn"),
    "seq_len": (int, "length of a sample in tokens, prompt included"),
    "num_inference_steps": (_steps, "steps of the time grid, for each block; none: the continuous-time limit"),
    "temperature": (_number, "divides the logits; 0 takes the most probable token"),
    "top_p": (_number, "nucleus: the smallest set of tokens with this much probability"),
    "top_k": (int, "most probable tokens kept; 0 keeps all"),
    "seed": (int, "same seed, same samples; without it the server draws one, and tells it"),
    "model": (str, "name of a loaded checkpoint"),
    "stream_every": (int, "updates merged into one state event"),
    "keyframe_every": (int, "state events from one that carries all tokens to the next"),
    "timeout_s": (_number, "seconds after which the server gives up"),
}
"""Wire name -> type, help. Defaults are the server's: what is not given is not sent."""


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, endpoint in ENDPOINTS.items():
        sub = commands.add_parser(command, help=f"POST /{endpoint}", allow_abbrev=False)
        url, key = os.environ.get("TD_URL", DEFAULT_URL), os.environ.get("TD_API_KEY")
        sub.add_argument("--url", default=url, help="where the server is; or TD_URL (now %(default)s)")
        sub.add_argument("--api_key", default=key, help="sent as a bearer token; better set as TD_API_KEY")
        for name, (kind, text) in PARAMETERS.items():
            sub.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=text)
        if endpoint == "sample/block":
            sub.add_argument("--block_size", type=int, default=argparse.SUPPRESS, help="tokens of a block")
        text = "with --json: states carry the text of each sample, masks shown"
        sub.add_argument("--include_text", action="store_true", default=argparse.SUPPRESS, help=text)
        sub.add_argument("--json", action="store_true", help="print each event as a line of JSON")
        sub.add_argument(
            "--delay_ms", type=_milliseconds, default=0.0, help="slow motion: milliseconds each state stays"
        )
    return parser


def _run(client: Client, options: argparse.Namespace) -> None:
    names = [*PARAMETERS, "block_size", "include_text"]
    parameters: Any = {name: value for name, value in vars(options).items() if name in names}
    draws = sys.stdout.isatty() and not options.json
    if draws:
        parameters["include_text"] = True
    with closing(client.stream_sample(endpoint=ENDPOINTS[options.command], **parameters)) as stream:
        events = _slowly(stream, options.delay_ms / 1000)
        if options.json:
            _print_json(events)
        else:
            watch(events, sys.stdout, mask_tokens=_mask_tokens(client) if draws else ())


def _slowly(events: Iterable[Event], delay_s: float) -> Iterator[Event]:
    for event in events:
        yield event
        if isinstance(event, StateEvent):
            time.sleep(delay_s)


def _mask_tokens(client: Client) -> list[str]:
    """How the loaded checkpoints spell a mask; a server that does not tell is taken to say [MASK]."""
    models = client.models().get("models", [])
    return sorted({model.get("mask_token", "[MASK]") for model in models}) or ["[MASK]"]


def _print_json(events: Iterable[Event]) -> None:
    for event in events:
        print(json.dumps({"event": event.event, **asdict(event)}, ensure_ascii=False), flush=True)


def main(arguments: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command line `arguments` (sys.argv's without it), which began with `prog`; returns the exit code."""
    options = build_parser(prog).parse_args(arguments)

    def fail(reason: object, code: int) -> int:
        print(f"{prog}: error: {reason}", file=sys.stderr)
        return code

    try:
        with Client(options.url, api_key=options.api_key) as client:
            _run(client, options)
    except SampleError as error:
        return fail(error, 2 if error.code == UNPROCESSABLE else 1)
    except (IncompleteStream, InvalidEvent) as error:
        return fail(error, 1)
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        return fail(f"url must be http:// or https://, got {options.url!r}: {error}", 2)
    except httpx2.ConnectError as error:
        return fail(f"cannot connect to {options.url}: {error}; is the server running?", 1)
    except httpx2.HTTPError as error:
        return fail(f"{options.url}: {error or type(error).__name__}", 1)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does; Python must not try to flush into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(prog="python -m token_diffusion_client"))
