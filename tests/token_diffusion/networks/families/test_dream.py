"""Dream: the authors' logits, shifted, from a folder laid out as theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.token_diffusion.networks.families.asking import asked, check_saved
from token_diffusion import sample
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.facts import Facts, Frame
from token_diffusion.text import OPEN, encode, ending

from .hub_folders import write_dream
from .recording import Recording, recording

EOS, TURN, BOS, MASK = 60, 62, 65, 66


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(write_dream(tmp_path_factory.mktemp("dream") / "dream"))


@pytest.fixture(scope="module")
def recorded() -> Recording:
    return recording("dream")


def test_logits_are_the_authors(loaded: Checkpoint, recorded: Recording) -> None:
    tokens, valid = recorded.inputs["tokens"], recorded.inputs["valid"]
    assert (asked(loaded, tokens, valid) - recorded.outputs["logits"][valid]).abs().max() < 1e-5
    assert loaded.family == "dream" and loaded.dtype == "float32" and loaded.batching == "shared"


def test_each_position_reads_the_one_before_it_in_its_own_row(loaded: Checkpoint, recorded: Recording) -> None:
    """The first reads itself: not the last token of the row above."""
    tokens, valid = recorded.inputs["tokens"], recorded.inputs["valid"]
    logits = recorded.outputs["logits"].flatten(0, 1)
    assert (logits[[0, 12, 24]] == logits[[1, 13, 25]]).all()
    for where in ([24], [12, 0], [25, 24, 13, 12, 35, 11]):
        positions = torch.tensor(where)
        torch.testing.assert_close(asked(loaded, tokens, valid, positions), logits[positions], rtol=0, atol=1e-5)
    above = tokens.clone()
    above[1] = tokens[0]
    first = torch.tensor([24])
    torch.testing.assert_close(asked(loaded, above, valid, first), logits[first], rtol=0, atol=1e-5)


def test_each_weight_moves_the_logits(loaded: Checkpoint, recorded: Recording) -> None:
    tokens, valid = recorded.inputs["tokens"], recorded.inputs["valid"]
    before = asked(loaded, tokens, valid)
    for name in recorded.weights:
        with torch.no_grad():
            weight = loaded.model.get_parameter(name)
            held = weight.clone()
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
            moved = (asked(loaded, tokens, valid) - before).abs().max()
            weight.copy_(held)
        # One number for all keys moves no attention but by their rotations.
        assert moved > (1e-4 if name.endswith("k_proj.bias") else 1e-3), name


def test_padding_changes_nothing(loaded: Checkpoint, recorded: Recording) -> None:
    tokens, valid = recorded.inputs["tokens"].clone(), recorded.inputs["valid"]
    short = int(valid[1].sum())
    alone = asked(loaded, tokens[1:2, :short], valid[1:2, :short])
    torch.testing.assert_close(alone, recorded.outputs["logits"][1, :short], rtol=0, atol=1e-5)
    tokens[1, short:] = MASK
    together = asked(loaded, tokens, valid, torch.arange(12, 12 + short))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_the_bound_is_dllms_loss(loaded: Checkpoint, recorded: Recording) -> None:
    """But for what it gives to the mask, which no token is."""
    inputs, logits, t = recorded.inputs, recorded.outputs["logits"], recorded.inputs["t"]
    nats = loaded.scheduler.nelbo(logits, inputs["clean"], inputs["tokens"], t)
    elsewhere = -torch.log1p(-logits.softmax(-1)[..., MASK]) / t.unsqueeze(1)
    theirs = nats + elsewhere.where(inputs["tokens"] == MASK, 0.0)
    valid = inputs["valid"]
    torch.testing.assert_close(theirs[valid], recorded.outputs["token_loss"][valid], rtol=1e-5, atol=1e-5)


def test_what_the_folder_is_known_for(loaded: Checkpoint) -> None:
    ends = frozenset({EOS, TURN})
    assert loaded.facts == Facts(Frame((BOS,)), ends, known=True, end_tokens=ends)
    assert loaded.process == "absorbing" and loaded.tokenizer.mask_token_id == MASK
    assert loaded.forbidden == (61, 63, 64, 65, 66, *range(67, 72))


def test_the_tokenizer_is_theirs_though_its_class_is_not(loaded: Checkpoint, recorded: Recording) -> None:
    for text, ids in json.loads(recorded.source["tokenized"]):
        assert loaded.tokenizer(text)["input_ids"] == ids, text


@pytest.mark.parametrize(("length", "most"), [(131072, 2048), (32768, 2048), (4096, 4096), (96, 96)])
def test_sequences_are_as_long_as_in_training(tmp_path: Path, length: int, most: int) -> None:
    """README.md says 2048, and config.json what Qwen2's does; a length of its own is one."""
    folder = write_dream(tmp_path / "folder", max_position_embeddings=length)
    assert load_checkpoint(folder).max_seq_len == most


def test_samples_begin_with_bos_and_end_with_a_turn(loaded: Checkpoint) -> None:
    tokens = encode(loaded.tokenizer, seq_len=24, prompt="the cat", vocab_size=72, frame=loaded.facts.frame)
    assert tokens[0] == BOS
    drawn = sample(loaded.denoiser, loaded.scheduler, num_samples=32, seq_len=24, tokens=tokens, seed=1).sequences
    assert not torch.isin(drawn[:, 1:], torch.tensor(loaded.forbidden)).any()
    assert {EOS, TURN} <= set(drawn.flatten().tolist())
    whole = [*tokens[:3], 0, TURN, 1, EOS]
    found = ending(loaded.tokenizer, whole, [*tokens[:3], *[OPEN] * 4], facts=loaded.facts)
    assert (found.text, found.reason) == ("the cata", "stop")


def test_bfloat16_stays(tmp_path: Path, recorded: Recording) -> None:
    checkpoint = load_checkpoint(write_dream(tmp_path / "folder", dtype=torch.bfloat16))
    valid = recorded.inputs["valid"]
    assert checkpoint.dtype == "bfloat16" and checkpoint.model.dtype == torch.bfloat16
    logits = asked(checkpoint, recorded.inputs["tokens"], valid).float()
    assert (logits - recorded.outputs["logits"][valid]).abs().max() < 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu', got 'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window must be False, got True"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling must be None, got {'type': 'yarn'}"),
        ({"use_mrope": True}, "use_mrope must be False, got True"),
        ({"architectures": ["DreamForCausalLM"]}, "architectures must be DreamModel, got ['DreamForCausalLM']"),
        ({"mask_token_id": 3}, "mask token 3 of its dream model"),
        ({"mask_token_id": 99}, "mask token 99 of its dream model"),
        ({"vocab_size": 73}, "is [72, 32], not [73, 32]"),
        ({"num_attention_heads": 5}, "k_proj.bias is [16], not [12]"),
        ({"hidden_size": "wide"}, "hold the config.json of a dream model"),
        ({"rope_theta": 0}, "rope_theta must be a positive number, got 0"),
    ],
)
def test_what_is_not_run_or_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = write_dream(tmp_path / "folder", **changes)
    with pytest.raises(ParameterError) as caught:
        load_checkpoint(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt", "tokenizer_config.json", "config.json"])
def test_a_file_that_is_missing_is_one_line(tmp_path: Path, missing: str) -> None:
    folder = write_dream(tmp_path / "folder")
    (folder / missing).unlink()
    with pytest.raises(ParameterError) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_saved_it_is_a_folder_of_our_own(loaded: Checkpoint, tmp_path: Path) -> None:
    check_saved(loaded, recording("dream"), tmp_path / "ours")
