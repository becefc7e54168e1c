"""LLaDA: the authors' logits and losses from a folder laid out as theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.token_diffusion.networks.families.asking import asked, check_saved
from token_diffusion import sample
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.facts import Facts, Frame
from token_diffusion.networks.families import llada
from token_diffusion.text import OPEN, decode, encode, ending

from .hub_folders import write_llada
from .recording import Recording, recording

BOS, EOS, MASK, TURN = 56, 57, 60, 63
VARIANTS = ("llada", "llada-tied")
"""config.json as released, with rows of embeddings that are no tokens; embeddings tied, heads sharing keys, MLP by its ratio."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("llada")
    return {name: load_checkpoint(write_llada(folder / name, name)) for name in VARIANTS}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, loaded: dict[str, Checkpoint]) -> tuple[Checkpoint, Recording]:
    return loaded[request.param], recording(request.param)


def test_logits_are_the_authors(variant: tuple[Checkpoint, Recording]) -> None:
    checkpoint, recorded = variant
    tokens, valid = recorded.inputs["tokens"], recorded.inputs["valid"]
    error = (asked(checkpoint, tokens, valid) - recorded.outputs["logits"][valid]).abs().max()
    assert error < 1e-5
    assert checkpoint.family == "llada" and checkpoint.dtype == "float32" and checkpoint.batching == "shared"


def test_each_weight_moves_the_logits(variant: tuple[Checkpoint, Recording]) -> None:
    checkpoint, recorded = variant
    tokens, valid = recorded.inputs["tokens"], recorded.inputs["valid"]
    before = asked(checkpoint, tokens, valid)
    for theirs, tensor in recorded.weights.items():
        ((name, _),) = llada.weights({theirs: tensor}).items()
        with torch.no_grad():
            weight = checkpoint.model.get_parameter(name)
            held = weight.clone()
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
            moved = (asked(checkpoint, tokens, valid) - before).abs().max()
            weight.copy_(held)
        assert moved > 1e-3, theirs


def test_neither_padding_nor_neighbours_nor_the_order_asked_change_a_row(
    variant: tuple[Checkpoint, Recording],
) -> None:
    checkpoint, recorded = variant
    tokens, valid = recorded.inputs["tokens"], recorded.inputs["valid"]
    short = int(valid[1].sum())
    alone = asked(checkpoint, tokens[1:2, :short], valid[1:2, :short])
    torch.testing.assert_close(alone, recorded.outputs["logits"][1, :short], rtol=0, atol=1e-5)
    other, where = tokens.clone(), torch.tensor([20, 12, 16])
    other[[0, 2]] = tokens[[2, 0]]
    other[1, short:] = MASK
    torch.testing.assert_close(asked(checkpoint, other, valid, where), alone[where - 12], rtol=0, atol=1e-5)


def with_the_mask(nats: Tensor, logits: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
    """Bounds [B, L] as the authors reckon them: among what may be under a mask is the mask itself, which never is."""
    elsewhere = -torch.log1p(-logits.softmax(-1)[..., MASK]) / t.unsqueeze(1)
    return nats + elsewhere.where(noisy == MASK, 0.0)


def test_the_bound_is_the_authors_loss(variant: tuple[Checkpoint, Recording]) -> None:
    """That of pre-training at each token, GUIDELINES.md, and the likelihood that is estimated by counts of masks."""
    checkpoint, recorded = variant
    inputs, outputs, scheduler = recorded.inputs, recorded.outputs, checkpoint.scheduler
    assert checkpoint.process == "absorbing"
    logits, tokens, t = outputs["logits"], inputs["tokens"], inputs["p_mask"]
    nats = with_the_mask(scheduler.nelbo(logits, inputs["clean"], tokens, t), logits, tokens, t)
    valid = inputs["valid"]
    torch.testing.assert_close(nats[valid], outputs["token_loss"][valid], rtol=1e-5, atol=1e-5)

    noisy, given = inputs["likelihood_tokens"], 4
    clean, every = inputs["clean"][:1].expand(len(noisy), -1), torch.ones_like(noisy, dtype=torch.bool)
    logits = asked(checkpoint, noisy, every).view(*noisy.shape, -1)
    shares = (noisy == MASK).sum(1) / (noisy.shape[1] - given)
    nats = with_the_mask(scheduler.nelbo(logits, clean, noisy, shares), logits, noisy, shares)
    torch.testing.assert_close(-nats.sum(1).mean().float(), outputs["log_likelihood"], rtol=1e-5, atol=1e-5)


def test_a_token_is_masked_as_in_training(loaded: dict[str, Checkpoint]) -> None:
    """With probability t, whatever t is: at 1 nothing is left."""
    scheduler, tokens = loaded["llada"].scheduler, torch.zeros(1, 20_000, dtype=torch.int64)
    for t, share in ((0.3, 0.3), (1.0, 1.0)):
        noisy = scheduler.add_noise(tokens, timesteps=torch.tensor([t]), generator=torch.Generator().manual_seed(0))
        assert abs((noisy == MASK).float().mean().item() - share) <= 0.02 * (share < 1)


def test_what_the_folder_is_known_for(loaded: dict[str, Checkpoint]) -> None:
    checkpoint = loaded["llada"]
    ends = frozenset({EOS, TURN})
    assert checkpoint.facts == Facts(Frame(), ends, known=True, end_tokens=ends)
    assert checkpoint.tokenizer.mask_token == "<|mdm_mask|>" and checkpoint.tokenizer.mask_token_id == MASK
    assert checkpoint.max_seq_len == 64
    assert checkpoint.forbidden == (56, 58, 59, 60, 61, 62, *range(64, 72))


def test_samples_hold_no_token_that_is_none_and_no_mask(loaded: dict[str, Checkpoint]) -> None:
    checkpoint = loaded["llada"]
    tokens = encode(checkpoint.tokenizer, seq_len=24, prompt="the cat", vocab_size=72)
    drawn = sample(checkpoint.denoiser, checkpoint.scheduler, num_samples=32, seq_len=24, tokens=tokens, seed=1)
    assert (drawn.sequences[:, :2] == torch.tensor(tokens[:2])).all()
    assert not torch.isin(drawn.sequences, torch.tensor(checkpoint.forbidden)).any()
    assert {EOS, TURN} <= set(drawn.sequences.flatten().tolist())


def test_an_answer_ends_with_its_turn_and_shows_no_control_token(loaded: dict[str, Checkpoint]) -> None:
    tokenizer, facts = loaded["llada"].tokenizer, loaded["llada"].facts
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "the cat"}], tokenize=False)
    question = tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert question[0] == BOS and TURN in question
    answer = tokenizer("the mat", add_special_tokens=False)["input_ids"]
    for last in (TURN, EOS):
        tokens = [*question, *answer, last, *answer, EOS, EOS]
        canvas = [*question, *[OPEN] * (len(tokens) - len(question))]
        found = ending(tokenizer, tokens, canvas, facts=facts)
        assert found.reason == "stop" and found.text.endswith("the mat") and "<|" not in found.text
    whole, canvas = [*question, *answer], [*question, *[OPEN] * len(answer)]
    assert ending(tokenizer, whole, canvas, facts=facts).reason == "length"
    assert "<|" not in decode(tokenizer, question)


@pytest.mark.parametrize(("dtype", "kept"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float32")])
def test_bfloat16_stays_and_may_be_chosen(tmp_path: Path, dtype: torch.dtype, kept: str) -> None:
    recorded = recording("llada")
    folder, valid = write_llada(tmp_path / "folder", dtype=dtype), recorded.inputs["valid"]
    checkpoint = load_checkpoint(folder)
    assert checkpoint.dtype == kept and checkpoint.model.dtype == getattr(torch, kept)
    logits = asked(checkpoint, recorded.inputs["tokens"], valid).float()
    assert (logits - recorded.outputs["logits"][valid]).abs().max() < 0.2
    assert load_checkpoint(folder, dtype="float32").model.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_type": "sequential"}, "block_type must be 'llama', got 'sequential'"),
        ({"layer_norm_type": "default"}, "layer_norm_type must be 'rms', got 'default'"),
        ({"activation_type": "gelu"}, "activation_type must be 'silu', got 'gelu'"),
        ({"attention_layer_norm": True}, "attention_layer_norm must be False, got True"),
        ({"include_bias": True}, "include_bias must be False, got True"),
        ({"include_qkv_bias": True}, "include_qkv_bias must be False, got True"),
        ({"bias_for_layer_norm": True}, "bias_for_layer_norm must be False, got True"),
        ({"rope": False}, "rope must be True, got False"),
        ({"alibi": True}, "alibi must be False, got True"),
        ({"input_emb_norm": True}, "input_emb_norm must be False, got True"),
        ({"scale_logits": True}, "scale_logits must be False, got True"),
        ({"block_group_size": 2}, "block_group_size must be 1, got 2"),
        ({"max_sequence_length": 0}, "max_sequence_length must be a positive number, got 0"),
        ({"mask_token_id": 1}, "tokenizer must have the mask token 1 of its llada model, not 60"),
        ({"architectures": ["OtherModelLM"]}, "architectures must be LLaDAModelLM, got ['OtherModelLM']"),
    ],
)
def test_a_network_that_is_another_is_refused_by_the_key_that_says_so(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = write_llada(tmp_path / "folder", **changes)
    with pytest.raises(ParameterError) as caught:
        load_checkpoint(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def _without(key: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        del config[key]
        (folder / "config.json").write_text(json.dumps(config))

    return change


def _with_weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    """The folder in one file, its weights changed."""

    def write(folder: Path) -> None:
        weights: dict[str, Tensor] = {}
        for shard in folder.glob("model-*.safetensors"):
            weights |= load_file(shard)
            shard.unlink()
        (folder / "model.safetensors.index.json").unlink()
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return write


NORM, EXTRA = "model.transformer.ln_f.weight", "model.transformer.blocks.0.q_norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("d_model"), "hold the config.json of a llada model (no 'd_model')"),
        (_without("rope"), "rope must be True, got False"),
        (lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(), "model-00002-of-00002.safetensors"),
        (
            _with_weights(lambda weights: weights.pop(NORM)),
            "hold all weights of its model (model.norm.weight is missing)",
        ),
        (_with_weights(lambda weights: weights.update({NORM: torch.ones(5)})), "model.norm.weight is [5], not [32]"),
        (_with_weights(lambda weights: weights.update({EXTRA: torch.ones(8)})), f"{EXTRA} is left over"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    folder = write_llada(tmp_path / "folder")
    change(folder)
    with pytest.raises(ParameterError) as caught:
        load_checkpoint(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_head_that_is_saved_though_it_is_tied_is_no_more_than_the_embeddings(tmp_path: Path) -> None:
    folder, recorded = write_llada(tmp_path / "folder", "llada-tied"), recording("llada-tied")
    embeddings = recorded.weights["model.transformer.wte.weight"].clone()
    _with_weights(lambda weights: weights.update({"model.transformer.ff_out.weight": embeddings}))(folder)
    valid = recorded.inputs["valid"]
    logits = asked(load_checkpoint(folder), recorded.inputs["tokens"], valid)
    torch.testing.assert_close(logits, recorded.outputs["logits"][valid], rtol=0, atol=1e-5)


def test_saved_it_is_a_folder_of_our_own(loaded: dict[str, Checkpoint], tmp_path: Path) -> None:
    check_saved(loaded["llada"], recording("llada"), tmp_path / "ours")
