"""Folders whose config.json or index is made to cost more than their weights do: refused in a line, before anything is built."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.tiny import tiny_model
from tests.token_diffusion.networks.families.recording import recording
from token_diffusion import ParameterError
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.networks.families import published
from token_diffusion.networks.weights.reading import check_headers, read_masked_lm, read_published


def ordinary(folder: Path, **changes: Any) -> Path:
    tiny_model("bert").save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.mark.parametrize("many", [10**9, 10**30])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("mdlm", "n_blocks"),
        ("bd3lm", "n_blocks"),
        ("gidd", "num_hidden_layers"),
        ("llada", "n_layers"),
        ("dream", "num_hidden_layers"),
        ("a2d-qwen3", "num_hidden_layers"),
        ("diffullama", "num_hidden_layers"),
    ],
)
def test_more_layers_than_weights(name: str, key: str, many: int, tmp_path: Path) -> None:
    recorded = recording(name)
    assert key in recorded.config
    folder = recorded.write(tmp_path / name, None, **{key: many})
    with pytest.raises(ParameterError, match=rf"at most 1000 layers, as it has \d+ weights \({key} says more\)"):
        published(folder)


def test_more_layers_than_weights_in_a_part_of_the_config_or_an_ordinary_folder(tmp_path: Path) -> None:
    sedd = recording("sedd")
    nested = sedd.write(tmp_path / "sedd", model=sedd.config["model"] | {"n_blocks": 10**9})
    for folder in (nested, ordinary(tmp_path / "bert", num_hidden_layers=10**9)):
        with pytest.raises(ParameterError, match="at most 1000 layers"):
            read_masked_lm("checkpoint_path", str(folder))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mdlm", {"cond_dim": 10**9}),
        ("llada", {"mlp_hidden_size": 10**9}),
        ("a2d-qwen3", {"intermediate_size": 10**9}),
        ("diffugpt", {"n_positions": 10**9}),
    ],
)
def test_a_far_larger_network_than_its_weights(name: str, changes: dict[str, int], tmp_path: Path) -> None:
    folder = recording(name).write(tmp_path / name, None, **changes)
    with pytest.raises(ParameterError, match=r"is of a network of [\d,]+ numbers, its weights are [\d,]+\)"):
        read_masked_lm("checkpoint_path", str(folder))


@pytest.mark.parametrize("key", ["intermediate_size", "max_position_embeddings"])
def test_a_far_larger_ordinary_network_than_its_weights(key: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="its weights are"):
        read_masked_lm("checkpoint_path", str(ordinary(tmp_path / "bert", **{key: 10**9})))


@pytest.mark.parametrize("shard", ["../there.safetensors", "/dev/zero", "parts/model.safetensors"])
def test_an_index_that_names_what_is_not_in_the_folder(shard: str, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "there.safetensors")
    for folder in (recording("mdlm").write(tmp_path / "mdlm"), ordinary(tmp_path / "bert")):
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        index = {"metadata": {}, "weight_map": {"weight": shard}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ParameterError, match=r"its index: .* which is no file of the folder"):
            check_headers("checkpoint_path", folder)


@pytest.mark.parametrize("content", ["[" * 10**5, "[]", '{"weight_map": 5}', '{"weight_map": {"a": 7}}', "{}"])
def test_an_index_that_is_none(content: str, tmp_path: Path) -> None:
    folder = recording("mdlm").write(tmp_path / "mdlm")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ParameterError, match=r"masked language model \(its index: ") as error:
        check_headers("checkpoint_path", folder)
    assert "\n" not in str(error.value)


class Command:
    """Run when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_either_kind_are_read_and_no_code_in_them_is_run(zipped: bool, tmp_path: Path) -> None:
    recorded = recording("llada")
    folder, trace = recorded.write(tmp_path / "llada"), tmp_path / "trace"
    (folder / "model.safetensors").unlink()
    known = published(folder)
    assert known is not None

    def save(more: dict[str, Any]) -> None:
        torch.save(recorded.weights | more, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)

    save({})
    model, missing = read_published("checkpoint_path", folder, known)
    weights = known.weights(recorded.weights)
    assert not missing and all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())
    save({"model.more": Command(trace)})
    with pytest.raises(ParameterError, match=r"pytorch_model\.bin holds something else than tensors"):
        read_published("checkpoint_path", folder, known)
    assert not trace.exists()


def test_pipes_in_the_place_of_files_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        folder = recording("mdlm").write(tmp_path / name)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(ParameterError):
            load_checkpoint(folder)
