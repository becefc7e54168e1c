"""Folders and repositories by name: what is fetched, what is not, and what is said where nothing can be."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from tests.fake_hub import FakeHub, Repository, hub_in_place
from token_diffusion.errors import ParameterError
from token_diffusion.networks.weights.hub import local_folder, repository

MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b"[]",
    "vocab.txt": b"a",
    "spiece.model": b"b",
    "chat_template.jinja": b"c",
    "README.md": b"d",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "modeling_mdlm.py": b"raise SystemExit",
    "flax_model.msgpack": b"e",
    "tf_model.h5": b"f",
    "rust_model.ot": b"g",
    "training_args.bin": b"h",
    "onnx/config.json": b"i",
    "checkpoint-7/model.safetensors": b"j",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with hub_in_place(monkeypatch, tmp_path / "cache") as server:
        server.repositories["org/model"] = Repository(MODEL, revisions=("main", "v1", "refs/pr/1"))
        yield server


def names(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


TEXT = {"config.json", "tokenizer.json", "vocab.txt", "spiece.model", "chat_template.jinja", "README.md"}


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org/model@main").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert local_folder("checkpoint_path", "org/model@main") == Path("org/model@main")
    assert local_folder("checkpoint_path", tmp_path / "org") == tmp_path / "org"


def test_weights_configurations_and_tokenizers_are_fetched_and_nothing_else(hub: FakeHub) -> None:
    folder = local_folder("checkpoint_path", "org/model")
    assert names(folder) == {*TEXT, "model.safetensors"} == set(hub.fetched)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    local_folder("checkpoint_path", "org/model")
    assert len(hub.fetched) == 7, "fetched again"


def test_a_tokenizer_comes_without_weights(hub: FakeHub) -> None:
    assert names(local_folder("tokenizer_name", "org/model", weights=False)) == TEXT
    assert "model.safetensors" in names(local_folder("checkpoint_path", "org/model"))


def test_pickles_only_where_there_are_no_safetensors(hub: FakeHub) -> None:
    hub.repositories["org/old"] = Repository(
        {"config.json": b"{}", "pytorch_model.bin": b"1", "training_args.bin": b"2"}
    )
    assert names(local_folder("checkpoint_path", "org/old")) == {"config.json", "pytorch_model.bin"}


def test_the_parts_of_a_pipeline_are_fetched_too(hub: FakeHub) -> None:
    there = {"model_index.json", "model/config.json", "model/model.safetensors", "scheduler/scheduler_config.json"}
    there |= {"tokenizer/tokenizer.json"}
    files = {name: name.encode() for name in [*there, "vae/model.safetensors", "model/modeling.py"]}
    hub.repositories["org/pipeline"] = Repository(files)
    assert names(local_folder("checkpoint_path", "org/pipeline")) == there


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1", Repository(MODEL).commit])
def test_a_revision_is_named_with_it_or_beside_it(hub: FakeHub, tmp_path: Path, revision: str) -> None:
    folder = local_folder("checkpoint_path", f"org/model@{revision}")
    assert folder == local_folder("model_name_or_path", "org/model", revision)
    assert local_folder("checkpoint_path", "org/model", revision, tmp_path / "own").is_relative_to(tmp_path / "own")
    with pytest.raises(ParameterError, match="must name the revision 'v2', or none, got 'org/model@"):
        local_folder("model_name_or_path", f"org/model@{revision}", "v2")


def test_names_of_repositories() -> None:
    assert repository("org/model") == ("org/model", None)
    assert repository("org/model@v1") == ("org/model", "v1")
    assert repository("gpt2", bare=True) == ("gpt2", None)
    for name in ("gpt2", "./a", "/a/b", "~/a", "a/b/c", "a/b/", "../a", "a/b@", "a b/c", "a/..", "", "a/b--c", "\0"):
        assert repository(name) is None, name


@pytest.mark.parametrize("place", ["nothing", "./not/here", "/not/here", "a/b/c", "", "x" * 500, "\0"])
def test_what_looks_like_no_repository_must_be_a_folder(hub: FakeHub, place: str) -> None:
    with pytest.raises(ParameterError) as raised:
        local_folder("checkpoint_path", place)
    assert str(raised.value) == f"checkpoint_path must be an existing folder, got {place!r}"


def refusal(place: str) -> str:
    with pytest.raises(ParameterError) as raised:
        local_folder("checkpoint_path", place)
    text = str(raised.value)
    start, end = "checkpoint_path must be an existing folder or a repository of the hub (", f"), got {place!r}"
    assert text.startswith(start) and text.endswith(end) and "\n" not in text
    return text.removeprefix(start).removesuffix(end)


def test_what_the_hub_refuses_is_said_in_a_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("org/modle") == "there is none of that name, or none for this HF_TOKEN"
    assert refusal("org/model@v9") == "it has no revision 'v9'"
    hub.repositories["org/gated"] = Repository(MODEL, gated=True)
    assert refusal("org/gated") == "it is gated: its terms are to be accepted there, and HF_TOKEN to be set"
    hub.repositories["org/private"] = Repository(MODEL, private=True)
    assert refusal("org/private") == "there is none of that name, or none for this HF_TOKEN"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert "model.safetensors" in names(local_folder("checkpoint_path", "org/private"))


def test_offline_the_cache_is_what_there_is(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = local_folder("checkpoint_path", "org/model")
    local_folder("tokenizer_name", "org/model@v1", weights=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.repositories.clear()
    asked = len(hub.asked)
    assert local_folder("checkpoint_path", "org/model") == folder
    assert local_folder("tokenizer_name", "org/model", weights=False) == folder
    assert refusal("org/other") == "HF_HUB_OFFLINE is set, and the cache does not hold it, or not whole"
    assert len(hub.asked) == asked


def test_half_of_a_download_is_not_taken_for_the_whole(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = local_folder("tokenizer_name", "org/model", weights=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert refusal("org/model") == "HF_HUB_OFFLINE is set, and the cache does not hold it, or not whole"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub.broken = 404
    assert "404" in refusal("org/model")
    hub.broken = None
    assert local_folder("checkpoint_path", "org/model") == folder and (folder / "model.safetensors").is_file()


def test_a_hub_that_is_not_there(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = local_folder("checkpoint_path", "org/model")
    with socket.socket() as nobody:  # bound, but does not listen
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert local_folder("checkpoint_path", "org/model") == folder
        assert "org/model is the cache's, as the hub cannot be asked" in caplog.text
        assert "refused" in refusal("org/other")


def test_a_hub_that_does_not_answer(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
        assert "timed out" in refusal("org/model")


def test_a_cache_that_cannot_be_written(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ParameterError, match=r"must be an existing .* \(its files cannot be kept: .*: '/.*file.*'\), got"
    ):
        local_folder("checkpoint_path", "org/model", cache_dir=tmp_path / "file")


def test_a_disk_that_is_full(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("token_diffusion.networks.weights.hub.snapshot_download", full)
    assert refusal("org/model") == "its files cannot be kept: No space left on device"


def test_an_address_is_no_name(hub: FakeHub) -> None:
    rule = "be an existing folder, or org/name or org/name@revision of the hub"
    with pytest.raises(ParameterError, match=rule):
        local_folder("checkpoint_path", f"{hub.url}/org/model")
