"""What stands on the screen after each event, known line by line."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest

from token_diffusion_client import BlockEvent, DoneEvent, Event, Sample, StartEvent, StateEvent, Timings, Usage
from token_diffusion_client.terminal import DIM, FRESH, HIDE_CURSOR, MASK, RESET, SHOW_CURSOR, cells, watch, wrap
from token_diffusion_client.terminal import Piece as P

STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    """A terminal of our own: it knows the six control sequences that the viewer may use, and fails at any other."""

    def __init__(self, is_tty: bool = True) -> None:
        super().__init__()
        self._is_tty = is_tty

    def isatty(self) -> bool:
        return self._is_tty

    def lines(self) -> list[str]:
        """The lines on the screen, styles kept."""
        screen, row = [""], 0
        for token in re.findall(r"\x1b\[\??[0-9;]*[A-Za-z]|\n|[^\x1b\n]+|\x1b", self.getvalue()):
            if token == "\n":
                row += 1
                screen += [""] * (row == len(screen))
            elif up := re.fullmatch(r"\x1b\[(\d+)F", token):
                row -= int(up[1])
                assert row >= 0
            elif token == "\x1b[2K":
                screen[row] = ""
            elif token == "\x1b[J":
                assert screen[row] == "" or row < len(screen) - 1
                screen[row:] = [""]
            elif STYLE.fullmatch(token) or not token.startswith("\x1b"):
                screen[row] += token
            else:
                assert token in (HIDE_CURSOR, SHOW_CURSOR)
        return screen[:-1] if screen[-1] == "" else screen

    def text(self) -> list[str]:
        """The lines on the screen without styles."""
        return [STYLE.sub("", line) for line in self.lines()]


@pytest.fixture(autouse=True)
def size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "41")
    monkeypatch.setenv("LINES", "10")
    monkeypatch.delenv("NO_COLOR", raising=False)


def start(num_samples: int = 1, num_inference_steps: int | None = 8) -> StartEvent:
    return StartEvent("smp-1", "demo", "absorbing", 7, 4, num_inference_steps, [[0] * 4] * num_samples)


def state(step: int, *text: str, t: float = 0.5) -> StateEvent:
    return StateEvent(step=step, t=t, nfe=step - 1, changes=[], text=list(text) or None)


def done(*text: str) -> DoneEvent:
    samples = [Sample(line, [1, 2, 3, 4]) for line in text]
    return DoneEvent(samples, [[1] * 4] * len(text), "stop", Usage(0, 4, 3, 5), Timings(0.1, 2.0, 1234.5))


def screens(*events: Event) -> Iterator[Terminal]:
    """The terminal after each event."""
    out = Terminal()

    def one_by_one() -> Iterator[Event]:
        for event in events:
            yield event
            snapshots.append(Terminal())
            snapshots[-1].write(out.getvalue())

    snapshots: list[Terminal] = []
    watch(one_by_one(), out)
    return iter(snapshots)


def test_one_sample_is_redrawn_in_place() -> None:
    frames = screens(
        start(), state(2, "the [MASK] sat [MASK]", t=0.75), state(8, "the cat sat down", t=0.0), done("x y")
    )
    assert [frame.text() for frame in frames] == [
        ["step 0/8 · nfe 0 · t 1.000"],
        ["the ░ sat ░", "step 2/8 · nfe 1 · t 0.750"],
        ["the cat sat down", "step 8/8 · nfe 7 · t 0.000"],
        ["x y", "4 tokens · nfe 3 · 1.23 s · seed 7"],
    ]


def test_masks_are_dim_and_what_changed_is_bright() -> None:
    _, first, second, third = screens(
        start(),
        state(1, "the [MASK] sat [MASK]"),
        state(2, "the cat sat [MASK]"),
        state(3, "the dog sat down"),
    )
    mask = f"{DIM}{MASK}{RESET}"
    assert first.lines()[0] == f"the {mask} sat {mask}"
    assert second.lines()[0] == f"the {FRESH}cat{RESET} sat {mask}"
    assert third.lines()[0] == f"the {FRESH}dog{RESET} sat {FRESH}down{RESET}"
    assert third.lines()[1].startswith(DIM)


def test_a_longer_frame_leaves_nothing_behind_when_it_shrinks() -> None:
    *_, long, short = screens(start(), state(1, "word " * 20), state(2, "word"))
    assert len(long.text()) == 4
    assert short.text() == ["word", "step 2/8 · nfe 1 · t 0.500"]


def test_several_samples_are_told_apart() -> None:
    *_, running, finished = screens(start(2), state(1, "a " * 25, "[MASK] b"), done("first", "second"))
    assert running.text() == ["0│ " + "a " * 18 + "a", "   " + "a " * 6, "1│ ░ b", "step 1/8 · nfe 0 · t 0.500"]
    assert finished.text()[:2] == ["0│ first", "1│ second"]


def test_a_frame_never_exceeds_the_terminal_but_the_end_is_whole() -> None:
    text = " ".join(f"word{number:03}" for number in range(100))
    *_, running, finished = screens(start(), state(1, text), done(text))
    assert len(running.text()) == 9
    assert running.text()[0].startswith("word000 word001")
    assert running.text()[-1].startswith("step 1/8")
    assert finished.text()[0] == text


def test_steps_are_counted_within_a_block() -> None:
    frames = [
        frame.text()[-1]
        for frame in screens(
            start(), state(7, "a"), BlockEvent(0, 0, 2), state(11, "a b"), BlockEvent(1, 2, 4), state(16, "b")
        )
    ]
    assert frames == [
        "step 0/8 · nfe 0 · t 1.000",
        "step 7/8 · nfe 6 · t 0.500",
        "step 7/8 · nfe 6 · t 0.500",
        "block 2 · step 3/8 · nfe 10 · t 0.500",
        "block 2 · step 3/8 · nfe 10 · t 0.500",
        "block 3 · step 0/8 · nfe 15 · t 0.500",
    ]


def test_the_continuous_limit_has_no_last_step() -> None:
    *_, last = screens(start(num_inference_steps=None), state(3, "a"))
    assert last.text()[-1] == "step 3 · nfe 2 · t 0.500"


def test_states_without_text_show_progress_only() -> None:
    *_, last = screens(start(), state(3))
    assert last.text() == ["step 3/8 · nfe 2 · t 0.500"]


def test_the_spelling_of_masks_is_the_servers() -> None:
    out = Terminal()
    watch([start(), state(1, "a<mask>b [MASK]")], out, mask_tokens=["<mask>"])
    assert out.text()[0] == "a░b [MASK]"
    watch([state(1, "a<mask>b")], out := Terminal(), mask_tokens=[])
    assert out.text()[0] == "a<mask>b"


def test_control_characters_of_a_text_do_not_reach_the_terminal() -> None:
    *_, running, finished = screens(start(), state(1, "a\x1b[2Jb\rc\x07"), done("a\x1b[2Jb\x9bc"))
    assert running.text()[0] == "a [2Jb c "
    assert finished.text()[0] == "a [2Jb c"


def test_the_cursor_comes_back_whatever_happens() -> None:
    def broken() -> Iterator[Event]:
        yield start()
        raise KeyboardInterrupt

    out = Terminal()
    with pytest.raises(KeyboardInterrupt):
        watch(broken(), out)
    assert out.getvalue().startswith(HIDE_CURSOR)
    assert out.getvalue().endswith(SHOW_CURSOR)
    assert out.text() == ["step 0/8 · nfe 0 · t 1.000"]


def test_no_color_still_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    *_, last = screens(start(), state(1, "the [MASK]"), state(2, "the cat"))
    assert last.lines() == ["the cat", "step 2/8 · nfe 1 · t 0.500"]


def test_elsewhere_only_the_final_texts_are_printed() -> None:
    out = Terminal(is_tty=False)
    watch([start(2), state(1, "a [MASK]", "[MASK]"), done("a b", "c\td")], out)
    assert out.getvalue() == "a b\nc\td\n"


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 5, [""]),
        ("ab cd", 5, ["ab cd"]),
        ("ab cde", 5, ["ab ", "cde"]),
        ("abcdefg h", 3, ["abc", "def", "g h"]),
        ("abc def", 3, ["abc", "def"]),
        ("ab\n\ncd", 9, ["ab", "", "cd"]),
        ("漢字漢字", 5, ["漢字", "漢字"]),
        ("e\u0301e\u0301e\u0301 x", 3, ["e\u0301e\u0301e\u0301", "x"]),
    ],
)
def test_wrap(text: str, width: int, lines: list[str]) -> None:
    assert list(wrap([P(part) for part in re.findall(r"\S+|\s", text)], width)) == lines
    assert all(cells(line) <= width for line in lines)
