"""Every masked LM that transformers knows trains, saves, loads and samples here, or is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.network.architectures import ARCHITECTURES, Outcome, examine, main, make_workplace, page

REFUSED = {"perceiver": "logits for each position", "reformer": "learn from rows of"}
"""What cannot be asked here, and why; an architecture that needs a package that is not installed is refused, too."""

LENGTH = {"convbert", "fnet", "funnel", "mbart", "mobilebert", "nystromformer", "yoso"}
"""Networks that see padding."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workplace(tmp_path_factory.mktemp("architectures"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_does_all_of_it_or_is_refused_in_one_line(name: str, workplace: Path) -> None:
    """A row's logits alone are those among others: `examine` compares them."""
    found = examine(name, workplace)
    if name in REFUSED:
        assert REFUSED[name] in found.refusal and not found.samples
    elif not found.refusal.startswith("needs "):
        assert found.trains and found.saves_and_loads and found.samples, found.refusal
        assert found.gathers, "the head is asked at some positions alone"
        assert (found.batching == "length") == (name in LENGTH)


def test_the_page_has_a_line_for_each() -> None:
    outcomes = [
        Outcome("bert", "BertForMaskedLM", True, True, True, True, "shared", remark="a | b"),
        Outcome("odd", "OddForMaskedLM", refusal="network must be even, got 'odd'"),
    ]
    text = page(outcomes)
    assert "1 of\n2 do all of it" in text
    assert "| `bert` | BertForMaskedLM | yes | yes | yes | yes | shared | a \\| b |" in text
    assert "| `odd` | OddForMaskedLM | no | no | no | - | - | network must be even, got 'odd' |" in text


def test_one_architecture_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fnet", "--output", str(tmp_path / "page.md")]) == 0
    line = "| `fnet` | FNetForMaskedLM | yes | yes | yes | yes | length |  |"
    assert line in (tmp_path / "page.md").read_text() and line in capsys.readouterr().out
