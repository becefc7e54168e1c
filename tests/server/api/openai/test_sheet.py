"""What can be told of a job's answers: by the process, only what nothing will change any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from server.api.openai.sheet import Blank, Piece, Sheet
from server.work.stream import News, Place
from tests.live_server import tiny_tokenizer
from token_diffusion.checkpoint import Checkpoint
from token_diffusion.engine.updates import BlockEnd, Result
from token_diffusion.text import OPEN

pytest_plugins = ["tests.server_fixtures"]

MASK = tiny_tokenizer().mask_token_id
W1, W2, W3, W4, W5, W6 = tiny_tokenizer()("w1 w2 w3 w4 w5 w6")["input_ids"]
BLANK = Blank((W1, W2), (W6,), 4)


def sheet(checkpoint: Checkpoint, n: int = 1, prompts: Sequence[int] | None = None, **options: Any) -> Sheet:
    """One whose answers are the tenth and those behind it, if nothing else is said."""
    settles = checkpoint.process == "absorbing"
    usual: dict[str, Any] = {"stop": (), "ends": (), "diffusing": False, "settles": settles}
    return Sheet(checkpoint, BLANK, prompts or [10 // n], n, **(usual | options))


def news(*rows: Sequence[int], blocks: Sequence[BlockEnd] = (), last: bool = False) -> News:
    """All rows have changed, and are so now; with `last` for good."""
    tokens = np.array([[W1, W2, *row, W6] for row in rows], np.int32)
    changes = [(sample, 2, row[0]) for sample, row in enumerate(rows)]
    result = Result(tokens.tolist(), [], 0, 0, 3, 4) if last else None
    return News(tokens, before=Place(0), after=Place(1), changes=changes, blocks=list(blocks), result=result)


def told(sheet: Sheet, *stories: News) -> list[list[Piece]]:
    return [sheet.pieces(story) if sheet.is_due(story) else [] for story in stories]


def test_the_sequence_is_open_between_what_is_given(tiny: Mapping[str, Checkpoint]) -> None:
    assert BLANK.tokens(tiny["absorbing"].facts.frame) == [W1, W2, OPEN, OPEN, OPEN, OPEN, W6]
    assert BLANK.num_given == 3


def test_absorbing_tells_what_has_no_mask_before_it(tiny: Mapping[str, Checkpoint]) -> None:
    each = sheet(tiny["absorbing"], 2)
    pieces = told(
        each,
        news([MASK, W3, MASK, W4], [W5, MASK, MASK, MASK]),
        news([W1, W3, MASK, W4], [W5, MASK, W3, MASK]),
        news([W1, W3, W2, W4], [W5, W4, W3, W6], last=True),
    )
    assert pieces == [
        [Piece(11, " w5")],
        [Piece(10, " w1 w3")],
        [Piece(10, " w2 w4", "length"), Piece(11, " w4 w3 w6", "length")],
    ]
    assert each.complete and each.num_tokens == 8


def test_a_prompt_that_is_asked_again_has_its_answers_in_its_places(tiny: Mapping[str, Checkpoint]) -> None:
    each = sheet(tiny["absorbing"], 2, [0, 3])
    assert (each.num_answers, each.num_given) == (4, 6)
    [pieces] = told(each, news([W1] * 4, [W2] * 4, [W3] * 4, [W4] * 4, last=True))
    assert [(piece.index, piece.text[:3]) for piece in pieces] == [(0, " w1"), (1, " w2"), (6, " w3"), (7, " w4")]


@pytest.mark.parametrize("process", ["uniform", "hybrid"])
def test_others_tell_blocks_that_are_over_as_they_rewrite_the_rest(
    tiny: Mapping[str, Checkpoint], process: str
) -> None:
    pieces = told(
        sheet(tiny[process]),
        news([W3, W3, W3, W3]),
        news([W4, W5, W3, W3], blocks=[BlockEnd(0, 2, 4)]),
        news([W4, W5, W6, W3]),
        news([W4, W5, W6, W6], blocks=[BlockEnd(1, 4, 6)], last=True),
    )
    assert pieces == [[], [Piece(10, " w4 w5")], [], [Piece(10, " w6 w6", "length")]]


def test_an_answer_that_has_ended_is_told_no_more(tiny: Mapping[str, Checkpoint]) -> None:
    each = sheet(tiny["absorbing"], 2, stop=["w3"], ends=[W6])
    first, second = told(
        each, news([W4, W3, MASK, MASK], [W5, MASK, MASK, MASK]), news([W4, W3, W2, W2], [W5, W6, MASK, MASK])
    )
    assert first == [Piece(10, " w4 ", "stop"), Piece(11, " w5")]
    assert second == [Piece(11, "", "stop")]
    assert each.complete, "though two masks are left"
    assert each.num_tokens == 4


def test_diffusing_tells_the_whole_of_what_has_changed(tiny: Mapping[str, Checkpoint]) -> None:
    each = sheet(tiny["absorbing"], diffusing=True)
    pieces = told(each, news([MASK, W3, MASK, W4]), news([W1, W3, W2, W4], last=True))
    assert pieces == [[Piece(10, " [MASK] w3 [MASK] w4")], [Piece(10, " w1 w3 w2 w4", "length")]]
