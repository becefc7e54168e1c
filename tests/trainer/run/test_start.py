"""Training goes on from folders that others have published, and from our own: what they say is what a run does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny import save_tiny
from tests.token_diffusion.networks.families.dit_folders import write_folder, write_gpt2
from tests.token_diffusion.networks.families.hub_folders import write_llada
from tests.token_diffusion.networks.families.recording import recording
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.facts import Frame
from trainer.__main__ import main, parse
from trainer.config import TrainingConfig
from trainer.run.start import find_start, settled

END = 59
"""What begins and ends texts of the recorded MDLM."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MDLM, a GIDD-like and a LLaDA of others, a hybrid of ours, a tokenizer and a text."""
    place = tmp_path_factory.mktemp("published")
    for name in ("mdlm", "duo", "bd3lm"):
        write_folder(place / name, recording(name))
    write_gpt2(place / "tokenizer", 60)
    write_llada(place / "llada")
    save_tiny(place / "ours", "hybrid")
    texts = [{"text": text} for text in ["w1 w2 w3 w4", "w5 w6 w1 w2 w3"] * 8]
    (place / "text.jsonl").write_text("\n".join(map(json.dumps, texts)))
    return place


def command(folders: Path, name: str, output_dir: Path, *more: str) -> list[str]:
    start = [f"--model_name_or_path={folders / name}", f"--train_file={folders / 'text.jsonl'}", "--max_length=16"]
    if name in ("mdlm", "duo", "bd3lm"):
        start.append(f"--tokenizer_name={folders / 'tokenizer'}")
    return [
        *start,
        f"--output_dir={output_dir}",
        "--max_train_steps=1",
        "--lr_warmup_steps=0",
        "--report_to=none",
        *more,
    ]


def weights_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


@pytest.mark.parametrize("name", ["mdlm", "duo", "bd3lm", "llada"])
def test_what_is_saved_is_an_ordinary_folder_that_says_the_same(name: str, folders: Path, tmp_path: Path) -> None:
    untouched = weights_of(folders / name)
    assert main(["udlm" if name == "duo" else "mdlm", *command(folders, name, tmp_path)]) == 0
    assert weights_of(folders / name) == untouched, "they are mapped into memory, and trained there"
    tokenizer_name = folders / "tokenizer" if name != "llada" else None
    before = load_checkpoint(folders / name, tokenizer_name=tokenizer_name)
    after = load_checkpoint(tmp_path / "final")
    assert before.family is not None and after.family is None
    assert after.block_size == before.block_size
    assert after.facts == before.facts and after.facts.known
    assert after.forbidden == before.forbidden
    theirs, ours = (dict(each.scheduler.config) for each in (before, after))
    assert {key: value for key, value in ours.items() if key[0] != "_"} == {
        key: value for key, value in theirs.items() if key[0] != "_"
    }
    moved = [not now.equal(was) for was, now in zip(before.model.parameters(), after.model.parameters(), strict=True)]
    assert any(moved)


def test_pieces_of_packed_text_have_the_frame_and_the_end_between_them_is_learnt(
    folders: Path, tmp_path: Path
) -> None:
    from trainer.accelerator import make_accelerator
    from trainer.data.corpus import load_corpus
    from trainer.data.feed import StoredFeed
    from trainer.run.train import Run

    config = parse("mdlm", command(folders, "mdlm", tmp_path, "--packing"))
    assert isinstance(config, TrainingConfig)
    start = find_start(config)
    config = settled(config, start)
    run = Run(config, make_accelerator(config), load_corpus(config), start=start)
    assert isinstance(run.feed, StoredFeed)
    assert run.feed.facts.frame == Frame((END,)) and run.feed.facts.learnt == {END}
    batch = next(iter(run.feed.batches(0)))
    assert batch["clean"].shape[1] == 16 and (batch["clean"][:, 0] == END).all()
    assert not batch["noisable"][:, 0].any() and (batch["noisy"][:, 0] == END).all()
    separators = batch["clean"][:, 1:] == END
    assert separators.any() and batch["noisable"][:, 1:][separators].all()


def test_flags_win_over_the_folder_where_they_may(folders: Path) -> None:
    config = parse("hybrid", command(folders, "ours", Path("out"), "--gamma=1.5"))
    assert isinstance(config, TrainingConfig)
    start = find_start(config)
    assert start is not None
    start.scheduler.register_to_config(p_uniform=0.3, gamma=0.7)
    options = settled(config, start).scheduler_options()
    assert options["p_uniform"] == 0.3 and options["gamma"] == 1.5


@pytest.mark.parametrize(
    ("process", "name", "more", "complaint"),
    [
        ("udlm", "mdlm", [], "be a folder of the uniform process: this one goes on with `trainer mdlm`"),
        ("mdlm", "ours", [], "be a folder of the absorbing process: this one goes on with `trainer hybrid`"),
        ("sft", "ours", ["--forward_process=absorbing"], "forward_process must be hybrid"),
        ("sft", "llada", ["--gamma=1.5"], "gamma must be left out where the process is absorbing"),
        (
            "mdlm",
            "mdlm",
            ["--tokenizer_name={0}/ours"],
            "tokenizer_name must have the mask token 60 of its mdlm model",
        ),
    ],
)
def test_what_contradicts_the_folder_is_refused(
    process: str,
    name: str,
    more: list[str],
    complaint: str,
    folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = command(folders, name, tmp_path, *(each.format(folders) for each in more))
    assert main([process, *flags]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1
