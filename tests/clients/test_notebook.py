"""A picture in a notebook: what it shows, that nothing in it is obeyed, and that a real kernel draws it anew."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.clients.scripted_server import DONE, EVENTS, Reply, answer, scripted, sse
from tests.live_server import LiveServer
from token_diffusion_client import Client, DoneEvent, InvalidEvent, StartEvent, StateEvent, Vocabulary
from token_diffusion_client.notebook import Picture, colour, shade
from token_diffusion_client.protocol.events import parse_event

pytest_plugins = ["tests.server_fixtures", "tests.clients.both"]

PIECES = ["[MASK]", *(f" {number}" for number in range(1, 19))]
VOCABULARY = Vocabulary("demo", 19, 0, [0], PIECES)

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """The text of some HTML, the tags in it, and the attributes of each."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes, self.open = "", set[str](), list[dict[str, str | None]](), 0
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.append(dict(attrs))
        self.open += 1

    def handle_endtag(self, tag: str) -> None:
        self.open -= 1

    def handle_data(self, data: str) -> None:
        self.text += data


def done() -> DoneEvent:
    with scripted(sample=answer(DONE)) as server, Client(server.url) as client:
        return client.sample()


def test_a_finished_request_is_coloured_by_step() -> None:
    page = Page(Picture.of(done(), VOCABULARY)._repr_html_())
    assert (page.open, page.tags) == (0, {"div", "span"})
    assert page.text == " 5 16 13 17 14 15 18 127 tokens · 3 forward passes · 0.01 s · seed 7"
    cells = [found for found in page.attributes if "title" in found]
    assert [cell["title"] for cell in cells[:2]] == ["token 5", "step 8 · token 16"]
    assert "style" not in cells[0]
    backgrounds = [re.findall(r"background:([^;]*)", str(cell.get("style"))) for cell in cells]
    assert backgrounds[1] == [colour(8, 8)] and backgrounds[2] == [colour(5, 8)] and backgrounds[7] == [colour(2, 8)]
    assert len({colour(step, 8) for step in range(1, 9)}) == 8


def test_confidence_is_a_colour_and_what_was_set_anew_is_underlined() -> None:
    picture = Picture(VOCABULARY, color="confidence")
    picture.take(StartEvent("smp-1", "demo", "absorbing", 7, 3, 8, [[0, 0, 0]]))
    picture.take(StateEvent(1, 0.5, 1, [(0, 0, 5), (0, 1, 6)], logprobs=[math.log(0.25), math.log(0.5)]))
    picture.take(StateEvent(2, 0.5, 1, [(0, 0, 0), (0, 1, 7)], logprobs=[None, math.log(0.75)]))
    cells = [found for found in Page(picture._repr_html_()).attributes if "title" in found]
    assert [cell["title"] for cell in cells] == [
        "token 0",
        "step 2 · p = 0.75 · token 7 · rewritten",
        "token 0",
    ]
    ground = f"background:{shade(0.75**0.5)};border-radius:3px;text-decoration:underline dotted"
    assert [cell.get("style") for cell in cells] == [None, ground, None]
    with pytest.raises(ValueError, match=r"^color must be step or confidence, got 'age'$"):
        Picture(VOCABULARY, color="age")  # type: ignore[arg-type]


def test_markup_and_control_characters_are_shown() -> None:
    evil = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\u202e&lt;\x1b[2J", "\u05e9\u05dc"]
    start = StartEvent("smp-1", "<b>", "absorbing", 7, 4, 8, [[0, 1, 2, 3]])
    picture = Picture(Vocabulary("demo", 4, 9, [], evil))
    picture.take(start)
    page = Page(picture._repr_html_())
    assert page.tags == {"div", "span"} and page.open == 0
    assert page.text.startswith(
        '<script>alert(1)</script> "><img src=x onerror=alert(1)> <U+202E>&lt;␛[2J \u05e9\u05dc'
    )
    assert {name for found in page.attributes for name in found} <= {"title", "style", "dir"}


def test_it_shows_what_is_there_so_far() -> None:
    picture = Picture(VOCABULARY)
    assert "waiting" in picture._repr_html_() and repr(picture) == "(waiting)"
    for name, data in EVENTS[:2]:
        event = parse_event(name, json.dumps(data))
        assert isinstance(event, StartEvent | StateEvent)
        picture.take(event)
    assert Page(picture._repr_html_()).text == " 5 11░░░░░ 12step 2 · t 0.750 · 1 forward passes"
    picture.take(done())
    assert repr(picture) == "the dög sat\nüber\n(7 tokens · 3 forward passes · 0.01 s · seed 7)"


def test_steps_of_another_shape_are_told() -> None:
    picture = Picture(VOCABULARY)
    picture.take(StartEvent("smp-1", "demo", "absorbing", 7, 2, 8, [[0, 0]]))
    with pytest.raises(InvalidEvent, match=r"^done.step_map must have the shape of the tokens$"):
        picture.take(done())


def test_a_stream_is_drawn_in_place(connect: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    class Handle:
        def update(self, picture: Picture) -> None:
            drawn.append(Page(picture._repr_html_()).text)

    def display(picture: Picture, *, display_id: bool) -> Handle:
        assert display_id
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr("token_diffusion_client.notebook.PAUSE_S", 0)
    with scripted(sample=Reply([sse()])) as server, connect(server.url) as client:
        picture = Picture(VOCABULARY)
        picture.follow(client.stream_sample())
    assert drawn[0].startswith(" 5░░░") and drawn[-1].startswith(" 5 16 13 17")
    assert len(drawn) == len(EVENTS) and picture.done is not None


def test_without_ipython_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ImportError, match=r"needs IPython: pip install 'token-diffusion-client\[notebook\]'"):
        Picture(VOCABULARY).follow([])


NOTEBOOK = """\
from token_diffusion_client import AsyncClient, Client
from token_diffusion_client.notebook import Picture

client = Client({url!r})
picture = Picture(client.tokens("absorbing"))
picture.follow(client.stream_sample("w3", seq_len=12, num_inference_steps=6, seed=2, model="absorbing"))
---
async with AsyncClient({url!r}) as other:
    again = Picture(await other.tokens("absorbing"))
    await again.follow(other.stream_sample("w3", seq_len=12, num_inference_steps=6, seed=2, model="absorbing"))
again
"""


@pytest.mark.slow
def test_a_real_notebook(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "clients"), os.environ.get("PYTHONPATH", "")]))
    cells = [nbformat.v4.new_code_cell(cell) for cell in NOTEBOOK.format(url=live.url).split("---\n")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    first, second = ([output for output in cell.outputs if "data" in output] for cell in notebook.cells)
    # An update takes the place of what was displayed, so that each cell ends with one picture: the finished one.
    (picture,) = first
    assert "seed 2" in picture.data["text/html"] and "background:hsla" in picture.data["text/html"]
    assert [output.output_type for output in second] == ["display_data", "execute_result"]
    assert Page(second[0].data["text/html"]).text == Page(second[1].data["text/html"]).text
    with Client(live.url) as client:
        sample = client.sample("w3", seq_len=12, num_inference_steps=6, seed=2, model="absorbing").samples[0]
    assert sample.text in picture.data["text/plain"]
