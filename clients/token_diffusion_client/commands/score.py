"""`score`: how much information each text is to the model, at most."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..cells import one_line
from ..protocol.answers import Score
from ..terminal import say, terminal
from .flags import add_output, add_request, add_server, client_of, given, number, text

PARAMETERS: dict[str, tuple[Any, str]] = {
    "prefix": (text, "what each text is given to follow; not scored itself"),
    "label": (int, "class that a model with labels is told of all of them"),
    "num_times": (int, "noise levels that each text is seen at: more take longer and bring a smaller error"),
    "estimator": (text, "times or, for absorbing checkpoints alone, counts; without it the better one"),
    "seed": (int, "same seed, same scores"),
    "model": (text, "name of a loaded checkpoint"),
    "timeout_s": (number, "seconds after which the server gives up"),
}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    help = "POST /score: how likely texts are to the model, at least"
    parser = commands.add_parser("score", help=help, allow_abbrev=False)
    parser.add_argument("texts", nargs="*", type=text, metavar="TEXT", help="to be scored; without any, see --file")
    parser.add_argument("--file", default="-", help="texts, one a line; - is stdin (%(default)s)")
    add_server(parser)
    add_request(parser, PARAMETERS)
    add_output(parser, "print the answer as one line of JSON", "print the nats of each text alone, a line each")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    texts = options.texts or lines_of(options.file)
    with client_of(options) as client:
        scores = client.score(texts, **given(options, PARAMETERS))
    console = None if options.json or options.quiet else terminal()
    if options.json:
        say(json.dumps(asdict(scores), ensure_ascii=False))
    elif options.quiet:
        say(*(_number(score.nats) for score in scores.scores), sep="\n")
    elif console is not None:
        from ..terminal.tables import score_table

        console.print(score_table(scores, texts))
    else:
        say("nats", "nats_error", "bits_per_token", "num_tokens", "text", sep="\t")
        for score, line in zip(scores.scores, texts, strict=True):
            say(*_fields(score), one_line(line), sep="\t")
    return 0


def lines_of(path: str) -> list[str]:
    """The lines of a file that are not empty. Raises ValueError for what is no text."""
    try:
        with sys.stdin if path == "-" else open(path, encoding="utf-8") as file:
            lines = [line.rstrip("\r\n") for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"file must be UTF-8, got {path!r}: {error}") from None
    if not lines:
        raise ValueError(f"file must have a line of text, got {path!r}")
    return lines


def _fields(score: Score) -> Sequence[object]:
    """No probability at all is an infinity of nats; an error that nobody knows is empty."""
    error = "" if score.nats_error is None else f"{score.nats_error:.4f}"
    return [_number(score.nats), error, _number(score.bits_per_token), score.num_tokens]


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.4f}"
