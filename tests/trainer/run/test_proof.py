"""What a run would save is loaded and compared before it begins."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.tiny import ARCHITECTURES, tiny_model
from token_diffusion import ParameterError
from trainer.output.resume import random_state
from trainer.run.proof import prove_saving

PERCEIVER = {
    "d_latents": 32,
    "d_model": 32,
    "num_latents": 8,
    "num_blocks": 1,
    "num_self_attends_per_block": 1,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 2,
    "qk_channels": 16,
    "v_channels": 32,
}
BART = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in (("layers", 1), ("ffn_dim", 48))}
BART |= {"d_model": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2}


def refusal(model: PreTrainedModel, folder: Path) -> str:
    """The error's text; whatever happens, nothing is left behind."""
    with pytest.raises(ParameterError) as caught:
        prove_saving(model, folder / ".final.new", "config_name", "mine", 16)
    assert not list(folder.iterdir())
    return str(caught.value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_leaves_no_trace(architecture: str, tmp_path: Path) -> None:
    model = tiny_model(architecture).train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = random_state()
    prove_saving(model, tmp_path / ".final.new", "config_name", architecture, 16)
    after = random_state()
    assert torch.equal(before["torch"], after["torch"]) and before["python"] == after["python"]
    assert model.training and not list(tmp_path.iterdir())
    assert all(tensor.equal(weights[name]) for name, tensor in model.state_dict().items())


def test_rows_of_one_length_are_enough(tmp_path: Path) -> None:
    """Nystromformer takes no others, once it has fewer landmarks than positions."""
    model = tiny_model("nystromformer", num_landmarks=4, segment_means_seq_len=16)
    prove_saving(model, tmp_path / "x", "config_name", "nystromformer", 16)
    with pytest.raises(ParameterError, match=r"config_name must be a model that runs \(shape "):
        prove_saving(model, tmp_path / "x", "config_name", "nystromformer", 15)


def test_a_model_that_is_not_saved_whole_is_refused(tmp_path: Path) -> None:
    """BART's three tables of embeddings are one after resizing; where nothing ties them, one is saved."""
    model = tiny_model("bart", tie_word_embeddings=False, **BART)
    prove_saving(model, tmp_path / "x", "config_name", "mine", 16)
    model.resize_token_embeddings(40)
    text = refusal(model, tmp_path)
    assert text.startswith("config_name must be a model whose saved folder holds all of its weights (model.decoder.")


def test_a_model_that_loads_as_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = PreTrainedModel.save_pretrained

    def save_other(model: PreTrainedModel, folder: Path) -> None:
        save(model, folder, state_dict={name: tensor + 0.1 for name, tensor in model.state_dict().items()})

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_other)
    rule = "config_name must be a model that is the same when it is saved and loaded, got 'mine'"
    assert refusal(tiny_model(), tmp_path) == rule


def test_logits_for_other_positions_than_asked_are_refused(tmp_path: Path) -> None:
    model = tiny_model("perceiver", max_position_embeddings=12, **PERCEIVER)
    rule = (
        "config_name must be a model with logits for each position and token, [2, 6, 50], not [2, 12, 50], got 'mine'"
    )
    assert refusal(model, tmp_path) == rule


def test_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    model.get_output_embeddings().bias.data[3] = torch.nan
    rule = "config_name must hold a network whose logits are numbers in float32, got 'mine'"
    assert refusal(model, tmp_path) == rule


def test_a_full_disk_is_the_folders_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    text = refusal(tiny_model(), tmp_path)
    assert (
        text
        == f"output_dir must be a folder with room for the model ([Errno 28] No space left on device), got {str(tmp_path)!r}"
    )
