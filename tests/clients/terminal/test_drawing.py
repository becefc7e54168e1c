"""What stands on the screen after each event, and in which style."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.text import Text

from token_diffusion_client import (
    BlockEvent,
    DoneEvent,
    Event,
    Sample,
    StartEvent,
    StateEvent,
    Timings,
    Usage,
    Vocabulary,
)
from token_diffusion_client.cells import Reader
from token_diffusion_client.terminal.drawing import Drawing, folded, watch

VOCABULARY = Vocabulary("demo", 5, 0, [0], ["[MASK]", "the", " cat", " dog", "\x1b[2J\n"])
READER = Reader(VOCABULARY)

CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def start(*tokens: list[int], num_inference_steps: int | None = 8) -> StartEvent:
    samples = list(tokens) or [[1, 0, 0]]
    return StartEvent("smp-1", "demo", "absorbing", 7, len(samples[0]), num_inference_steps, samples)


def state(step: int, *changes: tuple[int, int, int], t: float = 0.5) -> StateEvent:
    return StateEvent(step=step, t=t, nfe=step - 1, changes=list(changes))


def done(*text: str) -> DoneEvent:
    samples = [Sample(line, [1, 2, 3]) for line in text]
    return DoneEvent(samples, [[0, 1, 1]] * len(text), "length", Usage(0, 4, 3, 5), Timings(0.1, 2.0, 1234.5))


def console(width: int = 60, height: int = 10, color: bool = False) -> Console:
    options = {"color_system": "standard"} if color else {"no_color": True}
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, **options)


def drawn(*events: Event, reader: Reader | None = READER, width: int = 90, height: int = 10) -> list[str]:
    drawing = Drawing(reader)
    for event in events:
        drawing.show(event)
    with (screen := console(width, height)).capture() as captured:
        screen.print(drawing)
    return [line.rstrip() for line in CONTROLS.sub("", captured.get()).splitlines()]


def progress(line: str) -> str:
    return line.strip("━╺╸ ").partition(" · demo")[0]


def test_each_state_is_drawn_as_it_is() -> None:
    assert drawn(start())[0] == "the░░"
    assert drawn(start(), state(1, (0, 2, 3)))[0] == "the░ dog"
    lines = drawn(start(), state(1, (0, 2, 3)), state(2, (0, 1, 2)))
    assert lines[0] == "the cat dog"
    assert progress(lines[1]) == "step 2/8 · t 0.500 · nfe 1"
    assert lines[2] == "fresh  rewritten  open"


def test_styles_tell_the_ages() -> None:
    drawing = Drawing(READER)
    for event in (start(), state(1, (0, 1, 2)), state(2, (0, 2, 3)), state(3, (0, 1, 3))):
        drawing.show(event)
    with (screen := console(color=True)).capture() as captured:
        screen.print(drawing)
    line = captured.get().splitlines()[0]
    assert line == "\x1b[1mthe\x1b[0m\x1b[1;4;35m dog\x1b[0m dog"
    drawing.show(state(4, (0, 2, 2)))
    with screen.capture() as captured:
        screen.print(drawing)
    assert captured.get().splitlines()[0] == "\x1b[1mthe\x1b[0m\x1b[4m dog\x1b[0m\x1b[1;4;35m cat\x1b[0m", (
        "it stays told"
    )


def test_confidence_is_a_colour_and_rewriting_is_none() -> None:
    told = [
        StateEvent(1, 0.5, 1, [(0, 1, 2), (0, 2, 3)], logprobs=[math.log(0.01), math.log(0.9)]),
        StateEvent(2, 0.5, 2, [(0, 1, 3)], logprobs=[math.log(0.5)]),
    ]
    end = dataclasses.replace(done("the dog dog"), logprobs=[[None, math.log(0.5), math.log(0.9)]])
    screen = console(color=True)
    watch([start(), *told, end], screen, lambda model: READER, "confidence")
    assert isinstance(screen.file, io.StringIO)
    line, facts = screen.file.getvalue().splitlines()[-2:]
    assert line.endswith("\x1b[1mthe\x1b[0m\x1b[4;33m dog\x1b[0m\x1b[36m dog\x1b[0m") and "forward passes" in facts
    drawing = Drawing(READER, "confidence")
    for event in (start(), told[0]):
        drawing.show(event)
    with screen.capture() as captured:
        screen.print(drawing)
    lines = captured.get().splitlines()
    assert lines[0] == "\x1b[1mthe\x1b[0m\x1b[31m cat\x1b[0m\x1b[36m dog\x1b[0m"
    assert CONTROLS.sub("", lines[-1]).rstrip() == "p ≤ 0.05  p ≤ 0.25  p ≤ 0.6  p ≤ 1  rewritten  open"


def test_no_color_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Console(file=io.StringIO(), force_terminal=True, width=60, height=10)
    with screen.capture() as captured:
        screen.print(Drawing(READER))
        drawing = Drawing(READER)
        drawing.show(start())
        drawing.show(state(1, (0, 1, 2)))
        screen.print(drawing)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", captured.get())


def test_several_samples_are_told_apart() -> None:
    assert drawn(start([1, 0], [0, 2]))[:2] == ["0│ the░", "1│ ░ cat"]


def test_a_frame_never_exceeds_the_terminal() -> None:
    lines = drawn(start([2] * 100), width=40, height=8)
    assert len(lines) == 7
    assert lines[4] == "… 6 more lines"
    assert progress(lines[5]).startswith("step 0/8")


def test_steps_are_counted_within_a_block() -> None:
    events: list[Event] = [start(), state(7), BlockEvent(0, 0, 2), state(11), BlockEvent(1, 2, 4), state(16)]
    told = [progress(drawn(*events[: number + 1])[-2]).partition(" · t")[0] for number in range(len(events))]
    assert told[:3] == ["step 0/8", "step 7/8", "block 2 · step 0/8"]
    assert told[3:] == ["block 2 · step 3/8", "block 3 · step 0/8", "block 3 · step 0/8"]


def test_the_continuous_limit_has_no_last_step() -> None:
    assert progress(drawn(start(num_inference_steps=None), state(3))[-2]) == "step 3 · t 0.500 · nfe 2"


def test_without_pieces_only_progress_is_shown() -> None:
    (line,) = drawn(start(), state(3), reader=None)
    assert progress(line) == "step 3/8 · t 0.500 · nfe 2"
    assert "fresh" not in line


def test_nothing_of_a_text_reaches_the_terminal_as_a_command() -> None:
    screen = console()
    evil = "a\x1b[2J\x9bc\x07\u202eb [bold]x[/bold] :smile:"
    watch([start([4, 0, 0]), state(1, (0, 1, 4)), done(evil)], screen, lambda model: READER)
    assert isinstance(screen.file, io.StringIO)
    written = screen.file.getvalue()
    allowed = re.sub(r"\x1b\[(\?25[lh]|2K|1A|[0-9;]*m)", "", written)
    assert "\x1b" not in allowed and "\x9b" not in allowed and "\x07" not in allowed and "\u202e" not in allowed
    assert "a␛[2J<U+009B>c␇<U+202E>b [bold]x[/bold] :smile:\n" in allowed
    assert "␛[2J" in allowed


def test_the_end_is_the_whole_texts_and_what_they_took() -> None:
    screen = console(width=20)
    text = " ".join(f"word{number}" for number in range(10))
    watch([start([1, 0], [1, 0]), state(1), done(text, "b")], screen, lambda model: None)
    assert isinstance(screen.file, io.StringIO)
    lines = CONTROLS.sub("", screen.file.getvalue()).splitlines()
    assert lines[-3:] == [
        f"0│ {text}",
        "1│ b",
        "4 tokens · 3 forward passes (5 steps without one) · 1.23 s · seed 7 · length",
    ]


def test_the_cursor_comes_back_whatever_happens() -> None:
    def broken() -> Iterator[Event]:
        yield start()
        raise KeyboardInterrupt

    screen = console()
    with pytest.raises(KeyboardInterrupt):
        watch(broken(), screen, lambda model: None)
    assert isinstance(screen.file, io.StringIO)
    written = screen.file.getvalue()
    assert written.index("\x1b[?25l") < written.index("\x1b[?25h")


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 5, [""]),
        ("ab cd", 5, ["ab cd"]),
        ("ab cde", 5, ["ab", "cde"]),
        ("ab░░░░cd", 4, ["ab░░", "░░cd"]),
        ("ab\n\ncd", 9, ["ab", "", "cd"]),
        ("abcdefgh", 4, ["abcd", "efgh"]),
        ("漢字漢字", 5, ["漢字", "漢字"]),
        ("e\u0301e\u0301 x", 3, ["e\u0301e\u0301", "x"]),
    ],
)
def test_folding(text: str, width: int, lines: list[str]) -> None:
    assert [line.plain for line in folded(Text(text), width)] == lines
