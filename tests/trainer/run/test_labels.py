"""Labels from the command line: what a network learns of them, what its folder says, that a run goes on, what is refused."""

from __future__ import annotations

import csv
import json
import random
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from tests.tiny import save_labelled, save_tiny, tiny_tokenizer
from tests.training_runs import forked
from token_diffusion import score
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.text import encode_passage
from trainer.__main__ import main, parse
from trainer.config import TrainingConfig
from trainer.data.reading.labels import Labels
from trainer.data.streaming import SequenceStream, open_documents

SIZES = "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=64,max_position_embeddings=32,cond_dim=16"
LATEST = "--resume_from_checkpoint=latest"
KILLED = ("trainer.run.learner:Learner._move", 4, "before")


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts of w0 to w3 are low, those of w20 to w23 high: no word tells of the other's."""
    generator = random.Random(seed)
    found: list[dict[str, Any]] = []
    for number in range(count):
        first = 20 * (number % 2)
        words = " ".join(f"w{generator.randrange(first, first + 4)}" for _ in range(6))
        found.append({"text": words, "kind": ("low", "high")[number % 2], "number": number % 2})
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`rows.jsonl`, the same as `rows.csv` and as a data set in `data`, a `tokenizer`, `known`: a model of three labels."""
    folder = tmp_path_factory.mktemp("labels")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    found = rows(60)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*found[0]])
        writer.writeheader()
        writer.writerows(found)
    Dataset.from_list(found).to_parquet(folder / "data" / "train.parquet")
    save_labelled(folder / "known")
    save_tiny(folder / "plain", "absorbing")
    return folder


def flags(place: Path, output_dir: Path, *more: str, **changes: object) -> list[str]:
    options: dict[str, object] = {
        "train_file": place / "rows.jsonl",
        "label_column": "kind",
        "tokenizer_name": place / "tokenizer",
        "config_name": "token-diffusion",
        "config_overrides": SIZES,
        "output_dir": output_dir,
        "max_length": 8,
        "max_train_steps": 4,
        "checkpointing_steps": 2,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "learning_rate": 1e-2,
        "report_to": "none",
    }
    given = {name: value for name, value in {**options, **changes}.items() if value is not None}
    return [*(f"--{name}={value}" for name, value in given.items()), *more]


def going_on(place: Path, **changes: object) -> dict[str, object]:
    return {"config_name": None, "config_overrides": None, "tokenizer_name": None, **changes}


def bits(folder: Path) -> bytes:
    return (folder / "final" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("command", ["mdlm", "udlm", "hybrid"])
def test_a_text_is_likelier_under_its_own_label(
    command: str, place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    learning = {"max_train_steps": 60, "per_device_train_batch_size": 16, "label_dropout": 0.2}
    asked = flags(place, tmp_path, "--validation_split_percentage=20", checkpointing_steps=60, **learning)
    assert main([command, *asked]) == 0
    assert "labels of kind: high = 0 (30), low = 1 (30), of 2 that the network knows" in caplog.text
    checkpoint = load_checkpoint(tmp_path / "final")
    assert checkpoint.num_classes == 2 and checkpoint.model.config.label2id == {"high": 0, "low": 1}
    texts = [
        encode_passage(checkpoint.tokenizer, row["text"], frame=checkpoint.facts.frame) for row in rows(8, seed=1)
    ]
    own = [1 - number % 2 for number in range(8)]

    def bound(labels: list[int | None]) -> float:
        tokens, given = [text.tokens for text in texts], [text.given for text in texts]
        told = score(checkpoint.denoiser, checkpoint.scheduler, tokens, given=given, labels=labels)
        return sum(each.nats for each in told) / len(told)

    right, none, wrong = bound([*own]), bound([None] * 8), bound([1 - label for label in own])
    assert right < none - 0.5 and none < wrong - 1
    card = (tmp_path / "final" / "README.md").read_text()
    assert "| Labels | column `kind`: high = 0, low = 1; left out of 0.2 of the training examples;" in card
    assert "without labels the bound is" in card
    capsys.readouterr()
    measured = [f"--checkpoint_path={tmp_path / 'final'}", f"--validation_file={place / 'rows.csv'}", "--max_length=8"]
    assert main(["evaluate", *measured, "--label_column=kind"]) == 0
    named = json.loads(capsys.readouterr().out.splitlines()[-1])["validation"]
    assert named["nelbo"] < named["nelbo_without_labels"] - 0.05
    assert main(["evaluate", *measured]) == 0
    unlabelled = json.loads(capsys.readouterr().out.splitlines()[-1])["validation"]
    assert unlabelled["nelbo"] == named["nelbo_without_labels"] and "nelbo_without_labels" not in unlabelled


@pytest.mark.parametrize("source", ["rows.csv", "data"])
def test_tables_and_data_sets_hold_the_same_labels(source: str, place: Path, tmp_path: Path) -> None:
    flag = "dataset_name" if source == "data" else "train_file"
    changed: dict[str, object] = {"train_file": None, flag: place / source}
    assert main(["mdlm", *flags(place, tmp_path / "a", max_train_steps=2)]) == 0
    assert main(["mdlm", *flags(place, tmp_path / "b", max_train_steps=2, **changed)]) == 0
    assert bits(tmp_path / "a") == bits(tmp_path / "b")


STREAMED = {"streaming": True, "shuffle_buffer_size": 20, "label_column": "number"}


@pytest.mark.parametrize("source", ["rows.jsonl", "data"])
def test_streamed_text_has_its_labels(source: str, place: Path, tmp_path: Path) -> None:
    flag = "dataset_name" if source == "data" else "train_file"
    config = parse("mdlm", flags(place, tmp_path, **{"train_file": None, flag: place / source, **STREAMED}))
    assert isinstance(config, TrainingConfig)
    tokenizer, labels = tiny_tokenizer(), Labels(2)
    stream = SequenceStream(open_documents(config, tokenizer, labels), tokenizer, config, 0, 1, labels=labels)
    with closing(iter(stream)) as found:
        examples = [example for example, _ in islice(found, 60)]
    high = tokenizer.convert_tokens_to_ids("w20")
    assert [each.label for each in examples] == [int(each.ids[1] >= high) for each in examples]
    assert sum(each.label == 1 for each in examples) == 30


@pytest.mark.parametrize(("text", "label"), [("a", "text"), ("label", "text"), ("text", "label"), ("label", "b")])
def test_columns_of_a_data_set_may_have_any_names(text: str, label: str, place: Path, tmp_path: Path) -> None:
    Dataset.from_dict({text: ["w1", "w2"], label: [1, 0], "other": ["", ""]}).to_parquet(tmp_path / "train.parquet")
    changes: dict[str, object] = {"train_file": None, "dataset_name": tmp_path, **STREAMED, "label_column": label}
    config = parse("mdlm", flags(place, tmp_path, **changes, text_column=text))
    assert isinstance(config, TrainingConfig)
    rows = open_documents(config, tiny_tokenizer(), Labels(2))
    assert list(rows.take(2)) == [{"text": "w1", "label": 1}, {"text": "w2", "label": 0}]


RESUMED: dict[str, dict[str, object]] = {
    "stored": {"label_dropout": 0.5, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "streamed": {**STREAMED, "config_overrides": f"{SIZES},num_classes=2"},
}


@pytest.mark.parametrize("kind", RESUMED)
def test_a_run_goes_on_bit_for_bit(kind: str, place: Path, tmp_path: Path) -> None:
    changes = RESUMED[kind]
    assert main(["udlm", *flags(place, tmp_path / "whole", **changes)]) == 0
    assert main(["udlm", *flags(place, tmp_path / "parts", **changes, max_train_steps=2)]) == 0
    assert main(["udlm", *flags(place, tmp_path / "parts", LATEST, **changes)]) == 0
    assert bits(tmp_path / "whole") == bits(tmp_path / "parts")


@pytest.mark.slow
def test_killed_and_resumed_is_never_stopped(place: Path, tmp_path: Path) -> None:
    runs: list[dict[str, Any]] = []
    for kind, changes in RESUMED.items():
        runs += [
            {"arguments": ["udlm", *flags(place, tmp_path / kind / "whole", **changes)]},
            {"arguments": ["udlm", *flags(place, tmp_path / kind / "parts", **changes)], "kill_at": KILLED},
            {"arguments": ["udlm", *flags(place, tmp_path / kind / "parts", LATEST, **changes)]},
        ]
    results = forked(runs)
    assert [result.exit for result in results] == [0, -9, 0] * 2, results
    for kind in RESUMED:
        assert bits(tmp_path / kind / "whole") == bits(tmp_path / kind / "parts")


def test_batches_do_not_matter(place: Path, tmp_path: Path) -> None:
    sizes = {"a": (8, 1), "b": (2, 4)}
    for name, (size, steps) in sizes.items():
        split = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_train_steps": 3}
        assert main(["mdlm", *flags(place, tmp_path / name, label_dropout=0.5, **split)]) == 0
    one, other = (load_file(tmp_path / name / "final" / "model.safetensors") for name in sizes)
    assert all(torch.allclose(other[name], tensor, atol=1e-5) for name, tensor in one.items())


def test_a_run_goes_on_from_a_folder_that_knows_labels(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known: dict[str, Any] = going_on(place, model_name_or_path=place / "known")
    assert main(["udlm", *flags(place, tmp_path / "named", **known)]) == 0
    config = load_checkpoint(tmp_path / "named" / "final").model.config
    assert config.id2label == {0: "high", 1: "low", 2: "LABEL_2"} and config.num_classes == 3
    numbered = flags(place, tmp_path / "numbered", **known | {"label_column": "number"})
    assert main(["udlm", *numbered]) == 0
    assert load_checkpoint(tmp_path / "numbered" / "final").model.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    # What the first folder says of its labels holds in the next run, which may see fewer of them.
    (tmp_path / "low.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(20) if row["number"] == 0))
    again = going_on(place, model_name_or_path=tmp_path / "named" / "final", train_file=tmp_path / "low.jsonl")
    assert main(["udlm", *flags(place, tmp_path / "again", **again)]) == 0
    assert load_checkpoint(tmp_path / "again" / "final").model.config.id2label == config.id2label
    (tmp_path / "other.jsonl").write_text('{"text": "w1 w2", "kind": "middle"}\n')
    again["train_file"] = tmp_path / "other.jsonl"
    capsys.readouterr()
    assert main(["udlm", *flags(place, tmp_path / "no", **again)]) == 2
    assert (
        "label_column must hold labels that the network knows, high = 0, low = 1, LABEL_2 = 2 (row 1 of other.jsonl), got"
        in (capsys.readouterr().err)
    )


def test_other_labels_are_another_run(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = rows(20)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in texts))
    asked: dict[str, object] = {"train_file": file, "max_train_steps": 2, "lr_scheduler": "constant"}
    assert main(["mdlm", *flags(place, tmp_path / "run", **asked)]) == 0
    texts[3]["kind"] = "low"
    file.write_text("".join(json.dumps(row) + "\n" for row in texts))
    asked["max_train_steps"] = 3
    capsys.readouterr()
    assert main(["mdlm", *flags(place, tmp_path / "run", LATEST, **asked)]) == 2
    assert "train_file must hold the same text as in the run that wrote checkpoint-2" in capsys.readouterr().err
    assert main(["mdlm", *flags(place, tmp_path / "run", LATEST, **asked | {"label_dropout": 0.3})]) == 2
    assert "label_dropout must be 0.1 as in the run that wrote checkpoint-2, got 0.3" in capsys.readouterr().err


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"packing": True}, "packing must be left out with label_column"),
    ({"label_column": "text"}, "label_column must be another column than text_column, got 'text'"),
    ({"label_column": "sort"}, "label_column must be one of the columns text, kind, number, got 'sort'"),
    ({"label_column": None, "label_dropout": 0.2}, "label_dropout must come with label_column, got 0.2"),
    ({"label_dropout": 1.5}, "label_dropout must be less than or equal to 1, got '1.5'"),
    (
        {"config_name": "bert", "config_overrides": None},
        "label_column must be left out for a network that knows no labels",
    ),
    (
        {"config_overrides": f"{SIZES},num_classes=1"},
        "label_column must hold at most 1 different labels, the num_classes",
    ),
    (
        {"label_column": "number", "config_overrides": f"{SIZES},num_classes=1"},
        "label_column must hold labels from 0 to 0, below the network's num_classes (row 2 of rows.jsonl), got 1",
    ),
    (
        {"config_overrides": f"{SIZES},num_classes=2,time_conditioning=none"},
        "config_name, config_overrides must make a masked",
    ),
    ({"streaming": True}, "config_overrides must say num_classes with label_column and streaming"),
    (
        {"streaming": True, "config_overrides": f"{SIZES},num_classes=2"},
        "label_column must hold integers, as the network has no names for its labels (row 1 of rows.jsonl), got 'low'",
    ),
]


@pytest.mark.parametrize(("changes", "line"), REFUSED, ids=[line[:60] for _, line in REFUSED])
def test_a_mistake_is_one_line(
    changes: dict[str, object], line: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mdlm", *flags(place, tmp_path, **changes)]) == 2
    (last,) = [each for each in capsys.readouterr().err.splitlines() if " must " in each]
    assert last.startswith(line)


def test_a_folder_without_labels_refuses_them(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mdlm", *flags(place, tmp_path, **going_on(place, model_name_or_path=place / "plain"))]) == 2
    assert "label_column must be left out for a network that knows no labels" in capsys.readouterr().err
    measured = [
        f"--checkpoint_path={place / 'plain'}",
        f"--validation_file={place / 'rows.csv'}",
        "--label_column=kind",
    ]
    assert main(["evaluate", *measured]) == 2
    assert "label_column must be left out for plain, which knows no labels, got 'kind'" in capsys.readouterr().err
    assert main(["sft", *flags(place, tmp_path)]) == 2
    assert "label_column must be left out with sft" in capsys.readouterr().err
