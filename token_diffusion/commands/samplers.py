"""`samplers`: the table of them, for people, for machines, and for the docs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from ..samplers.catalogue import KINDS, all_options
from ..samplers.options import Option
from ..samplers.presets import PRESETS

NO_LAW = "none of the model's"


def add_samplers(commands: Any) -> None:
    """Its flags."""
    description = "the samplers by name: for which processes they are, whose law they have, what may be asked of them"
    command = commands.add_parser("samplers", help=description, description=description)
    how = command.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print one JSON object")
    how.add_argument("--markdown", action="store_true", help="print tables as docs/sampling.md has them")


def print_samplers(arguments: argparse.Namespace) -> None:
    """Prints it."""
    if arguments.json:
        print(json.dumps(_figures()))
    else:
        print(*(_markdown() if arguments.markdown else _text()), sep="\n")


def _text() -> Iterator[str]:
    yield "samplers"
    for name, kind in KINDS.items():
        yield f"  {name} ({', '.join(kind.decoders)}): {kind.summary}"
        yield f"    law: {kind.law or NO_LAW}"
        yield f"    options: {', '.join(kind.options) or 'none'}"
    yield "options"
    for name, (option, _) in all_options().items():
        yield f"  {name}: {option.description} ({_values(option)}; default: {_word(option.default)})"
    yield "presets"
    for name, fields in PRESETS.items():
        yield f"  {name}: {', '.join(f'{field} {_word(value)}' for field, value in fields.items())}"


def _markdown() -> Iterator[str]:
    yield from ("| `sampler` | processes | what it does | its law |", "|---|---|---|---|")
    for name, kind in KINDS.items():
        yield f"| `{name}` | {', '.join(kind.decoders)} | {kind.summary} | {kind.law or NO_LAW} |"
    yield from ("", "| option | of | values | default | |", "|---|---|---|---|---|")
    for name, (option, samplers) in all_options().items():
        of = ", ".join(f"`{each}`" for each in samplers)
        yield f"| `{name}` | {of} | {_values(option)} | {_word(option.default)} | {option.description} |"
    yield from ("", "| `preset` | fields |", "|---|---|")
    for name, fields in PRESETS.items():
        yield f"| `{name}` | {', '.join(f'`{field}` {_word(value)}' for field, value in fields.items())} |"


def _values(option: Option) -> str:
    if option.choices:
        return ", ".join(option.choices)
    kind = {bool: "true or false", int: "integer", float: "number"}[option.type]
    return " ".join(filter(None, (kind, option.bounds))) + (" or none" if option.nullable else "")


def _word(value: object) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value).replace("null", "none")


def _figures() -> dict[str, Any]:
    """As `/models` of the server has them, with their processes."""
    samplers = [
        {
            "name": name,
            "processes": list(kind.decoders),
            "summary": kind.summary,
            "law": kind.law,
            "options": [each.figures for each in kind.options.values()],
        }
        for name, kind in KINDS.items()
    ]
    return {"samplers": samplers, "presets": PRESETS}
