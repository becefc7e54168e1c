"""Pushing to the hub: a fake one on this machine answers what the real client asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from tests.fake_hub import FakeHub, fake_hub
from token_diffusion.errors import ParameterError
from trainer.__main__ import main, parse
from trainer.config import TrainingConfig
from trainer.data.tokenizer import build_tokenizer
from trainer.output.hub import PushError, open_hub


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """The client talks to the fake; no token is stored or in the environment."""
    with fake_hub() as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield server


def configure(*flags: str) -> TrainingConfig:
    config = parse("mdlm", ["--train_file", "a.txt", "--output_dir", "some/run", *flags])
    assert isinstance(config, TrainingConfig)
    return config


def test_nothing_is_asked_without_the_flag(hub: FakeHub) -> None:
    assert open_hub(configure("--hub_model_id", "x")) is None
    assert hub.created == []


def test_a_folder_is_pushed_in_one_commit(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\ntags:\n- x\n---\n\n# card\n")
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)))
    opened = open_hub(configure("--push_to_hub", "--hub_token", "hf_right", "--hub_private_repo"))
    assert opened is not None and opened.repo_id == "ann/run"
    (wanted,) = hub.created
    assert wanted["name"] == "run" and (wanted.get("private") or wanted.get("visibility") == "private")
    assert opened.push(tmp_path, "step 5").endswith("/ann/run")
    assert set(hub.files) >= {"README.md", "model.safetensors"}
    assert hub.files["model.safetensors"] == bytes(range(256)) and hub.messages == ["step 5"]


def test_the_name_may_have_an_owner_and_the_token_be_in_the_environment(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    opened = open_hub(configure("--push_to_hub", "--hub_model_id", "group/model"))
    assert opened is not None and opened.repo_id == "group/model"
    (wanted,) = hub.created
    assert wanted["organization"] == "group" and not wanted.get("private") and wanted.get("visibility") != "private"


def test_what_would_fail_at_the_end_fails_at_the_beginning(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match="hub_token must be given, or HF_TOKEN set"):
        open_hub(configure("--push_to_hub"))
    with pytest.raises(ParameterError, match=r"push_to_hub must name a hub that answers .*got 'run'") as wrong:
        open_hub(configure("--push_to_hub", "--hub_token", "hf_wrong"))
    assert "hf_wrong" not in str(wrong.value) and "\n" not in str(wrong.value)
    hub.role = "read"
    with pytest.raises(ParameterError, match="hub_token must be one that may write"):
        open_hub(configure("--push_to_hub", "--hub_token", "hf_right"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens
    with pytest.raises(ParameterError, match="push_to_hub must name a hub that answers"):
        open_hub(configure("--push_to_hub", "--hub_token", "hf_right"))
    assert hub.created == []


def test_a_push_that_fails_says_what_is_saved(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    opened = open_hub(configure("--push_to_hub", "--hub_token", "hf_right"))
    assert opened is not None
    hub.takes_commits = False
    with pytest.raises(PushError, match=f"saved .*{tmp_path.name}, but not pushed to ann/run: .*403"):
        opened.push(tmp_path, "step 5")


def test_training_ends_with_a_push(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("a line\nanother line\n" * 10)
    build_tokenizer(["a line another line"], vocab_size=270).save_pretrained(tmp_path / "tokenizer")
    arguments = ["mdlm", f"--train_file={tmp_path / 'text.txt'}", f"--tokenizer_name={tmp_path / 'tokenizer'}"]
    arguments += [
        "--config_name=bert",
        "--max_train_steps=1",
        "--max_length=8",
        "--push_to_hub",
        "--hub_token=hf_right",
    ]
    arguments.append("--config_overrides=hidden_size=8,num_hidden_layers=1,num_attention_heads=2,intermediate_size=8")
    assert main([*arguments, f"--output_dir={tmp_path / 'run'}"]) == 0
    final = tmp_path / "run" / "final"
    assert {path.name for path in final.iterdir()} == set(hub.files)
    assert all((final / name).read_bytes() == content for name, content in hub.files.items())
    assert not any(b"hf_right" in content for content in hub.files.values())
    hub.takes_commits = False
    capsys.readouterr()
    assert main([*arguments, f"--output_dir={tmp_path / 'again'}"]) == 1
    assert "but not pushed to ann/again" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "again" / "final" / "model.safetensors").is_file()


def test_the_token_is_shown_nowhere() -> None:
    config = configure("--push_to_hub", "--hub_token", "hf_right")
    assert "hf_right" not in repr(config) + str(config.model_dump(mode="json"))
