"""GIDD's checkpoints, against what the authors' code gave: logits, the bound, the masses of the process, a step's law."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.laws import chi_square_p
from tests.token_diffusion.networks.families.asking import ask, check_alone, check_every_weight_matters
from tests.token_diffusion.networks.families.gpt2 import gpt2_tokenizer
from tests.token_diffusion.networks.families.recording import Recording, recording
from token_diffusion import ParameterError, TokenDiffusionScheduler, sample_hybrid
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.diffusion.processes import leave_probability
from token_diffusion.networks.families import gidd, published

VOCAB, MASK = 60, 59
SHARES = (0.0, 0.1, 0.2)


def write(name: str, folder: Path, **changes: Any) -> Path:
    """The folder of a recording, with a tokenizer as convert_checkpoint.py saves it beside the model."""
    tokenizer = gpt2_tokenizer(VOCAB - 2, pad_token="[PAD]", mask_token="[MASK]")
    return recording(name).write(folder / name, tokenizer, **changes)


@pytest.fixture(scope="module")
def recorded() -> Recording:
    return recording("gidd")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(write("gidd", tmp_path_factory.mktemp("hub")))


def scheduler(p_uniform: float) -> TokenDiffusionScheduler:
    return TokenDiffusionScheduler(VOCAB, MASK, forward_process="hybrid", p_uniform=p_uniform)


def test_a_folder_as_on_the_hub_gives_the_authors_logits(checkpoint: Checkpoint, recorded: Recording) -> None:
    logits = ask(checkpoint, recorded.inputs["tokens"], recorded.inputs["t"])
    torch.testing.assert_close(logits, recorded.outputs["logits"], rtol=0, atol=1e-5)
    assert checkpoint.family == "gidd"
    assert checkpoint.process == "hybrid"
    assert checkpoint.scheduler.config.p_uniform == 0.2
    assert checkpoint.scheduler.config.t_eps == 1e-4
    assert checkpoint.max_seq_len == 24
    assert checkpoint.forbidden == (MASK,)  # padding was learnt, and so was the end token
    assert len(checkpoint.facts.frame) == 0
    assert checkpoint.facts.ends(checkpoint.tokenizer) == {57}


def test_rows_past_the_tokenizer_are_left_out(tmp_path: Path) -> None:
    recorded = recording("gidd-rounded")
    assert len(recorded.weights["vocab_embed.embedding"]) == 128
    checkpoint = load_checkpoint(write("gidd-rounded", tmp_path))
    logits = ask(checkpoint, recorded.inputs["tokens"], recorded.inputs["t"])
    torch.testing.assert_close(logits, recorded.outputs["logits"], rtol=0, atol=1e-5)
    assert checkpoint.scheduler.process.states.count == VOCAB - 1


def test_a_rounded_vocabulary_of_gpt2_is_known_by_its_size() -> None:
    known = gidd.read(recording("gidd").config | {"vocab_size": 50304}, ())
    assert known is not None
    assert (known.config.vocab_size, known.scheduler["mask_token_id"]) == (50259, 50258)


def test_rows_are_each_their_own(checkpoint: Checkpoint, recorded: Recording) -> None:
    check_alone(checkpoint, recorded)


@pytest.mark.parametrize("name", ["gidd", "gidd-rounded"])
def test_every_weight_matters(name: str, tmp_path: Path) -> None:
    check_every_weight_matters(write(name, tmp_path), recording(name))


@pytest.mark.parametrize("p_uniform", SHARES)
def test_the_masses_are_the_authors(p_uniform: float, recorded: Recording) -> None:
    masses = scheduler(p_uniform).process.masses(recorded.inputs["times"])
    on_mask, on_other = recorded.outputs[f"beta_pi.{p_uniform}"].T
    torch.testing.assert_close(masses.alpha, recorded.outputs[f"alpha.{p_uniform}"], rtol=0, atol=1e-8)
    torch.testing.assert_close(masses.mask, on_mask, rtol=0, atol=1e-8)
    torch.testing.assert_close(masses.uniform / (VOCAB - 1), on_other, rtol=1e-6, atol=0)


@pytest.mark.parametrize("p_uniform", SHARES)
def test_the_bound_is_the_authors_elbo_at_each_token(p_uniform: float, recorded: Recording) -> None:
    x, z, t = (recorded.inputs[name] for name in ("clean", "tokens", "t"))
    assert ((z == MASK) | (z == x)).float().mean() < 0.9  # masks, clean tokens and wrong ones
    bound = scheduler(p_uniform).nelbo(recorded.outputs["logits"].double(), x, z, t)
    torch.testing.assert_close(bound, recorded.outputs[f"elbo.{p_uniform}"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("p_uniform", SHARES)
def test_a_step_has_the_law_of_the_authors_sampler(p_uniform: float, recorded: Recording) -> None:
    process, row = scheduler(p_uniform).process, 1
    z, logits = recorded.inputs["tokens"][row], recorded.outputs["logits"][row].double()
    theta = logits.index_fill(-1, torch.tensor([MASK]), -torch.inf).softmax(-1)
    now, then = (process.masses(recorded.inputs[name].double()[at]) for name, at in (("t", row), ("s", 0)))
    leaves = leave_probability(process, z, theta.gather(-1, z.unsqueeze(-1)).squeeze(-1), now, then).unsqueeze(-1)
    law = leaves * (then.alpha * theta + then.uniform / (VOCAB - 1))
    law[:, MASK] = leaves.squeeze(-1) * then.mask
    law.scatter_add_(-1, z.unsqueeze(-1), 1 - leaves)
    torch.testing.assert_close(law, recorded.outputs[f"step.{p_uniform}"].double(), rtol=0, atol=1e-7)


def test_samples_of_one_step_follow_the_network(checkpoint: Checkpoint) -> None:
    masks, count = torch.full((1, 4), MASK), 4000
    law = ask(checkpoint, masks, torch.ones(1))[0].index_fill(-1, torch.tensor([MASK]), -torch.inf).softmax(-1)
    drawn = sample_hybrid(
        checkpoint.denoiser, checkpoint.scheduler, num_samples=count, seq_len=4, num_inference_steps=1
    )
    for position in range(4):
        counts = drawn.sequences[:, position].bincount(minlength=VOCAB)
        assert chi_square_p(counts.double(), law[position].double()) > 1e-3


def test_samples_hold_no_mask_and_keep_what_is_given(checkpoint: Checkpoint) -> None:
    given = [3, -1, -1, 5, *[-1] * 16]
    drawn = sample_hybrid(
        checkpoint.denoiser, checkpoint.scheduler, num_samples=8, seq_len=20, num_inference_steps=16, tokens=given
    ).sequences
    assert (drawn != MASK).all()
    assert (drawn[:, 0] == 3).all() and (drawn[:, 3] == 5).all()
    assert drawn.unique().numel() > 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p_uniform": 1.0}, "p_uniform must be in"),
        ({"p_uniform": "0.1"}, "p_uniform must be a finite number, got '0.1'"),
        ({"hidden_size": "24"}, "hidden_size must be an integer, got '24'"),
        ({"num_attention_heads": 0}, "num_attention_heads must be >= 1, got 0"),
        ({"vocab_size": -1}, "vocab_size must be >= 2, got -1"),
        ({"num_hidden_layers": 1}, "blocks.1"),
        ({"hidden_size": 48}, r"is \[60, 24\], not \[60, 48\]"),
        ({"vocab_size": 59}, "60 in"),
    ],
)
def test_a_config_that_is_wrong_is_refused_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=message) as raised:
        load_checkpoint(write("gidd", tmp_path, **changes))
    assert "\n" not in str(raised.value)


def test_a_tokenizer_without_padding_or_with_another_mask_is_refused(tmp_path: Path) -> None:
    no_padding = recording("gidd").write(tmp_path / "a", gpt2_tokenizer(VOCAB - 1, mask_token="[MASK]"))
    with pytest.raises(ParameterError, match="tokenizer must have its pad token"):
        load_checkpoint(no_padding)
    elsewhere = gpt2_tokenizer(VOCAB - 2, mask_token="[MASK]", pad_token="[PAD]")
    with pytest.raises(ParameterError, match="mask token 59"):
        load_checkpoint(recording("gidd").write(tmp_path / "b", elsewhere))


def test_another_dit_is_not_taken_for_one(tmp_path: Path) -> None:
    other = recording("gidd").config
    assert gidd.read(other | {"model_type": "bert"}, ()) is None
    assert gidd.read({name: value for name, value in other.items() if name != "p_uniform"}, ()) is None
    assert published(tmp_path) is None
