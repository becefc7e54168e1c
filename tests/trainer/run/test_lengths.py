"""`--learn_end`: texts of several lengths are learnt with their ends, and samples of one length hold texts of any."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.facts import Facts, Frame
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run
from token_diffusion.text import Ending, encode, ending
from trainer.__main__ import main
from trainer.data.tokenizer import build_smiles_tokenizer

SHAPE = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=64,max_position_embeddings=10"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chains of one or four atoms of a kind, each as often; a table of them with their lengths; their tokenizer."""
    folder = tmp_path_factory.mktemp("lengths")
    generator = random.Random(0)
    lines = [generator.choice("CNOF") * generator.choice([1, 4]) for _ in range(200)]
    (folder / "lines.txt").write_text("\n".join(lines))
    (folder / "lines.csv").write_text("text,length\n" + "".join(f"{line},{len(line) > 1:d}\n" for line in lines))
    build_smiles_tokenizer(lines).save_pretrained(folder / "tokenizer")
    return folder


def flags(place: Path, output_dir: Path, *more: str, **changes: object) -> list[str]:
    options: dict[str, object] = {"train_file": place / "lines.txt", "tokenizer_name": place / "tokenizer"}
    options |= {"config_name": "token-diffusion", "config_overrides": SHAPE, "max_length": 10, "max_train_steps": 4}
    options |= {"lr_warmup_steps": 0, "lr_scheduler": "constant", "report_to": "none", "output_dir": output_dir}
    return [*(f"--{name}={value}" for name, value in {**options, **changes}.items()), "--learn_end", *more]


def drawn(checkpoint: Checkpoint, count: int, **asked: object) -> list[Ending]:
    canvas = encode(checkpoint.tokenizer, seq_len=10, frame=checkpoint.facts.frame)
    parameters = SamplingParameters.flat({"seq_len": 10, "num_samples": count, **asked})
    rows = run(checkpoint.denoiser, checkpoint.scheduler, parameters, canvas).sequences.tolist()
    return [ending(checkpoint.tokenizer, row, canvas, facts=checkpoint.facts) for row in rows]


@pytest.mark.parametrize("command", ["mdlm", "udlm", "hybrid"])
def test_the_folder_says_what_ends_a_text(command: str, place: Path, tmp_path: Path) -> None:
    assert main([command, *flags(place, tmp_path, validation_split_percentage=10)]) == 0
    checkpoint = load_checkpoint(tmp_path / "final")
    assert checkpoint.facts == Facts(Frame((2,)), frozenset({3}), known=True, fill=3)
    assert 3 not in checkpoint.forbidden and 0 in checkpoint.forbidden
    card = (tmp_path / "final" / "README.md").read_text()
    assert "180 sequences of 10 tokens, one document an example, filled up with end tokens, which are learnt" in card
    assert "20 sequences, 180 tokens" in card, "nine of each ten are not the frame's"


def test_lengths_are_learnt_and_labels_tell_them(place: Path, tmp_path: Path) -> None:
    changes = {
        "max_train_steps": 250,
        "learning_rate": 1e-2,
        "lr_scheduler": "cosine",
        "per_device_train_batch_size": 32,
    }
    table = {"train_file": place / "lines.csv", "label_column": "length"}
    assert main(["mdlm", *flags(place, tmp_path, **table, **changes)]) == 0
    checkpoint = load_checkpoint(tmp_path / "final")
    for label, length in ((0, 1), (1, 4)):
        found = drawn(checkpoint, 50, label=label, guidance_scale=2.0)
        assert [len(each.text) for each in found].count(length) > 40
        assert all(each.reason == "stop" for each in found)


def test_a_streamed_run_is_filled_up_as_well(place: Path, tmp_path: Path) -> None:
    assert main(["mdlm", *flags(place, tmp_path, "--streaming")]) == 0
    assert load_checkpoint(tmp_path / "final").facts.fill == 3
    assert "streamed, sequences of 10 tokens, one document" in (tmp_path / "final" / "README.md").read_text()


def test_a_run_goes_on_from_such_a_folder(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whose filling holds, with and without the flag; and evaluation repeats the run's own validation."""
    assert main(["mdlm", *flags(place, tmp_path / "first")]) == 0
    options: dict[str, object] = {
        "model_name_or_path": tmp_path / "first" / "final",
        "train_file": place / "lines.txt",
    }
    options |= {"validation_file": place / "lines.txt", "max_length": 10, "max_train_steps": 1, "report_to": "none"}
    written = [f"--{name}={value}" for name, value in options.items()]
    for name, more in (("with", ["--learn_end"]), ("without", [])):
        assert main(["mdlm", *written, *more, f"--output_dir={tmp_path / name}"]) == 0
    one, other = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert load_checkpoint(tmp_path / "without" / "final").facts.fill == 3
    capsys.readouterr()
    evaluate = ["--checkpoint_path", str(tmp_path / "with" / "final"), "--validation_file", str(place / "lines.txt")]
    assert main(["evaluate", *evaluate, "--max_length=10", f"--output_file={tmp_path / 'figures.json'}"]) == 0
    found = json.loads((tmp_path / "figures.json").read_text())["validation"]
    *_, last = map(json.loads, (tmp_path / "with" / "final" / "history.jsonl").read_text().splitlines())
    assert found["num_tokens"] == 1800 and found["nelbo"] == pytest.approx(last["validation_nelbo"])


@pytest.mark.parametrize(
    ("command", "more", "problem"),
    [
        (
            "mdlm",
            ["--packing"],
            "learn_end must be left out with packing, in whose pieces texts begin and end anywhere",
        ),
        ("sft", ["--train_file=a.jsonl"], "learn_end must be left out with sft"),
    ],
)
def test_mistakes_are_one_line(
    command: str, more: list[str], problem: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *flags(place, tmp_path / "out", *more)]) == 2
    assert capsys.readouterr().err.startswith(problem)
