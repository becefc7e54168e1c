"""The tokenizer beside a published network: asked for where there is none, refused where it is another's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.token_diffusion.networks.families.recording import recording
from token_diffusion.__main__ import main

SIZE = 60
"""Of the right tokenizer for the recorded MDLM, whose mask is one more."""


def write(folder: Path, size: int, mask: int | None = None) -> Path:
    """`size` words, the last of which begins and ends text; one of them is the mask, if any is."""
    words = {f"w{id}": id for id in range(size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    roles = {"bos_token": f"w{size - 1}", "eos_token": f"w{size - 1}", "unk_token": "w0"}
    roles |= {} if mask is None else {"mask_token": f"w{mask}"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return recording("mdlm").write(tmp_path / "mdlm")


def said(capfd: pytest.CaptureFixture[str], folder: Path, *flags: str) -> str:
    """By the shell, in one line and with exit code 2."""
    capfd.readouterr()
    assert main(["sample", f"--checkpoint_path={folder}", "--seq_len=6", *flags]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    return err.removeprefix("error: ").rstrip("\n")


def test_the_right_one_gets_the_mask_at_its_place(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = write(tmp_path / "words", SIZE)
    flags = ["--seq_len=5", "--num_samples=1", f"--tokenizer_name={words}"]
    assert main(["sample", f"--checkpoint_path={folder}", *flags, "--prompt=w3 w4"]) == 0
    assert capfd.readouterr().out.startswith("[0] w3 w4 w")
    assert main(["score", f"--checkpoint_path={folder}", f"--tokenizer_name={words}", "--texts", "w3 w4", "w5"]) == 0


def test_a_missing_one_is_asked_for_by_name(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rule = "be given, with the folder of the tokenizer of this mdlm model, as its own holds none"
    assert said(capfd, folder) == f"tokenizer_name must {rule}, got None"
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "GPT2Tokenizer"}'
    )  # of a tokenizer that is not there
    assert "tokenizer" in said(capfd, folder)


def test_one_with_more_tokens_than_the_model_is_refused(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = write(tmp_path / "words", SIZE + 2)
    rule = "hold a tokenizer with ids below the model's vocab_size 61, not up to 61"
    assert said(capfd, folder, f"--tokenizer_name={words}") == f"tokenizer_name must {rule}, got {str(words)!r}"


def test_one_with_the_mask_elsewhere_is_refused(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = write(tmp_path / "words", SIZE, mask=7)
    rule = f"have the mask token {SIZE} of its mdlm model, not 7"
    assert said(capfd, folder, f"--tokenizer_name={words}") == f"tokenizer must {rule}, got {str(words)!r}"


def test_one_whose_class_is_code_is_refused(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = write(tmp_path / "words", SIZE)
    (words / "tokenizer.json").unlink()
    (words / "vocab.json").write_text("{}")
    settings = {"auto_map": {"AutoTokenizer": ["mine.Mine", None]}, "tokenizer_class": "Mine"}
    (words / "tokenizer_config.json").write_text(json.dumps(settings))
    rule = "hold a readable tokenizer (its class is code of its own, which is not run here)"
    assert said(capfd, folder, f"--tokenizer_name={words}") == f"tokenizer_name must {rule}, got {str(words)!r}"


def test_a_folder_without_one_is_named(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    start = "tokenizer_name must be a folder that holds one of tokenizer.json, "
    assert said(capfd, folder, f"--tokenizer_name={tmp_path / 'empty'}").startswith(start)
    (tmp_path / "file").write_text("")
    assert said(capfd, folder, f"--tokenizer_name={tmp_path / 'file'}").startswith(start)
    assert said(capfd, folder, "--tokenizer_name=./none") == "tokenizer_name must be an existing folder, got './none'"
