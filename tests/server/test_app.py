from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from transformers import AutoTokenizer

from server.app import create_app, load_engine, start_loading
from server.settings import Settings
from tests.fake_hub import Repository, hub_in_place
from tests.token_diffusion.networks.families.recording import recording
from token_diffusion.checkpoint import Checkpoint, Unloaded
from token_diffusion.errors import ParameterError

pytest_plugins = ["tests.server_fixtures"]


def test_loading_names_the_checkpoint_that_cannot_be_used(tiny_folders: Mapping[str, Path]) -> None:
    engine = load_engine(Settings(checkpoint={"x": str(tiny_folders["absorbing"]), "y": str(tiny_folders["hybrid"])}))
    assert {name: item.process for name, item in engine.checkpoints.items()} == {"x": "absorbing", "y": "hybrid"}
    with pytest.raises(ParameterError, match="checkpoint_path must be"):
        load_engine(Settings(checkpoint_path=str(tiny_folders["absorbing"] / "nothing")))
    with pytest.raises(ParameterError, match="device must be"):
        load_engine(Settings(checkpoint_path=str(tiny_folders["absorbing"]), device="cuda:77"))


def test_of_several_checkpoints_an_error_says_which_cannot_be_used(
    tiny_folders: Mapping[str, Path], tmp_path: Path
) -> None:
    broken = shutil.copytree(tiny_folders["absorbing"], tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"")
    for place in (broken, tmp_path / "none"):
        with pytest.raises(ParameterError, match=r"^checkpoint 'y': checkpoint_path must"):
            load_engine(Settings(checkpoint={"x": str(tiny_folders["absorbing"]), "y": str(place)}))
    recording("mdlm").write(tmp_path / "mdlm")
    with pytest.raises(ParameterError, match=r"^checkpoint 'y': tokenizer_name must be given"):
        load_engine(Settings(checkpoint={"x": str(tiny_folders["absorbing"]), "y": str(tmp_path / "mdlm")}))


def test_networks_are_loaded_in_a_thread_that_ends(
    tiny_folders: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the workers OpenMP keeps for it do not put the engine's to sleep."""
    loaders: list[threading.Thread] = []
    load = Unloaded.load

    def watched(*args: Any) -> Checkpoint:
        loaders.append(threading.current_thread())
        return load(*args)

    monkeypatch.setattr(Unloaded, "load", watched)
    load_engine(Settings(checkpoint={"x": str(tiny_folders["absorbing"]), "y": str(tiny_folders["hybrid"])}))
    assert len(loaders) == 2 and threading.current_thread() not in loaders
    assert not any(thread.is_alive() for thread in loaders)


def test_an_app_loads_what_its_settings_name_and_stops_its_engine(tiny_folders: Mapping[str, Path]) -> None:
    app = create_app(Settings(checkpoint={"mine": str(tiny_folders["uniform"])}, dtype="bfloat16"))
    with TestClient(app) as client:
        info = client.get("/info").json()
        assert [model["name"] for model in info["models"]] == ["mine"]
        assert info["dtype"] == "bfloat16"
        body = {"seq_len": 6, "num_inference_steps": 4, "stream": False}
        assert client.post("/sample", json=body).json()["model"] == "mine"
        engine = app.state.service.engine
        assert engine.alive
    assert not engine.alive


def test_the_type_in_force_is_shown_where_it_was_left_to_us(
    tiny_folders: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for units, dtype in (("AMX", "bfloat16"), (None, "float32")):
        monkeypatch.setattr("token_diffusion.checkpoint.precision.units", lambda units=units: units)
        app = create_app(Settings(checkpoint={"mine": str(tiny_folders["uniform"])}, device="cpu", dtype="auto"))
        with TestClient(app) as client:
            shown = [client.get(path).json()["models"][0]["dtype"] for path in ("/models", "/info")]
            assert [*shown, client.get("/info").json()["dtype"]] == [dtype] * 3


def test_an_app_reads_the_environment_without_settings(
    tiny_folders: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TD_CHECKPOINT_PATH", str(tiny_folders["hybrid"]))
    with TestClient(create_app()) as client:
        assert client.post("/sample", json={}).status_code == 422
        assert [model["process"] for model in client.get("/models").json()["models"]] == ["hybrid"]


def test_a_checkpoint_is_fetched_from_a_hub_while_the_server_starts(
    tiny_folders: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with hub_in_place(monkeypatch, tmp_path / "cache") as hub:
        hub.repositories["org/tiny"] = Repository.of(tiny_folders["absorbing"], revisions=("main", "v1"))
        settings = Settings(
            checkpoint={"x": "org/tiny@v1", "y": str(tiny_folders["hybrid"])}, checkpoint_path="org/tiny"
        )
        engine = load_engine(settings)
        assert {name: each.process for name, each in engine.checkpoints.items()} == {
            "tiny": "absorbing",
            "x": "absorbing",
            "y": "hybrid",
        }
        promise = start_loading(Settings(checkpoint_path="org/tyni"))  # it is listened at before this is known
        with pytest.raises(ParameterError, match=r"hub \(there is none of that name, or none for this HF_TOKEN\)"):
            promise.result()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        hub.asked.clear()
        assert list(load_engine(settings).checkpoints) == ["tiny", "x", "y"] and hub.asked == []


def test_a_tokenizer_for_all_is_for_those_that_hold_none(tiny_folders: Mapping[str, Path], tmp_path: Path) -> None:
    own, bare, words = tiny_folders["absorbing"], tmp_path / "bare", tmp_path / "words"
    shutil.copytree(own, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    tokenizer = AutoTokenizer.from_pretrained(own)
    tokenizer.add_special_tokens({"eos_token": "w7"})
    tokenizer.save_pretrained(words)
    places = {"bare": str(bare), "own": str(own)}
    with pytest.raises(ParameterError, match="checkpoint_path must be a folder that holds tokenizer_config"):
        load_engine(Settings(checkpoint=places))
    for given, changed in (({"": str(words)}, ["bare"]), ({"": str(words), "own": str(words)}, ["bare", "own"])):
        loaded = load_engine(Settings(checkpoint=places, tokenizer_name=given)).checkpoints
        assert [name for name, each in loaded.items() if each.tokenizer.eos_token == "w7"] == changed
