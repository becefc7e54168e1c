"""Folders of models that are not run here: each is refused in one line that says what it is and why, or what was looked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from tests.tiny import tiny_model
from tests.token_diffusion.networks.families.recording import NAMES, recording
from token_diffusion import ParameterError
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.networks.families import refused
from token_diffusion.networks.weights.reading import read_masked_lm

PUBLISHED: dict[str, tuple[dict[str, Any], str]] = {
    "diffusiongemma-26B-A4B-it": (
        {"model_type": "diffusion_gemma", "architectures": ["DiffusionGemmaForBlockDiffusion"], "canvas_length": 256},
        "this is DiffusionGemma: it denoises a canvas",
    ),
    "LLaDA2.0-mini": (
        {
            "model_type": "llada2_moe",
            "architectures": ["LLaDA2MoeModelLM"],
            "auto_map": {"AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM"},
        },
        "this is LLaDA2: it is a mixture of experts",
    ),
    "LLaDA-MoE-7B-A1B-Base": (  # its model_type is that of the dense ones
        {"model_type": "llada", "architectures": ["LLaDAMoEModelLM"]},
        "this is LLaDA-MoE: it is a mixture of experts",
    ),
    "SDAR-4B-Chat": (
        {"model_type": "sdar", "auto_map": {"AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"}},
        "this is SDAR: it is a decoder under block-causal attention",
    ),
    "Stable-DiffCoder-8B": (
        {"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "modeling.StableDiffcoderForCausalLM"}},
        "this is Stable-DiffCoder",
    ),
    "gidd-unif-3b": ({"model_type": "gidd", "architectures": ["GiddForDiffusionLM"]}, "this is GIDD of 3B and more"),
    "dimamba": ({"model_type": "bimamba"}, "this is DiMamba: it is a state-space network"),
    "ar-noeos-owt": ({"model_type": "bd3lm", "causal": True}, "the autoregressive baseline of bd3lm"),
}


def write(folder: Path, config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"weight": torch.ones(2)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_that_is_not_run_here_is_refused_by_name(name: str, tmp_path: Path) -> None:
    config, reason = PUBLISHED[name]
    folder = write(tmp_path / name, config)
    with pytest.raises(ParameterError) as raised:
        load_checkpoint(folder)
    assert str(raised.value).startswith("checkpoint_path must hold a model that is run here (this is")
    assert reason in str(raised.value)
    assert str(raised.value).endswith(f", got {str(folder)!r}")
    assert "\n" not in str(raised.value)
    with pytest.raises(ParameterError, match="model_name_or_path must hold a model that is run here"):
        read_masked_lm("model_name_or_path", str(folder))


def test_each_mark_is_refused_once() -> None:
    marks = [mark for each in refused.REFUSED for mark in each.marks]
    assert len(marks) == len(set(marks))
    for each in refused.REFUSED:
        for mark in each.marks:
            for config in ({"model_type": mark}, {"architectures": [mark]}, {"auto_map": {"AutoModel": f"m.{mark}"}}):
                assert refused.reason(config) == f"this is {each.name}: {each.reason}"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_run_here_is_not_refused(name: str) -> None:
    assert refused.reason(recording(name).config) is None


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "token-diffusion"])
def test_neither_are_masked_lms_of_transformers(architecture: str) -> None:
    config = tiny_model(architecture).config.to_dict()
    assert refused.reason(config) is None
    assert refused.unknown_code(config | {"auto_map": {"AutoModel": "modeling.Own"}}) is None
    assert AutoConfig.for_model(architecture).model_type == architecture


def test_code_that_is_not_known_is_said_to_be_never_run(tmp_path: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "c.Config", "AutoModelForMaskedLM": "m.Model"}}
    folder = write(tmp_path / "mine", config)
    (folder / "m.py").write_text("raise SystemExit('was run')", encoding="utf-8")
    (folder / "c.py").write_text("raise SystemExit('was run')", encoding="utf-8")
    (folder / "scheduler_config.json").write_text('{"vocab_size": 9, "mask_token_id": 8}', encoding="utf-8")
    said = (
        r"known here \(it is 'mine', which is described by the folder's own code alone \(c.Config, m.Model\), and that"
    )
    with pytest.raises(ParameterError, match=f"checkpoint_path must hold a model that is {said} is never run"):
        load_checkpoint(folder)
    with pytest.raises(ParameterError, match=f"model_name_or_path must hold a model that is {said} is never run"):
        read_masked_lm("model_name_or_path", str(folder))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": ["bert"], "architectures": "x", "auto_map": [1]},
        {"model_type": None, "graph": 1, "noise": [], "model": {}},
    ],
)
def test_a_folder_without_a_mark_says_which_were_looked_for(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as raised:
        load_checkpoint(write(tmp_path / "folder", config))
    said = str(raised.value)
    assert said.startswith(
        "checkpoint_path must be a folder that holds scheduler_config.json, or one of a published format ("
    )
    for mark in ("gidd", "mdlm", "sedd", f"model_type {config.get('model_type')!r}", "architectures"):
        assert mark in said


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"checkpoint_path must be a folder that holds config\.json"):
        load_checkpoint(tmp_path)
