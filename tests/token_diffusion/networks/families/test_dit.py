"""What holds for every network of the DiT kind: MDLM's, UDLM's with labels and without, Duo's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.token_diffusion.networks.families.dit_folders import (
    NAMES,
    answers,
    load,
    network,
    write_folder,
    write_gpt2,
    write_tokenizer,
)
from tests.token_diffusion.networks.families.recording import recording
from token_diffusion import ParameterError, TokenDiffusionScheduler, sample
from token_diffusion.checkpoint import Checkpoint, load_checkpoint, open_checkpoint
from token_diffusion.networks.families.dit import layout as dit


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("folders")
    return {name: load(folder, name) for name in NAMES}


def asked(
    checkpoint: Checkpoint, tokens: Tensor, t: Tensor, labels: Tensor | None, valid: Tensor | None = None
) -> Tensor:
    """Logits [B, L, V] of a denoiser."""
    valid = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
    positions = torch.arange(tokens.numel())
    return checkpoint.denoiser(tokens, t.double(), valid, positions, labels).view(*tokens.shape, -1)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_theirs_gives_their_logits(name: str, checkpoints: dict[str, Checkpoint]) -> None:
    inputs, outputs = recording(name).inputs, recording(name).outputs
    ours = asked(checkpoints[name], inputs["tokens"], inputs["t"], inputs.get("labels"))
    torch.testing.assert_close(ours, outputs["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_moves_the_logits(name: str) -> None:
    recorded, generator = recording(name), torch.Generator().manual_seed(0)
    plain = answers(network(recorded), recorded)
    for weight, tensor in recorded.weights.items():
        if "inv_freq" in weight:
            continue
        other = tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        moved = answers(network(recorded, recorded.weights | {weight: other}), recorded)
        assert (moved - plain).abs().max() > 1e-3, weight


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_answered_as_if_alone(name: str, checkpoints: dict[str, Checkpoint]) -> None:
    """Beside other rows, with padding behind it, and at positions in any order."""
    checkpoint, inputs = checkpoints[name], recording(name).inputs
    tokens, t, labels = inputs["tokens"], inputs["t"], inputs.get("labels")
    together = asked(checkpoint, tokens, t, labels)
    for row in range(len(tokens)):
        own = slice(row, row + 1)
        alone = asked(checkpoint, tokens[own], t[own], None if labels is None else labels[own])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
    padded = torch.cat([tokens, tokens.flip(1)], dim=1)
    valid = torch.arange(padded.shape[1]).expand_as(padded) < tokens.shape[1]
    behind = asked(checkpoint, padded, t, labels, valid)[:, : tokens.shape[1]]
    torch.testing.assert_close(behind, together, rtol=0, atol=1e-5)
    some = torch.randperm(tokens.numel(), generator=torch.Generator().manual_seed(0))[:17]
    few = checkpoint.denoiser(tokens, t.double(), torch.ones_like(tokens, dtype=torch.bool), some, labels)
    torch.testing.assert_close(few, together.flatten(0, 1)[some], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_holds_text_alone(name: str, checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints[name]
    drawn = sample(checkpoint.denoiser, checkpoint.scheduler, num_samples=8, seq_len=24, num_inference_steps=9, seed=1)
    assert not torch.isin(drawn.sequences, torch.tensor(checkpoint.forbidden)).any()
    assert checkpoint.tokenizer.mask_token_id in checkpoint.forbidden
    assert len(drawn.sequences.unique()) > 10


@pytest.mark.parametrize("name", NAMES)
def test_their_loss_is_our_nelbo(name: str, checkpoints: dict[str, Checkpoint]) -> None:
    """UDLM's has alpha = 1 - t where its noise has 1 - (1 - eps) t: at our time of that alpha it is larger by as much."""
    inputs, outputs = recording(name).inputs, recording(name).outputs
    scheduler, t, scale = checkpoints[name].scheduler, inputs["t"].double(), 1.0
    if name.startswith("udlm"):
        scale = 1 / (1 - scheduler.config.eps)
        t = t * scale
    nelbo = scheduler.nelbo(outputs["logits"].double(), inputs["clean"], inputs["tokens"], t)
    ours = (nelbo - scheduler.process.prior_divergence) * scale
    torch.testing.assert_close(ours.float(), outputs["loss"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_told_what_theirs_was(name: str, checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint, recorded = checkpoints[name], recording(name)
    assert checkpoint.family == recorded.config["model_type"].lower()
    assert checkpoint.max_seq_len == recorded.config["model_length"]
    config = checkpoint.model.config
    if "sigma" not in recorded.inputs:
        assert config.time_conditioning == "zero"
        return
    sigma = -config.schedule().alpha(recorded.inputs["t"].double()).log()
    torch.testing.assert_close(sigma.float(), recorded.inputs["sigma"], rtol=1e-5, atol=1e-6)
    assert checkpoint.scheduler.process.states.count == recorded.config["vocab_size"]  # the mask is one of the states


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_fewer_bits_give_nearly_the_same(name: str, dtype: str, tmp_path: Path) -> None:
    recorded = recording(name)
    folder, tokenizer = write_folder(tmp_path / name, recorded), write_tokenizer(tmp_path / "tokenizer", name)
    checkpoint = load_checkpoint(folder, tokenizer_name=tokenizer, dtype=dtype)
    logits = asked(checkpoint, recorded.inputs["tokens"], recorded.inputs["t"], recorded.inputs.get("labels"))
    assert (logits.float() - recorded.outputs["logits"]).abs().max() < 0.1 * recorded.outputs["logits"].abs().max()


def test_weights_of_bfloat16_stay_that(tmp_path: Path) -> None:
    recorded = recording("duo")
    half = {name: tensor.bfloat16() for name, tensor in recorded.weights.items()}
    folder = write_folder(tmp_path / "duo", replace(recorded, weights=half))
    checkpoint = load_checkpoint(folder, tokenizer_name=write_tokenizer(tmp_path / "gpt2", "duo"))
    assert checkpoint.dtype == "bfloat16" and checkpoint.model.dtype == torch.bfloat16


def test_a_vocabulary_may_go_on_after_the_mask(tmp_path: Path) -> None:
    """Rows that a network was padded with are no tokens: the folder's own scheduler says which id the mask is."""
    recorded = recording("mdlm")
    width = recorded.config["vocab_size"] + 3
    weights = {
        name: torch.cat([tensor, torch.full_like(tensor[:3], 2.0)]) if len(tensor) == width - 3 else tensor
        for name, tensor in recorded.weights.items()
    }
    folder = write_folder(tmp_path / "wide", replace(recorded, weights=weights), vocab_size=width)
    TokenDiffusionScheduler(width, width - 4).save_pretrained(folder)
    checkpoint = load_checkpoint(folder, tokenizer_name=write_tokenizer(tmp_path / "gpt2", "mdlm"))
    assert checkpoint.forbidden == (width - 4, width - 3, width - 2, width - 1)
    logits = asked(checkpoint, recorded.inputs["tokens"], recorded.inputs["t"], None)
    torch.testing.assert_close(logits[..., : width - 3], recorded.outputs["logits"], rtol=0, atol=1e-5)
    drawn = sample(checkpoint.denoiser, checkpoint.scheduler, num_samples=8, seq_len=24, num_inference_steps=9)
    assert drawn.sequences.max() < width - 4


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"n_blocks": None}, "n_blocks must be an integer, got None"),
        ({"n_heads": 0}, "n_heads must be >= 1, got 0"),
        ({"n_heads": 7}, "hidden_size must be a multiple of 2"),
        ({"hidden_dim": "24"}, "hidden_dim must be an integer, got '24'"),
        ({"model_length": -1}, "model_length must be >= 1, got -1"),
        ({"time_conditioning": "yes"}, "time_conditioning must be true or false, got 'yes'"),
        ({"dropout": "much"}, "dropout must be a finite number"),
        ({"vocab_size": 62}, "vocab_size"),
        ({"n_blocks": 1}, "model.blocks.1.attention.branch.output.weight is left over"),
        ({"cond_dim": 8}, "as its config.json describes them"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_config_that_says_something_else_is_refused(changes: dict[str, object], rule: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mdlm", recording("mdlm"), **changes)
    with pytest.raises(ParameterError) as error:
        load_checkpoint(folder, tokenizer_name=write_tokenizer(tmp_path / "gpt2", "mdlm"))
    assert rule in str(error.value) or "vocab_size" in changes
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["hidden_dim", "model_length", "vocab_size"])
def test_a_config_that_says_too_little_is_refused(key: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "duo", recording("duo"))
    settings = json.loads((folder / "config.json").read_text())
    del settings[key]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ParameterError, match=f"hold the config.json of a duo model .*no '{key}'"):
        open_checkpoint(folder)


def test_weights_by_other_names_are_refused(tmp_path: Path) -> None:
    recorded = recording("mdlm")
    folder = write_folder(tmp_path / "mdlm", recorded)
    tokenizer = write_tokenizer(tmp_path / "gpt2", "mdlm")
    more = recorded.weights | {"backbone.blocks.0.attn_gate.weight": torch.ones(3)}
    save_file(more, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ParameterError, match=r"attn_gate\.weight is left over"):
        load_checkpoint(folder, tokenizer_name=tokenizer)
    turned = recorded.weights | {"backbone.rotary_emb.inv_freq": recorded.weights["backbone.rotary_emb.inv_freq"] ** 2}
    save_file(turned, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ParameterError, match=r"rotary_emb\.inv_freq must be powers of 10000"):
        load_checkpoint(folder, tokenizer_name=tokenizer)


def test_pickled_weights_are_read_as_numbers_alone(tmp_path: Path) -> None:
    recorded = recording("udlm")
    folder = write_folder(tmp_path / "udlm", recorded)
    (folder / "model.safetensors").unlink()
    torch.save(recorded.weights, folder / "pytorch_model.bin")
    tokenizer = write_tokenizer(tmp_path / "qm9", "udlm")
    checkpoint = load_checkpoint(folder, tokenizer_name=tokenizer)
    logits = asked(checkpoint, recorded.inputs["tokens"], recorded.inputs["t"], None)
    torch.testing.assert_close(logits, recorded.outputs["logits"], rtol=0, atol=1e-5)
    torch.save({"backbone": Path("anything")}, folder / "pytorch_model.bin")
    with pytest.raises(ParameterError, match="readable"):
        load_checkpoint(folder, tokenizer_name=tokenizer)


@pytest.mark.parametrize(
    ("width", "name"),
    [(50258, "the gpt2"), (30522, "the bert-base-uncased"), (40, "the yairschiff/qm9-tokenizer"), (61, "the")],
)
def test_a_tokenizer_that_is_not_there_is_asked_for_and_a_wrong_one_refused(
    width: int, name: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "mdlm", recording("mdlm"), vocab_size=width)
    with pytest.raises(ParameterError, match=f"tokenizer_name must be given, with the folder of {name} tokenizer"):
        open_checkpoint(folder)
    if width in dit.VOCABULARIES:
        with pytest.raises(ParameterError, match=f"have {dit.VOCABULARIES[width].size} tokens"):
            open_checkpoint(folder, tokenizer_name=write_gpt2(tmp_path / "other", 39))
