"""Adapters in a network and in peft's folders; merged they give the logits that they gave before."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedModel

from tests.tiny import save_tiny, tiny_model
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.checkpoint.adapter import Adapter, base_of, is_adapter, merge_adapter
from token_diffusion.errors import ParameterError

TOKENS = torch.arange(24).view(2, 12)


def logits(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model.eval()(TOKENS).logits


def adapted(folder: Path, architecture: str = "bert", **options: object) -> PreTrainedModel:
    """A network in `folder/base`, and adapters of it, each of their numbers drawn, in `folder/adapter`."""
    tiny_model(architecture).save_pretrained(folder / "base")
    model = AutoModelForMaskedLM.from_pretrained(folder / "base")
    adapter = Adapter(
        model, str(folder / "base"), **{"r": 3, "lora_alpha": 6, "target_modules": "all-linear"} | options
    )
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.2)
    adapter.save_pretrained(folder / "adapter", Adapter.of(model.state_dict()))
    return model


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "token-diffusion"])
def test_merged_adapters_are_those_that_were_there(architecture: str, tmp_path: Path) -> None:
    model = adapted(tmp_path, architecture)
    plain = logits(AutoModelForMaskedLM.from_pretrained(tmp_path / "base"))
    merged = merge_adapter("checkpoint_path", tmp_path / "adapter")
    assert type(merged) is type(model)
    assert not torch.allclose(logits(model), plain, atol=0.1)
    torch.testing.assert_close(logits(merged), logits(model), rtol=0, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "merged")
    assert [name for name, _ in again.named_parameters()] == [
        name for name, _ in AutoModelForMaskedLM.from_pretrained(tmp_path / "base").named_parameters()
    ]
    torch.testing.assert_close(logits(again), logits(merged), rtol=0, atol=0)


def test_a_network_in_bfloat16_stays_so_and_its_adapters_are_float32(tmp_path: Path) -> None:
    model = tiny_model("bert").bfloat16()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Adapter(model, "base", r=2, target_modules=["query", "value"])
    learning = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(learning) == 2 * 2 * 2 and set(learning.values()) == {torch.float32}
    after = {name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items()}
    assert all(after[name].equal(tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items())


def test_peft_reads_the_folder(tmp_path: Path) -> None:
    import peft

    model = adapted(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about a name that peft still uses
        theirs = peft.PeftModel.from_pretrained(
            AutoModelForMaskedLM.from_pretrained(tmp_path / "base"), str(tmp_path / "adapter")
        )
    torch.testing.assert_close(logits(theirs), logits(model))
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["inference_mode"] is True


def test_a_folder_of_adapters_is_known_as_one_and_says_of_what(tmp_path: Path) -> None:
    adapted(tmp_path)
    assert is_adapter(tmp_path / "adapter") and not is_adapter(tmp_path / "base") and not is_adapter(tmp_path / "none")
    assert base_of("checkpoint_path", tmp_path / "adapter") == str(tmp_path / "base")
    with pytest.raises(ParameterError, match=r"token_diffusion convert --checkpoint_path .* makes of adapters"):
        load_checkpoint(tmp_path / "adapter")


def edited(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        file = folder / "adapter" / "adapter_config.json"
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))

    return edit


def without_one(folder: Path) -> None:
    file = folder / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    del weights[sorted(weights)[0]]
    save_file(weights, file)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (edited(lambda values: values.pop("base_model_name_or_path")), "hold a readable adapter_config.json"),
        (edited(lambda values: values.update(base_model_name_or_path=None)), "name its model in adapter_config.json"),
        (edited(lambda values: values.update(base_model_name_or_path="./nowhere")), "be an existing folder"),
        (edited(lambda values: values.update(r=4)), r"hold adapters of the model in .* is \[3, 32\], not \[4, 32\]"),
        (edited(lambda values: values.update(peft_type="no")), "hold adapters of the model in"),
        (lambda folder: (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"no"), "hold adapters of the"),
        (
            lambda folder: (folder / "adapter" / "adapter_config.json").write_text("{"),
            "hold a readable adapter_config",
        ),
        (lambda folder: tiny_model(hidden_size=64).save_pretrained(folder / "base"), "hold adapters of the model in"),
        (lambda folder: save_tiny(folder / "base", "absorbing", "electra"), "hold adapters of the model in"),
        (without_one, "is in one of the two alone"),
    ],
)
def test_a_broken_folder_is_one_line(spoil: Callable[[Path], object], complaint: str, tmp_path: Path) -> None:
    adapted(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ParameterError, match=complaint) as caught:
        merge_adapter("checkpoint_path", tmp_path / "adapter", local_files_only=True)
    assert "\n" not in str(caught.value)
