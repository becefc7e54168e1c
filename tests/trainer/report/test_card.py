"""The card says what is known, with its errors, and nothing of the machine that made it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from trainer.command_line import spelled
from trainer.config import MDLMConfig
from trainer.data.spelling import Spelling
from trainer.evaluation.bound import Estimate, summarise
from trainer.output.provenance import base_name, code_version, command_line, hub_dataset, hub_model
from trainer.report.card import CardFacts, model_card
from trainer.report.metadata import HubFacts

HISTORY = (
    {"step": 50, "nelbo": 5.25, "lr": 1e-3, "num_tokens": 100},
    {"step": 100, "nelbo": 4.5, "lr": 5e-4, "num_tokens": 200},
    {"step": 100, "validation_nelbo": 4.75, "validation_error": 0.125, "num_times": 8, "weights": "as trained"},
)
SPELLING = Spelling(np.array([40, 30]), np.array([41, 30]), 5, False)
BOUND = summarise(torch.tensor([40.0, 36.0]).double(), torch.tensor([8.0, 8.0]).double(), 8, SPELLING)
HUB = HubFacts(
    name="run",
    process="hybrid",
    model_type="bert",
    validated_on="input.txt (last 10 %)",
    bound=BOUND,
)
FACTS = CardFacts(
    hub=HUB,
    place="ann/run",
    scheduler_options={"forward_process": "hybrid", "p_uniform": 0.1},
    weighting="dynamic",
    architecture="BertForMaskedLM",
    start=None,
    num_parameters=12345,
    vocab_size=300,
    max_length=16,
    packing=True,
    command="python -m trainer hybrid --train_file input.txt",
    code="commit v1-2-gabc",
    train_source="input.txt (first 90 %)",
    num_train_sequences=99,
    step=100,
    max_train_steps=100,
    num_tokens=200,
    window=8,
    weights="moving average, decay 0.999",
    dtype="float32",
    precision="float32",
    optimizer="`adamw_torch`, learning rate 0.001",
    num_dropped_tokens=None,
    history=HISTORY,
    samples=({"step": 50, "samples": ["early text"]}, {"step": 100, "samples": ["later\ntext", "other"]}),
)


def test_a_card_has_data_command_code_bound_and_limits() -> None:
    card = ModelCard(model_card(FACTS))
    data = card.data.to_dict()
    assert data["tags"] == ["token-diffusion", "discrete-diffusion", "hybrid"]
    assert data["library_name"] == "transformers" and "base_model" not in data
    for part in (
        "input.txt (first 90 %); 99 sequences of at most 16 tokens, packed",
        "python -m trainer hybrid --train_file input.txt",
        "commit v1-2-gabc",
        "moving average, decay 0.999; float32",
        f"| NELBO (nats/token) | 4.7500 | {BOUND.standard_error:.4f} |",
        f"| perplexity | {BOUND.perplexity:.4f} | {BOUND.perplexity_error:.4f} |",
        "| bits/character | ",
        "| bits/byte | ",
        "2 sequences, 16 tokens, 70 characters, 71 bytes; 8 times a sequence",
        "white space and capitals",
        "from 5.2500 nats a token (mean of the first 50 steps) to 4.5000",
        "| 100 | 4.5000 | 4.7500 ± 0.1250 | 0.0005 |",
        "    early text",
        "    later\n    text",
        "## Limits",
    ):
        assert part in card.content, part
    assert "other" not in card.content.split("## Samples")[1].split("##")[0]


@pytest.mark.parametrize(("max_length", "seq_len", "flag"), [(16, 16, " --seq_len 16\n"), (256, 64, "\n")])
def test_what_a_stranger_is_told_to_run_fits_the_network(max_length: int, seq_len: int, flag: str) -> None:
    """It may have no more positions than it was trained with."""
    card = model_card(replace(FACTS, max_length=max_length))
    assert f"seq_len={seq_len}, seed=0" in card
    assert f"sample-hybrid --checkpoint_path THIS_FOLDER{flag}" in card


def test_a_name_does_not_end_a_cell() -> None:
    assert r"| Training text | a\|b.txt; 99" in model_card(replace(FACTS, train_source="a|b.txt"))


def test_labels_are_told_of() -> None:
    bound = replace(BOUND, unlabelled=Estimate(5.25, 0.125))
    card = model_card(replace(FACTS, hub=replace(HUB, bound=bound), labels="column `kind`: a|b = 0, c = 1"))
    assert "| Labels | column `kind`: a\\|b = 0, c = 1; `--label N` or `label=N` asks for texts of one |" in card
    assert "without labels the bound is 5.2500 ± 0.1250 nats a token." in card
    assert bound.figures()["nelbo_without_labels"] == 5.25 and "5.2500 ± 0.1250 without labels" in str(bound)
    assert "abels" not in model_card(FACTS)


def test_control_characters_of_a_sample_are_spelled_out() -> None:
    card = model_card(replace(FACTS, samples=({"step": 1, "samples": ["a\x1b[2J\rb\nc"]},)))
    assert "    a\\x1b[2J\\rb\n    c" in card


def test_what_is_not_known_is_not_claimed() -> None:
    bare = model_card(replace(FACTS, hub=replace(HUB, bound=None), history=(), samples=(), num_train_sequences=None))
    assert "Not validated" in bare and "streamed" in bare
    assert not any(title in bare for title in ("## Training", "## Samples", ".png"))
    pictured = model_card(replace(FACTS, has_picture=True, start="bert-base-uncased"))
    assert "![NELBO over steps](loss_curve.png)" in pictured and "started from `bert-base-uncased`" in pictured


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--train_file", "data/a.txt", "/home/me/b.txt"], "--train_file data/a.txt b.txt"),
        (["--output_dir=/scratch/x/run", "--packing"], "--output_dir=run --packing"),
        (["--train_file", "~/c.txt", "../d.txt", "C:\\data\\e.txt"], "--train_file c.txt d.txt e.txt"),
        (["--train_file", "/d/a/t.txt", "/d/b/t.txt", "/v.txt"], "--train_file a/t.txt b/t.txt v.txt"),
        (
            ["--train_file", "/a/x/t.txt", "/b/x/t.txt", "--resume=/a/x/t.txt"],
            "--train_file a/x/t.txt b/x/t.txt --resume=a/x/t.txt",
        ),
        (["--hub_token", "hf_secret", "--push_to_hub"], "--push_to_hub"),
        (["--push_to_hub", "--hub_token=hf_secret"], "--push_to_hub"),
        (["--config_overrides", "a=1,b=/x"], "--config_overrides a=1,b=/x"),
        (["--model_name_or_path", "answerdotai/ModernBERT-base"], "--model_name_or_path answerdotai/ModernBERT-base"),
    ],
)
def test_a_command_shows_neither_the_machine_nor_a_secret(arguments: list[str], shown: str) -> None:
    assert command_line(["mdlm", *arguments]) == f"python -m trainer mdlm {shown}"


def test_a_secret_by_another_name_is_none_the_less() -> None:
    for flags in (["--hub-token", "hf_secret"], ["--push_to_hub_token=hf_secret"], ["--hub_token", "hf_secret"]):
        assert command_line(spelled(MDLMConfig, [*flags, "--packing"])) == "python -m trainer --packing"


def test_the_command_of_several_processes() -> None:
    assert command_line(["udlm"], 2) == "accelerate launch --num_processes 2 -m trainer udlm"


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_code_is_its_commit_and_not_that_of_a_repository_around_it(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "a").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "first")
    git(tmp_path, "tag", "-m", "v", "v7")
    assert code_version(tmp_path) == "commit v7"
    (tmp_path / "a").write_text("2")
    assert code_version(tmp_path) == "commit v7-dirty"
    assert code_version(inner) in ("version 0.1.0", "unknown")


def test_without_git_it_is_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("trainer.output.provenance.version", lambda name: {"token-diffusion": "1.2.3"}[name])
    assert code_version() == "version 1.2.3"


def test_a_folder_goes_by_its_name(tmp_path: Path) -> None:
    assert base_name(str(tmp_path)) == tmp_path.name and base_name("owner/model") == "owner/model"


def test_the_hub_is_told_only_ids_that_it_knows(tmp_path: Path) -> None:
    """A folder's name is none of them, nor a path that its config.json calls `_name_or_path`."""
    assert hub_model("bert-base-uncased") == "bert-base-uncased"
    assert hub_model("answerdotai/ModernBERT-base") == "answerdotai/ModernBERT-base"
    (tmp_path / "config.json").write_text('{"_name_or_path": "runs/best"}')
    assert hub_model(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nbase_model: ann/base\n---\n# a card\n")
    assert hub_model(str(tmp_path)) == "ann/base"
    for head in ("base_model: /home/me/run", "base_model: [a/b, c/d]", "base_model: [", ""):
        (tmp_path / "README.md").write_text(f"---\n{head}\n---\n# a card\n")
        assert hub_model(str(tmp_path)) is None
    cached = tmp_path / "models--google-bert--bert-base-uncased" / "snapshots" / "0123abc"
    cached.mkdir(parents=True)
    assert hub_model(str(cached)) == "google-bert/bert-base-uncased"
    assert hub_dataset("ann/texts") == ["ann/texts"] and hub_dataset("wikitext") == ["wikitext"]
    assert hub_dataset(None) == hub_dataset(str(tmp_path)) == hub_dataset("./texts") == []
