"""A judge is trained, goes on where it ended, and says of held-out text what can be computed by hand."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.decoders.held_out import held_out
from benchmarks.decoders.judge import main
from trainer.evaluation.quality import load_judge

WORDS = "once upon a time there was a cat that saw the moon and a dog that did not"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train.txt` and `valid.txt`."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "train.txt").write_text(f"{WORDS}\n" * 40, encoding="utf-8")
    (folder / "valid.txt").write_text(f"the moon saw a dog\n{WORDS}\n", encoding="utf-8")
    return folder


def flags(text: Path, output: Path, **more: object) -> list[str]:
    given: dict[str, object] = {
        "vocab_size": 300,
        "context": 16,
        "hidden_size": 64,
        "num_layers": 1,
        "batch_size": 4,
        "eval_steps": 5,
    }
    given |= {"max_train_steps": 10} | more
    files = ["--train_file", text / "train.txt", "--validation_file", text / "valid.txt", "--output_dir", output]
    return [str(each) for each in [*files, *(part for name, value in given.items() for part in (f"--{name}", value))]]


@pytest.fixture(scope="module")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judges") / "judge"
    assert main(flags(text, folder)) == 0
    return folder


def test_a_judge_has_a_card_and_figures_of_text_that_it_has_not_seen(trained: Path, text: Path) -> None:
    figures = json.loads((trained / "judge.json").read_text(encoding="utf-8"))
    assert (figures["name"], figures["steps"], figures["best_step"]) == ("judge", 10, 10)
    assert figures["train_files"] == [f"{text.name}/train.txt"]
    assert figures["num_bytes"] == len((text / "valid.txt").read_bytes())
    assert 1 < figures["perplexity"] < 300  # a uniform guess's
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert f"{figures['perplexity']:.2f}" in card and str(text) not in card


def test_held_out_figures_are_those_of_a_loop_over_single_tokens(trained: Path, text: Path) -> None:
    judge = load_judge(str(trained))
    found = held_out(judge, "validation_file", text / "valid.txt")
    ids = judge.tokenizer((text / "valid.txt").read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    nats, row = 0.0, [judge.tokenizer.bos_token_id, *ids]
    half = judge.context // 2
    for place in range(1, len(row)):  # what a window starts with: the beginning, or at least half a context before
        start = max(0, math.ceil((place + 1 - judge.context) / half)) * half
        with torch.inference_mode():
            logits = judge.model(input_ids=torch.tensor([row[start:place]])).logits[0, -1]
        nats -= logits.log_softmax(-1)[row[place]].item()
    assert found["num_tokens"] == len(ids)
    assert found["perplexity"] == pytest.approx(math.exp(nats / len(ids)), rel=1e-4)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / found["num_bytes"], rel=1e-4)


def test_pieces_are_read_each_by_itself(trained: Path, text: Path) -> None:
    judge = load_judge(str(trained))
    found = held_out(judge, "test_file", text / "train.txt")["pieces"]
    ids = judge.tokenizer((text / "train.txt").read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    sums, counts = [], []
    for start in range(0, len(ids), judge.context - 1):
        row = [judge.tokenizer.bos_token_id, *ids[start : start + judge.context - 1]]
        with torch.inference_mode():
            logits = judge.model(input_ids=torch.tensor([row])).logits[0, :-1]
        sums.append(-logits.log_softmax(-1)[torch.arange(len(row) - 1), row[1:]].sum().item())
        counts.append(len(row) - 1)
    assert len(sums) > 2 and found["num_tokens"] == len(ids)
    nats = sum(sums) / len(ids)
    assert (found["nats"], found["perplexity"]) == (
        pytest.approx(nats, rel=1e-4),
        pytest.approx(math.exp(nats), rel=1e-3),
    )
    assert found["bits_per_byte"] == pytest.approx(sum(sums) / math.log(2) / found["num_bytes"], rel=1e-4)
    # The error of a ratio of sums, by the delta method over pieces.
    rest = torch.tensor(sums) - nats * torch.tensor(counts)
    error = (rest.square().sum() / (len(sums) - 1) * len(sums)).sqrt().item() / len(ids)
    assert found["nats_error"] == pytest.approx(error, rel=1e-3)


def test_files_that_are_only_measured_change_no_weight(trained: Path, text: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "judge", ignore=shutil.ignore_patterns("checkpoints"))
    more = ["--test_file", str(text / "train.txt"), str(text / "valid.txt")]
    assert main([*flags(text, tmp_path / "judge"), *more]) == 0
    before, after = (
        json.loads((folder / "judge.json").read_text("utf-8")) for folder in (trained, tmp_path / "judge")
    )
    assert set(after["tests"]) == {"train.txt", "valid.txt"} and before["tests"] == {}
    assert (after["steps"], after["best_step"]) == (before["steps"], before["best_step"])
    assert not (tmp_path / "judge" / "checkpoints").exists()  # nothing was trained
    assert after["tests"]["valid.txt"]["perplexity"] == before["perplexity"] == after["perplexity"]
    assert after["tests"]["train.txt"]["num_bytes"] == len((text / "train.txt").read_bytes())


def test_the_same_command_goes_on_and_another_one_is_refused(trained: Path, text: Path) -> None:
    before = (trained / "judge.json").read_text(encoding="utf-8")
    assert main(flags(text, trained)) == 0
    assert (trained / "judge.json").read_text(encoding="utf-8") == before
    (trained / "judge.json").unlink()  # as if it had been killed before the end
    assert (trained / "checkpoints" / "checkpoint-5").is_dir()
    shutil.rmtree(trained / "checkpoints" / "checkpoint-10")
    (trained / "model.safetensors").unlink()
    assert main(flags(text, trained)) == 0
    assert (trained / "judge.json").read_text(encoding="utf-8") == before
    with pytest.raises(ValueError, match="hidden_size must be 64, as in the run that judge holds, got 128"):
        main(flags(text, trained, hidden_size=128))


def test_what_cannot_be_read_is_said_in_a_line(text: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^train_file must"):
        main([*flags(text, tmp_path / "a"), "--train_file", str(tmp_path / "missing.txt")])
    with pytest.raises(ValueError, match=r"^validation_file must"):
        main([*flags(text, tmp_path / "b"), "--validation_file", str(tmp_path / "empty.txt")])
    with pytest.raises(ValueError, match=r"^tokenizer_name must hold a tokenizer"):
        main([*flags(text, tmp_path / "c"), "--tokenizer_name", str(tmp_path)])
    with pytest.raises(ValueError, match=r"^output_dir must be a writable folder"):
        main([*flags(text, text / "train.txt")])
