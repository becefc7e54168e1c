"""A demo's card, made of the trainer's: once or again, what stands in it is what was measured, learnt and given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from benchmarks.results.block import BEGIN, END
from benchmarks.results.english.cards import main
from tests.trainer.report.test_card import FACTS
from trainer.report.card import model_card

TEXT = {
    "num_words": 90,
    "unigram_entropy": 5.0,
    "distinct_2": 0.8,
    "known": 0.99,
    "known_error": 0.004,
    "perplexity": 50.0,
    "perplexity_error": 4.0,
    "sample_entropy": 4.0,
    "sample_entropy_error": 0.03,
    "copied": 0.02,
    "copied_error": 0.01,
}
SAMPLES = TEXT | {"known": 0.952, "perplexity": 140.0, "copied": 0.0}


def measured(kind: str, steps: int | None, *examples: tuple[str, str, str]) -> dict[str, Any]:
    ratio = {"perplexity_ratio": 2.8, "perplexity_ratio_error": 0.3}
    off = {"unigram_entropy_off": 0.014, "sample_entropy_off": -0.07}
    told = {"kind": kind, "num_inference_steps": steps, "samples": SAMPLES, "held_out": TEXT}
    return {**told, **ratio, **off, "examples": [list(each) for each in examples]}


READ = {
    "checkpoint": "mdlm-english",
    "process": "absorbing",
    "texts": [["storybooks-ccby/train.txt", "storybooks-ccby/test.txt"], ["tatoeba-english/train.txt", "x/valid.txt"]],
    "num_samples": 64,
    "seq_len": 128,
    "seed": 0,
    "sampler": "ancestral",
    "temperature": 1.0,
    "top_p": 1.0,
    "judge": {"name": "judge", "num_parameters": 5_000_000, "perplexity": 60.0, "validation_file": "x/valid.txt"},
    "measured": [
        measured("free", 128, ("", "of the grid", "")),
        measured("free", None, *(("", f"sample {index}.\nIts \x1b[2m end", "") for index in range(10))),
        measured("prompted", 128, ("The cat", " sat down.", "")),
        measured("infilled", 128, ("A dog", " ran to", " the tree.")),
    ],
}


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A demo's folder as the trainer and `reading` leave it, beside two runs and the stories' authors."""
    folder = tmp_path / "mdlm-english"
    folder.mkdir()
    (folder / "README.md").write_text(model_card(FACTS), encoding="utf-8")
    (folder / "reading.json").write_text(json.dumps(READ), encoding="utf-8")
    (tmp_path / "first.md").write_text(model_card(FACTS), encoding="utf-8")
    (tmp_path / "stories.tsv").write_text("title\ttext_by\nThe Tree\tAnn\n", encoding="utf-8")
    return folder


def make(demo: Path, *more: object) -> None:
    runs = ["--stage", demo.parent / "first.md", 7.5, "one core", "--stage", demo / "README.md", 2, "another"]
    given = [demo, *runs, "--stories", demo.parent / "stories.tsv", *more]
    assert main([str(each) for each in given]) == 0


def card_of(demo: Path) -> str:
    return (demo / "README.md").read_text(encoding="utf-8")


def test_a_card_has_samples_figures_licences_and_training(demo: Path) -> None:
    make(demo)
    card = card_of(demo)
    for part in (
        "Seed 0:\n\n    sample 0.\n    Its \\x1b[2m end\n",
        "Seed 9:",
        "--seq_len 128 --num_samples 1 --num_inference_steps none --seed 0",
        "drawn:\n\n     sat down.\n",
        "| held-out text |  | 99.0 ± 0.4 % | 50.0 ± 4.0 |  | 5.00 | 4.00 | 0.800 | 2.0 ± 1.0 % |  |",
        "(its own perplexity of x/valid.txt: 60.0)",
        "[CC BY 2.0 FR](https://creativecommons.org/licenses/by/2.0/fr/) | Sentences from tatoeba.org, CC BY 2.0 FR |",
        "In all 400 tokens seen, in 9.5 hours",
        "| 1 | 200 | 7.5 | one core |",
        "python -m trainer hybrid --train_file input.txt\npython -m trainer hybrid --train_file input.txt\n",
    ):
        assert part in card, part
    assert "of the grid" not in card
    assert card.index("## What it writes") < card.index("## Use") < card.index("## Limits")
    assert (demo / "stories.tsv").read_text(encoding="utf-8") == (
        (demo.parent / "stories.tsv").read_text(encoding="utf-8")
    )
    assert str(demo.parent) not in card


def test_its_head_is_the_trainers_with_the_licence_said_with_care(demo: Path) -> None:
    before = ModelCard(card_of(demo)).data.to_dict()
    make(demo)
    after = ModelCard(card_of(demo)).data.to_dict()
    assert after == before | {
        "license": "other",
        "license_name": "apache-2.0-texts-with-attribution",
        "license_link": "#texts-and-licences",
        "language": "en",
    }


def test_written_again_it_is_the_same_and_what_has_changed_takes_its_place(demo: Path) -> None:
    make(demo)
    once = card_of(demo)
    assert main([str(demo)]) == 0
    assert card_of(demo) == once
    (demo / "reading.json").write_text(json.dumps(READ | {"num_samples": 32}), encoding="utf-8")
    assert main([str(demo)]) == 0
    changed = once.replace("64 samples of", "32 samples of").replace("--num_samples 64", "--num_samples 32")
    assert card_of(demo) == changed != once
    (demo / "README.md").write_text(model_card(FACTS).replace("## Use\n", "## How\n"), encoding="utf-8")
    assert main([str(demo)]) == 0
    assert card_of(demo).count(BEGIN) == card_of(demo).count(END) == 1  # at the end of another kind of card


def test_what_is_missing_is_said_in_a_line(demo: Path) -> None:
    with pytest.raises(ValueError, match=r"^checkpoint_path must hold training\.json, which --stage writes, got "):
        main([str(demo)])
    with pytest.raises(ValueError, match=r"^stage must begin with a card that the trainer has written, got 'no\.md'"):
        main([str(demo), "--stage", "no.md", "1", "here"])
    with pytest.raises(ValueError, match=r"^stage must have a number of hours behind its card, got 'long'"):
        main([str(demo), "--stage", str(demo / "README.md"), "long", "here"])
    with pytest.raises(ValueError, match=r"^stories must be given, as its licence asks for the authors"):
        main([str(demo), "--stage", str(demo / "README.md"), "1", "here"])
    make(demo)
    (demo / "reading.json").write_text(json.dumps(READ | {"temperature": 0.7}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^reading\.json must be of temperature 1\.0, as the aims are, got 0\.7"):
        main([str(demo)])
    (demo / "reading.json").write_text(
        json.dumps(READ | {"texts": [["mine/train.txt", "mine/x.txt"]]}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"^text must be one whose licence is known \(.*\), got 'mine'"):
        main([str(demo)])
