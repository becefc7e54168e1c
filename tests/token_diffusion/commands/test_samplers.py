"""`python -m token_diffusion samplers`: the table, for people, machines and docs."""

from __future__ import annotations

import json

import pytest

from token_diffusion.__main__ import main
from token_diffusion.samplers.catalogue import KINDS, all_options
from token_diffusion.samplers.presets import PRESETS


@pytest.mark.parametrize("flags", [[], ["--markdown"], ["--json"]])
def test_all_of_it_is_told(capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    assert main(["samplers", *flags]) == 0
    told = capsys.readouterr().out
    for name in (*KINDS, *all_options(), *PRESETS):
        assert name in told
    assert all(kind.summary in told for kind in KINDS.values())


def test_json_has_each_sampler_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["samplers", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["presets"] == PRESETS
    for each in told["samplers"]:
        kind = KINDS[each["name"]]
        assert each["processes"] == list(kind.decoders) and each["law"] == kind.law
        assert [option["name"] for option in each["options"]] == list(kind.options)
    confident = next(each for each in told["samplers"] if each["name"] == "confidence")
    threshold = next(option for option in confident["options"] if option["name"] == "threshold")
    assert (threshold["type"], threshold["exclusive_minimum"], threshold["maximum"]) == ("number", 0, 1)


def test_a_row_of_a_markdown_table_has_as_many_cells_as_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["samplers", "--markdown"]) == 0
    for table in capsys.readouterr().out.strip().split("\n\n"):
        assert len({line.count("|") for line in table.splitlines()}) == 1
