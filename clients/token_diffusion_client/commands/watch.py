"""`watch`: how busy a server is, second by second; or a request that was sent before, by its id."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count as count_up
from typing import Any

from ..client import Client
from ..protocol.answers import Models
from ..protocol.parsing import convert, load_mapping
from ..terminal import say, terminal
from .flags import add_color, add_output, add_server, client_of, count, not_negative, text
from .sample import show, slowly


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    help = "GET /info, again and again; or GET /requests/ID/events"
    parser = commands.add_parser("watch", help=help, allow_abbrev=False)
    parser.add_argument("id", nargs="?", type=text, metavar="ID", help="a request to watch in place of the server")
    add_server(parser)
    parser.add_argument("--last_event_id", type=text, help="of a request: what came after this event (all of it)")
    add_color(parser)
    parser.add_argument("--interval_s", type=not_negative, default=1.0, help="of a server: seconds between two looks")
    parser.add_argument("--count", type=count, default=0, help="of a server: looks, then it ends; 0 for ever")
    add_output(parser, "print JSON, a line an event or a look", "of a request: print its final texts alone")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    with client_of(options) as client:
        if options.id is None:
            watch_server(client, options)
        else:
            with closing(client.attach(options.id, last_event_id=options.last_event_id)) as events:
                show(slowly(events, 0), client, options)
    return 0


def watch_server(client: Client, options: argparse.Namespace) -> None:
    """Each look at /info in its line, or in place of the last one on a terminal."""
    console = None if options.json else terminal()
    looked = looks(client.info, options.interval_s, options.count)
    if console is not None:
        from rich.live import Live

        from ..terminal.tables import figures

        with Live(console=console, auto_refresh=False) as live:
            for info, values in looked:
                live.update(figures(_title(info, options.url), values), refresh=True)
        return
    for number, (_, values) in enumerate(looked):
        if options.json:
            say(json.dumps({name.replace(" ", "_"): value for name, value in values.items()}))
            continue
        if number == 0:
            say(*values, sep="\t")
        say(*values.values(), sep="\t")


def looks(info: Callable[[], dict[str, Any]], interval_s: float, number: int) -> Iterator[tuple[dict[str, Any], Any]]:
    """What /info says, and the figures that are worth a look: its load, and what has changed since the last one."""
    ticks, then = 0.0, 0.0
    for look in count_up(1):
        found, now = info(), time.monotonic()
        load = load_mapping(found.get("load"), "/info.load")
        work, speed, passes = (
            convert(load.get(name) or 0, float, f"/info.load.{name}")
            for name in ("outstanding_work", "work_per_s", "ticks")
        )
        figures = {
            name.replace("_", " "): value for name, value in load.items() if name not in ("ticks", "work_per_s")
        }
        figures["seconds of work"] = round(work / speed, 2) if speed else 0.0
        figures["work per s"] = round(speed)
        figures["forward passes per s"] = 0.0 if look == 1 else round((passes - ticks) / max(now - then, 1e-9), 1)
        yield found, figures
        ticks, then = passes, now
        if look == number:
            return
        time.sleep(interval_s)


def _title(info: dict[str, Any], url: str) -> str:
    models = ", ".join(model.name for model in convert(info, Models, "/info").models)
    return f"{url} · {info.get('version')} · {info.get('device')} {info.get('dtype')} · {models}"
