"""What each token reads as, and how old it is."""

from __future__ import annotations

import math

import pytest

from token_diffusion_client import Canvas, StartEvent, StateEvent, Vocabulary
from token_diffusion_client.cells import MASK, Age, Cell, Reader, visible

SPACED = Vocabulary("demo", 6, 0, [0, 1], ["[MASK]", "[BOS]", "the", " cat", " sat", "\x1b[2J"])
WORDS = Vocabulary("demo", 6, 0, [0, 1], ["[MASK]", "[CLS]", "the", "cat", "##s", "."])


def start(tokens: list[int], process: str = "absorbing") -> StartEvent:
    return StartEvent("smp-1", "demo", process, 7, len(tokens), 8, [tokens])


def state(step: int, *changes: tuple[int, int], keyframe: list[int] | None = None) -> StateEvent:
    changed = [(0, position, token_id) for position, token_id in changes]
    return StateEvent(step, 1 - step / 8, step, changed, keyframe=None if keyframe is None else [keyframe])


def cells(vocabulary: Vocabulary, first: StartEvent, *states: StateEvent) -> list[Cell]:
    canvas = Canvas(first)
    for event in states:
        canvas.apply(event)
    return Reader(vocabulary).cells(canvas, 0)


def line(found: list[Cell]) -> str:
    return "".join(cell.before + cell.text for cell in found)


def ages(found: list[Cell]) -> list[str]:
    return [cell.age.value for cell in found]


def test_a_token_is_fresh_then_settled_and_rewritten_when_it_is_set_again() -> None:
    first = start([2, 0, 0])
    assert ages(cells(SPACED, first)) == ["fixed", "open", "open"]
    one = state(1, (1, 3))
    assert ages(cells(SPACED, first, one)) == ["fixed", "fresh", "open"]
    two = state(2, (2, 4))
    assert ages(cells(SPACED, first, one, two)) == ["fixed", "settled", "fresh"]
    assert ages(cells(SPACED, first, one, two, state(3, (1, 4)))) == ["fixed", "rewritten", "settled"]
    assert ages(cells(SPACED, first, one, two, state(3, (1, 0)))) == ["fixed", "open", "settled"]


@pytest.mark.parametrize("process", ["uniform", "hybrid"])
def test_noise_is_open_until_it_is_set(process: str) -> None:
    found = cells(SPACED, start([3, 4], process), state(2, (0, 3)))
    assert ages(found) == ["fresh", "open"]
    assert [cell.step for cell in found] == [2, 0]


def test_what_is_taken_back_and_set_again_is_rewritten() -> None:
    events = [state(1, (1, 3)), state(2, (1, 0)), state(3, (1, 3), (2, 4))]
    found = [[cell.rewritten for cell in cells(SPACED, start([2, 0, 0]), *events[:number])] for number in (1, 2, 3)]
    assert found == [[False] * 3, [False] * 3, [False, True, False]]
    assert ages(cells(SPACED, start([2, 0, 0]), *events[:2])) == ["fixed", "open", "open"]


def test_a_cell_tells_how_probable_its_token_was() -> None:
    told = StateEvent(1, 0.5, 1, [(0, 1, 3), (0, 2, 4)], logprobs=[math.log(0.25), None])
    assert [cell.probability for cell in cells(SPACED, start([2, 0, 0]), told)] == [None, pytest.approx(0.25), None]
    again = cells(SPACED, start([2, 0, 0]), told, state(2, (1, 4)))
    assert [cell.probability for cell in again] == [None] * 3, "of the token before it"


def test_a_keyframe_sets_what_it_changes() -> None:
    found = cells(SPACED, start([2, 0, 0]), state(2, keyframe=[2, 3, 0]))
    assert (ages(found), [cell.step for cell in found]) == (["fixed", "fresh", "open"], [0, 2, 0])


def test_words_that_hold_their_spaces_are_put_side_by_side() -> None:
    assert line(cells(SPACED, start([1, 2, 3, 0, 4]))) == f"[BOS]the cat{MASK} sat"


def test_other_words_get_a_space_between() -> None:
    assert line(cells(WORDS, start([2, 3, 4, 0, 3, 5]))) == f"the cats {MASK} cat."


def test_an_unknown_token_is_its_number() -> None:
    assert line(cells(WORDS, start([2, 99]))) == "the <99>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[31mred\x07\x00", "␛[31mred␇␀"),
        ("\r\x7f\x9b2J", "␍␡<U+009B>2J"),
        ("\u202eevil\u2066", "<U+202E>evil<U+2066>"),
        ("\ud800 \ufeff", "<U+D800> <U+FEFF>"),
        ("שלום 👩\u200d🚀 e\u0301 <b>", "שלום 👩\u200d🚀 e\u0301 <b>"),
    ],
)
def test_what_would_be_obeyed_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_cell_is_visible() -> None:
    (cell,) = cells(SPACED, start([5]))
    assert cell == Cell("", "␛[2J", Age.FIXED, 0)
