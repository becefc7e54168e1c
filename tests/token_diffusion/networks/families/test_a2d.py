"""Networks that learnt to predict the next token first: the authors' logits from folders laid out as theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from token_diffusion import sample
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.facts import Facts, Frame
from token_diffusion.networks.families import a2d, published
from token_diffusion.text import encode

from .recording import Recording, recording
from .turned_folders import as_bfloat16, write_turned

MASKS = {"a2d-llama": 64, "a2d-qwen2": 64, "a2d-qwen3": 64, "diffugpt": 59, "diffullama": 11}
SHIFTED = ("diffugpt", "diffullama")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("turned")
    return {name: load_checkpoint(write_turned(folder / name, name)) for name in MASKS}


@pytest.fixture(params=MASKS)
def turned(request: pytest.FixtureRequest, loaded: dict[str, Checkpoint]) -> tuple[Checkpoint, Recording]:
    return loaded[request.param], recording(request.param)


def asked(
    checkpoint: Checkpoint, tokens: Tensor, valid: Tensor | None = None, positions: Tensor | None = None
) -> Tensor:
    """Logits [n, V] at the positions, or at all [B, L, V]."""
    valid = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
    where = torch.arange(tokens.numel()) if positions is None else positions
    logits = checkpoint.denoiser(tokens, torch.full((len(tokens),), 0.5, dtype=torch.float64), valid, where)
    return logits.view(*tokens.shape, -1) if positions is None else logits


def test_logits_are_the_authors(turned: tuple[Checkpoint, Recording]) -> None:
    checkpoint, recorded = turned
    assert (asked(checkpoint, recorded.inputs["tokens"]) - recorded.outputs["logits"]).abs().max() < 1e-5
    assert checkpoint.family == recorded.name and checkpoint.dtype == "float32" and checkpoint.batching == "shared"
    assert checkpoint.scheduler.config.mask_token_id == checkpoint.tokenizer.mask_token_id == MASKS[recorded.name]
    assert checkpoint.process == "absorbing" and checkpoint.scheduler.config.alpha_schedule == "linear"


def test_each_weight_moves_the_logits(turned: tuple[Checkpoint, Recording], tmp_path: Path) -> None:
    checkpoint, recorded = turned
    known = published(write_turned(tmp_path / "folder", recorded.name))
    assert known is not None
    tokens, before = recorded.inputs["tokens"], recorded.outputs["logits"]
    for theirs, tensor in recorded.weights.items():
        ((name, _),) = known.weights({theirs: tensor}).items()
        with torch.no_grad():
            weight = checkpoint.model.get_parameter(name)
            held = weight.clone()
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
            moved = (asked(checkpoint, tokens) - before).abs().max()
            weight.copy_(held)
        assert moved > 1e-3, theirs


def test_neither_padding_nor_neighbours_nor_the_order_asked_change_a_row(turned: tuple[Checkpoint, Recording]) -> None:
    """Nor, where logits are shifted, the last token of the row before."""
    checkpoint, recorded = turned
    tokens, short = recorded.inputs["tokens"], 9
    alone = asked(checkpoint, tokens[1:2, :short])[0]
    assert (alone - recorded.outputs["logits"][1, :short]).abs().max() > 1e-2, "it saw what lies behind"
    other, valid = tokens.clone(), torch.ones_like(tokens, dtype=torch.bool)
    other[[0, 2]] = tokens[[2, 0]]
    other[1, short:], valid[1, short:] = 5, False
    where = torch.tensor([20, 12, 16])
    torch.testing.assert_close(asked(checkpoint, other, valid, where), alone[where - 12], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        asked(checkpoint, tokens.flip(0)), recorded.outputs["logits"].flip(0), rtol=0, atol=1e-5
    )


def test_a_shifted_position_is_told_by_the_one_before_it_and_the_first_by_itself(
    loaded: dict[str, Checkpoint],
) -> None:
    for name, checkpoint in loaded.items():
        tokens = recording(name).inputs["tokens"]
        logits = asked(checkpoint, tokens)
        assert bool((logits[:, 0] == logits[:, 1]).all()) is (name in SHIFTED)
        assert checkpoint.facts.frame.prefix == ((checkpoint.tokenizer.bos_token_id,) if name in SHIFTED else ())


def test_one_of_dllm_s_may_say_that_it_is_shifted(tmp_path: Path) -> None:
    for key in ("shift_logits", "right_shift_logits"):
        changes: dict[str, Any] = {key: True}
        checkpoint = load_checkpoint(write_turned(tmp_path / key, "a2d-qwen3", **changes))
        tokens, plain = recording("a2d-qwen3").inputs["tokens"], recording("a2d-qwen3").outputs["logits"]
        expected = torch.cat([plain[:, :1], plain[:, :-1]], dim=1)
        torch.testing.assert_close(asked(checkpoint, tokens), expected, rtol=0, atol=1e-5)


def test_what_a_folder_is_known_for(loaded: dict[str, Checkpoint]) -> None:
    ends = frozenset({61, 62})
    assert loaded["a2d-qwen3"].facts == Facts(Frame(), ends, known=True, end_tokens=ends)
    assert loaded["a2d-llama"].facts == Facts(Frame(), ends, known=True, end_tokens=ends)
    assert loaded["diffugpt"].facts == Facts(Frame((58,)), frozenset({58}), known=True)
    assert loaded["diffullama"].facts == Facts(Frame((1,)), frozenset({2}), known=True)
    assert loaded["a2d-qwen3"].forbidden == (60, 63, *range(64, 70))
    assert loaded["diffugpt"].tokenizer.mask_token == "[¨M¨]"


def test_samples_hold_no_token_that_is_none_and_no_mask(turned: tuple[Checkpoint, Recording]) -> None:
    checkpoint, recorded = turned
    vocab_size = checkpoint.scheduler.config.vocab_size
    text = "the cat" if recorded.name == "diffugpt" else "w5 w9"
    tokens = encode(checkpoint.tokenizer, seq_len=24, prompt=text, vocab_size=vocab_size, frame=checkpoint.facts.frame)
    drawn = sample(checkpoint.denoiser, checkpoint.scheduler, num_samples=16, seq_len=24, tokens=tokens, seed=1)
    given = torch.tensor([token for token in tokens if token >= 0])
    assert (drawn.sequences[:, : len(given)] == given).all()
    assert not torch.isin(drawn.sequences[:, len(given) :], torch.tensor(checkpoint.forbidden)).any()
    assert len(drawn.sequences.unique(dim=0)) == 16


@pytest.mark.parametrize("name", ["a2d-llama", "a2d-qwen2", "a2d-qwen3"])
def test_a_tokenizer_without_a_mask_gets_dllm_s_behind_its_last_id(name: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_turned(tmp_path / "folder", name, mask=False))
    assert checkpoint.tokenizer.mask_token == "<|mask|>" and checkpoint.scheduler.config.mask_token_id == 64


def test_diffugpt_s_has_an_ordinary_token_for_its_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no row more than its config.json says."""
    monkeypatch.setattr(a2d, "SMALL_MASK", 11)
    weights = dict(recording("diffugpt").weights)
    weights["embed_tokens.weight"] = weights["embed_tokens.weight"][:59].clone()
    weights["denoise_model.h.0.attn.bias"] = torch.ones(1, 1, 32, 32).tril()  # a buffer that older files hold
    checkpoint = load_checkpoint(write_turned(tmp_path / "folder", "diffugpt", weights=weights))
    assert checkpoint.scheduler.config.mask_token_id == 11 and checkpoint.scheduler.config.vocab_size == 59


def test_diffullama_is_told_from_llama_by_a_mask(tmp_path: Path) -> None:
    folder = write_turned(tmp_path / "llama", "diffullama", mask=False)
    with pytest.raises(ParameterError) as caught:
        load_checkpoint(folder)
    assert "model_type 'llama'" in str(caught.value) and "diffullama" in str(caught.value)
    asked_for = load_checkpoint(write_turned(tmp_path / "asked", "diffullama", mask=False, mask_token_id=13))
    assert asked_for.family == "diffullama" and asked_for.tokenizer.mask_token == "w13"
    tokens = recording("diffullama").inputs["tokens"]
    torch.testing.assert_close(asked(asked_for, tokens), recording("diffullama").outputs["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MASKS)
def test_bfloat16_stays(name: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_turned(tmp_path / "folder", name, weights=as_bfloat16(name)))
    assert checkpoint.model.dtype == torch.bfloat16 and checkpoint.dtype == "bfloat16"
    tokens, logits = recording(name).inputs["tokens"], recording(name).outputs["logits"]
    assert (asked(checkpoint, tokens).float() - logits).abs().mean() < 0.03


def test_no_layer_has_a_window(loaded: dict[str, Checkpoint]) -> None:
    config: Any = loaded["a2d-qwen2"].model.config
    assert (
        recording("a2d-qwen2").config["sliding_window"] == 4
        and "sliding_attention" in recording("a2d-qwen2").config["layer_types"]
    )
    assert set(config.layer_types) == {"full_attention"} and config.sliding_window is None


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("a2d-qwen3", {"hidden_size": None}, "hold the config.json of a a2d model"),
        ("a2d-qwen3", {"vocab_size": 71}, "model.embed_tokens.weight is [70, 32], not [71, 32]"),
        ("a2d-llama", {"num_hidden_layers": 2}, "model.layers.2.input_layernorm.weight is left over"),
        ("a2d-llama", {"num_hidden_layers": 4}, "hold all weights of its model (model.layers.3"),
        ("a2d-llama", {"vocab_size": 64}, "64"),
        ("a2d-qwen3", {"num_attention_heads": "four"}, "num_attention_heads"),
        ("a2d-qwen3", {"rope_theta": float("nan")}, "rope_theta must be a finite number, got nan"),
        ("a2d-qwen2", {"max_position_embeddings": -1}, "max_position_embeddings must be a positive number, got -1"),
        ("diffullama", {"mask_token_id": "eleven"}, "mask_token_id must be an integer, got 'eleven'"),
        ("diffullama", {"mask_token_id": 70}, "mask_token_id must be in [0, 70), got 70"),
        ("diffugpt", {"n_embd": 36}, "transformer.h.0.attn.c_attn.bias is [96], not [108]"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_in_one_line(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError) as caught:
        load_checkpoint(write_turned(tmp_path / "folder", name, **changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_with_a_scheduler_says_itself_what_it_is(tmp_path: Path) -> None:
    folder = write_turned(tmp_path / "folder", "diffullama")
    (folder / "scheduler_config.json").write_text(json.dumps({"_class_name": "TokenDiffusionScheduler"}))
    assert published(folder) is None
