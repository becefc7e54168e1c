"""SEDD's checkpoints, against what the authors' code gave: scores, the laws of their samplers' steps, their loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.laws import chi_square_p
from tests.token_diffusion.networks.families.asking import ask, check_alone, check_every_weight_matters
from tests.token_diffusion.networks.families.gpt2 import gpt2_tokenizer
from tests.token_diffusion.networks.families.recording import Recording, recording
from token_diffusion import ParameterError, sample
from token_diffusion.checkpoint import Checkpoint, load_checkpoint

TOKENS = MASK = 60
ROWS = slice(1, 4)
"""Those of which the laws of steps are recorded; the last is at t = 1."""


@pytest.fixture(scope="module")
def recorded() -> Recording:
    return recording("sedd")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    gpt2_tokenizer(TOKENS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, gpt2: Path) -> Checkpoint:
    folder = recording("sedd").write(tmp_path_factory.mktemp("hub") / "sedd")
    return load_checkpoint(folder, tokenizer_name=gpt2)


@pytest.fixture(scope="module")
def logits(checkpoint: Checkpoint, recorded: Recording) -> Tensor:
    """The network's here, float64 [B, L, V]."""
    return ask(checkpoint, recorded.inputs["tokens"], recorded.inputs["t"]).double()


def shares(logits: Tensor) -> Tensor:
    """c, the sum of the scores as a part of what an exact network's is: the mean of exp(logit) over the tokens."""
    return logits[..., :MASK].exp().mean(-1)


def test_a_folder_as_on_the_hub_gives_the_authors_scores(logits: Tensor, recorded: Recording) -> None:
    tokens, sigma = recorded.inputs["tokens"].unsqueeze(-1), recorded.inputs["sigma"].double()
    scores = logits - sigma.expm1().log().view(-1, 1, 1) - math.log(TOKENS)
    expected = recorded.outputs["logits"].double()
    torch.testing.assert_close(scores.scatter(-1, tokens, 0.0), expected, rtol=0, atol=1e-5)


def test_what_is_known_of_the_folder(checkpoint: Checkpoint) -> None:
    assert checkpoint.family == "sedd"
    assert (checkpoint.process, checkpoint.scheduler.config.alpha_schedule) == ("absorbing", "log_linear")
    assert checkpoint.scheduler.config.mask_token_id == checkpoint.tokenizer.mask_token_id == MASK
    assert checkpoint.max_seq_len == 32
    assert checkpoint.forbidden == (MASK,)
    assert checkpoint.facts.ends(checkpoint.tokenizer) == {TOKENS - 1}


def test_rows_are_each_their_own(checkpoint: Checkpoint, recorded: Recording) -> None:
    check_alone(checkpoint, recorded)


def test_every_weight_matters(tmp_path: Path, recorded: Recording) -> None:
    check_every_weight_matters(recorded.write(tmp_path), recorded)


@pytest.mark.parametrize("sampler", ["analytic", "euler", "denoiser"])
def test_a_mask_that_leaves_becomes_a_token_by_the_law_of_the_authors_samplers(
    sampler: str, logits: Tensor, recorded: Recording
) -> None:
    masked = recorded.inputs["tokens"][ROWS] == MASK
    theirs = recorded.outputs[sampler][ROWS.start - 1 :][masked][:, :MASK].double()
    theta = logits[ROWS][masked][:, :MASK].softmax(-1)
    torch.testing.assert_close(theirs / theirs.sum(-1, keepdim=True), theta, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("sampler", ["analytic", "euler", "denoiser"])
def test_no_sampler_of_theirs_moves_a_token_that_shows(sampler: str, recorded: Recording) -> None:
    shown = recorded.inputs["tokens"][ROWS] != MASK
    law, tokens = recorded.outputs[sampler][shown], recorded.inputs["tokens"][ROWS][shown]
    assert (law.argmax(-1) == tokens).all()
    assert law.count_nonzero() == len(tokens)


def test_how_many_masks_leave_is_the_schedule_here_and_learnt_there(
    checkpoint: Checkpoint, logits: Tensor, recorded: Recording
) -> None:
    tokens, t, step = recorded.inputs["tokens"][ROWS], recorded.inputs["t"][ROWS].double(), recorded.inputs["step"]
    theirs = 1 - recorded.outputs["analytic"][..., MASK].double()
    masses = checkpoint.scheduler.process.masses
    ours = 1 - masses(t - step).mask / masses(t).mask
    expected = shares(logits[ROWS]) * ours.unsqueeze(-1)
    masked = tokens == MASK
    torch.testing.assert_close(theirs[masked], expected[masked], rtol=1e-4, atol=1e-5)
    assert (theirs[masked] / ours.unsqueeze(-1).expand(tokens.shape)[masked] - 1).abs().max() > 0.1


def test_the_authors_loss_is_the_bound_and_what_is_wrong_with_the_sum_of_scores(
    checkpoint: Checkpoint, logits: Tensor, recorded: Recording
) -> None:
    tokens, clean, t = (recorded.inputs[name] for name in ("tokens", "clean", "t"))
    bound = checkpoint.scheduler.nelbo(logits, clean, tokens, t)
    c, rate = shares(logits), 1 / t.double().unsqueeze(-1)
    theirs = bound + torch.where(tokens == MASK, rate * (c - 1 - c.log()), 0.0)
    torch.testing.assert_close(theirs, recorded.outputs["loss"].double(), rtol=1e-4, atol=1e-4)
    assert (theirs >= bound).all()


def test_samples_of_one_step_follow_the_authors_last_one(checkpoint: Checkpoint, recorded: Recording) -> None:
    tokens, count = recorded.inputs["tokens"][-1], 3000
    assert recorded.inputs["t"][-1] == 1
    given = torch.where(tokens == MASK, -1, tokens).tolist()
    drawn = sample(
        checkpoint.denoiser,
        checkpoint.scheduler,
        num_samples=count,
        seq_len=len(given),
        num_inference_steps=1,
        tokens=given,
    ).sequences
    assert (drawn[:, tokens != MASK] == tokens[tokens != MASK]).all()
    for position in (tokens == MASK).nonzero().flatten().tolist():
        law = recorded.outputs["denoiser"][-1, position].double()
        counts = drawn[:, position].bincount(minlength=TOKENS).double()
        assert chi_square_p(counts, law / law.sum()) > 1e-4


def test_geometric_noise_is_the_schedule_of_that_name(tmp_path: Path, gpt2: Path, recorded: Recording) -> None:
    noise = {"type": "geometric", "sigma_min": 1e-3, "sigma_max": 15.0}
    checkpoint = load_checkpoint(recorded.write(tmp_path, noise=noise), tokenizer_name=gpt2)
    config: Any = checkpoint.model.config
    for part in (config, checkpoint.scheduler.config):
        assert (part.alpha_schedule, part.sigma_min, part.sigma_max) == ("geometric", 1e-3, 15.0)
    sigma, schedule = recorded.inputs["sigma"].double(), config.schedule()
    t = schedule.inverse(-torch.expm1(-sigma))  # times at which it is told what the recorded one was told
    scores = ask(checkpoint, recorded.inputs["tokens"], t).double() - sigma.expm1().log().view(-1, 1, 1)
    scores = (scores - math.log(TOKENS)).scatter(-1, recorded.inputs["tokens"].unsqueeze(-1), 0.0)
    torch.testing.assert_close(scores, recorded.outputs["logits"].double(), rtol=0, atol=1e-4)  # t goes as float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": {"type": "uniform"}}, "graph.type must be absorb: scores of uniform noise .*got 'uniform'"),
        ({"noise": {"type": "cosine"}}, "noise.type must be loglinear or geometric, got 'cosine'"),
        ({"noise": {"type": "geometric"}}, "config.json of a sedd model .no 'sigma_min'"),
        ({"tokens": "many"}, "tokens must be an integer, got 'many'"),
        ({"model": {**recording("sedd").config["model"], "n_heads": 0}}, "model.n_heads must be >= 1, got 0"),
        ({"tokens": 50}, "tokenizer must have 50 tokens, as that of a sedd model has"),
        ({"graph": {}}, "config.json of a sedd model .no 'type'"),
    ],
)
def test_a_config_that_is_wrong_is_refused_in_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path, gpt2: Path, recorded: Recording
) -> None:
    with pytest.raises(ParameterError, match=message) as raised:
        load_checkpoint(recorded.write(tmp_path, **changes), tokenizer_name=gpt2)
    assert "\n" not in str(raised.value)


def test_its_tokenizer_is_asked_for_by_name(tmp_path: Path, recorded: Recording) -> None:
    with pytest.raises(ParameterError, match="tokenizer_name must be given, with the folder of the gpt2 tokenizer"):
        load_checkpoint(recorded.write(tmp_path))
