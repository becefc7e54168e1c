"""The network that may be told the time: what it computes, what it is told, and that it is an ordinary model of transformers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from tests.tiny import PROCESSES, tiny_model, tiny_tokenizer
from token_diffusion import (
    ParameterError,
    TokenDiffusionConfig,
    TokenDiffusionForMaskedLM,
    TokenDiffusionScheduler,
    sample_block,
)
from token_diffusion.checkpoint import load_checkpoint, max_positions, save_checkpoint
from token_diffusion.diffusion.processes import prior, reverse
from token_diffusion.diffusion.shaping import inverse_cdf, probabilities
from token_diffusion.networks.denoiser import MaskedLMDenoiser
from token_diffusion.networks.transformer.config import TIME_CONDITIONINGS
from token_diffusion.networks.transformer.layers import TimeEmbedding, rotate, rotations
from token_diffusion.samplers.randomness import Purpose, uniform
from token_diffusion.sampling import sample, sample_hybrid

VOCAB, MASK = 50, 4
TIMED = ("t", "sigma")


def network(
    time_conditioning: str = "t", dtype: torch.dtype = torch.float32, *, trained: bool = True, **overrides: Any
) -> TokenDiffusionForMaskedLM:
    """A tiny one in evaluation mode; `trained` fills the zero modulations with numbers, so that the time matters."""
    options: dict[str, Any] = {"time_conditioning": time_conditioning, "cond_dim": 16} | overrides
    model: Any = tiny_model("token-diffusion", VOCAB, **options)
    assert isinstance(model, TokenDiffusionForMaskedLM)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if trained and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return torch.nn.Module.to(model, dtype)


def batch(rows: int = 3, length: int = 9) -> tuple[Tensor, Tensor]:
    """tokens and times, the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(VOCAB, (rows, length), generator=generator), torch.rand(rows, generator=generator)


def logits(model: TokenDiffusionForMaskedLM, tokens: Tensor, t: Tensor | None, mask: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        return model(tokens, mask, t).logits


@pytest.mark.parametrize("time_conditioning", TIMED)
def test_the_time_is_without_effect_until_a_step_of_training(time_conditioning: str) -> None:
    model = network(time_conditioning, trained=False)
    tokens, t = batch()
    early, late = torch.full_like(t, 0.1), torch.full_like(t, 0.9)
    assert logits(model, tokens, early).equal(logits(model, tokens, late))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(tokens, None, t, labels=tokens).loss.backward()
    optimizer.step()
    assert (logits(model, tokens, early) - logits(model, tokens, late)).abs().max() > 1e-3
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("time_conditioning", TIMED)
def test_a_time_input_can_be_added_to_a_network_without_one(time_conditioning: str, tmp_path: Path) -> None:
    """It starts as the same function."""
    plain = network("none")
    plain.save_pretrained(tmp_path)
    timed = AutoModelForMaskedLM.from_pretrained(tmp_path, time_conditioning=time_conditioning)
    tokens, t = batch()
    assert logits(timed, tokens, t).equal(logits(plain, tokens, None))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("time_conditioning", TIME_CONDITIONINGS)
def test_rows_and_padding_change_nothing(time_conditioning: str, dtype: torch.dtype) -> None:
    model = network(time_conditioning, dtype)
    tokens, t = batch()
    together = logits(model, tokens, t)
    order = torch.tensor([2, 0, 1])
    tolerance = {torch.float64: 1e-9, torch.float32: 2e-3, torch.bfloat16: 0.3, torch.float16: 0.03}[dtype]
    close: dict[str, Any] = {"rtol": 0, "atol": tolerance}
    torch.testing.assert_close(logits(model, tokens[order], t[order]), together[order], **close)
    torch.testing.assert_close(logits(model, tokens[:1], t[:1]), together[:1], **close)
    padded = torch.nn.functional.pad(tokens, (0, 4), value=17)
    mask = torch.arange(13).expand(3, -1) < 9
    assert together.float().std() > 5 * tolerance
    torch.testing.assert_close(logits(model, padded, t, mask.long())[:, :9], together, **close)
    assert (logits(model, padded, t)[:, :9] - together).abs().max() > 2 * tolerance


def test_each_row_has_its_own_time() -> None:
    model = network()
    tokens, t = batch()
    changed = t.clone()
    changed[1] = 0.99
    difference = (logits(model, tokens, t) - logits(model, tokens, changed)).abs().amax((1, 2))
    assert (difference > 1e-2).tolist() == [False, True, False]


def test_only_distances_between_positions_matter() -> None:
    """Rotary positions, so [MASK] in front, hidden, shifts the logits and leaves them as they are."""
    model = network("none")
    tokens, _ = batch()
    shifted = torch.nn.functional.pad(tokens, (5, 0), value=MASK)
    mask = (torch.arange(14) >= 5).expand(3, -1)
    torch.testing.assert_close(
        logits(model, shifted, None, mask)[:, 5:], logits(model, tokens, None), rtol=1e-4, atol=1e-4
    )
    swapped = tokens[:, [1, 0, *range(2, 9)]]
    assert not torch.allclose(logits(model, swapped, None)[:, 2:], logits(model, tokens, None)[:, 2:], atol=1e-2)


def test_rotation_turns_by_position_times_frequency() -> None:
    cos, sin = rotations(3, 4, 100.0, torch.zeros(()))
    x = torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(1, 1, 3, 4)
    a, b = 2 * 1.0, 2 * 0.1  # position 2, frequencies 1 and 100^(-1/2)
    expected = torch.tensor([math.cos(a), -math.sin(b), math.sin(a), math.cos(b)])
    torch.testing.assert_close(rotate(x, cos, sin)[0, 0, 2], expected)
    assert rotate(x, cos, sin)[0, 0, 0].equal(x[0, 0, 0])


SIGMA: list[tuple[dict[str, Any], float, float]] = [
    ({"alpha_schedule": "log_linear", "eps": 1e-3}, 0.5, -math.log(1 - 0.999 * 0.5)),
    ({"alpha_schedule": "log_linear", "eps": 1e-3}, 1.0, -math.log(1e-3)),
    ({"alpha_schedule": "linear"}, 1.0, -math.log(1e-9)),
    ({"alpha_schedule": "cosine"}, 0.5, -math.log(1 - math.sqrt(0.5))),
    ({"alpha_schedule": "geometric", "sigma_min": 1e-4, "sigma_max": 16.0}, 0.5, 0.04 - 1e-4),
]


@pytest.mark.parametrize(("schedule", "t", "sigma"), SIGMA)
def test_sigma_is_the_t_of_another_clock(schedule: dict[str, Any], t: float, sigma: float) -> None:
    """Told t under a schedule, or its -ln alpha directly: the same embedding."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2}
    told_sigma = TimeEmbedding(TokenDiffusionConfig(time_conditioning="sigma", **sizes, **schedule))
    told_t = TimeEmbedding(TokenDiffusionConfig(time_conditioning="t", **sizes))
    told_t.load_state_dict(told_sigma.state_dict())
    for parameter in told_t.parameters():
        parameter.data = parameter.data * 3
    told_sigma.load_state_dict(told_t.state_dict())
    found, expected = told_sigma(torch.tensor([t])), told_t(torch.tensor([sigma], dtype=torch.float64))
    assert found.shape == (1, 1, 128) and bool(found.isfinite().all())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(told_t(torch.tensor([sigma * 1.05])), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("time_conditioning", TIMED)
def test_every_time_gives_finite_logits_in_every_precision(time_conditioning: str, dtype: torch.dtype) -> None:
    model = network(time_conditioning, dtype, alpha_schedule="linear")
    t = torch.tensor([1e-300, 1e-6, 1 - 1e-9, 1.0], dtype=torch.float64)
    tokens, _ = batch(4)
    assert bool(logits(model, tokens, t).isfinite().all())
    assert bool(logits(model, tokens, t.float()).isfinite().all())


@pytest.mark.parametrize("time_conditioning", TIMED)
@pytest.mark.parametrize("t", [None, torch.tensor(0.5), torch.tensor([0.5]), torch.ones(3, dtype=torch.int64)])
def test_a_missing_time_is_an_error_and_never_zero(time_conditioning: str, t: Tensor | None) -> None:
    model = network(time_conditioning)
    with pytest.raises(ParameterError, match=r"timesteps must be the times t in \(0, 1\], float \[3\]") as caught:
        logits(model, batch()[0], t)
    assert time_conditioning in str(caught.value)


def test_a_network_without_time_input_needs_none_and_ignores_it() -> None:
    model = network("none")
    tokens, t = batch()
    assert logits(model, tokens, t).equal(logits(model, tokens, None))
    assert not any("time" in name or "gate." in name for name, _ in model.named_parameters())


BAD = [
    ({"time_conditioning": "beta"}, "time_conditioning must be one of none, t, sigma, zero, got 'beta'"),
    ({"hidden_size": 36, "num_attention_heads": 4}, "hidden_size must be a multiple of 2 . num_attention_heads = 8"),
    ({"alpha_schedule": "steep"}, "alpha_schedule must be one of"),
    ({"eps": 0.0}, "eps must be in"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_a_configuration_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        AutoConfig.for_model("token-diffusion", **options)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("time_conditioning", TIME_CONDITIONINGS)
def test_what_is_saved_is_what_is_loaded(time_conditioning: str, tied: bool, tmp_path: Path) -> None:
    model = network(time_conditioning, tie_word_embeddings=tied, alpha_schedule="cosine", rope_theta=500.0)
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert type(loaded) is TokenDiffusionForMaskedLM
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    tokens, t = batch()
    assert logits(loaded, tokens, t).equal(logits(model, tokens, t))
    body = AutoModel.from_pretrained(tmp_path)
    with torch.inference_mode():
        found = body.eval()(tokens, None, t).last_hidden_state @ model.lm_head.weight.T
    torch.testing.assert_close(found, logits(model, tokens, t))


def test_initial_weights() -> None:
    """Branches' ends shrink with depth (GPT-2), modulations are zero, the logits of an untrained network are small."""
    model = network("t", trained=False, initializer_range=0.02, num_hidden_layers=8, hidden_size=64)
    for name, parameter in model.named_parameters():
        if "modulation" in name or "gate." in name:
            assert not parameter.any(), name
        elif name.endswith("branch.output.weight"):
            assert parameter.std().item() == pytest.approx(0.02 / 4, rel=0.1), name
        elif "norm" not in name and parameter.dim() == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
    tokens, t = batch()
    assert logits(model, tokens, t).abs().max() < 2


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")  # its successor is not in 5.17 yet
def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = network("sigma").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        calls: list[int] = []
        for block in model.model.blocks:
            block.attention.branch.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        tokens, t = batch()
        model(tokens, None, t, labels=tokens).loss.backward()
        assert len(calls) == (4 if checkpointing else 2)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_dropout_is_for_training_alone() -> None:
    model = network(dropout=0.3)
    tokens, t = batch()
    assert logits(model, tokens, t).equal(logits(model, tokens, t))
    model.train()
    assert not torch.allclose(logits(model, tokens, t), logits(model, tokens, t), atol=1e-2)


def test_loss_is_the_mean_cross_entropy_of_the_labels() -> None:
    model = network()
    tokens, t = batch()
    labels = tokens.clone()
    labels[:, ::2] = -100
    output = model(tokens, None, t, labels)
    chosen = output.logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)[:, 1::2]
    torch.testing.assert_close(output.loss, -chosen.mean())


def test_positions_are_bounded_by_the_configuration_alone() -> None:
    assert max_positions(network(max_position_embeddings=64)) == 64
    assert max_positions(network(max_position_embeddings=0)) is None


@pytest.mark.parametrize("process", ["uniform", "hybrid"])
def test_thinning_gives_the_tokens_of_the_plain_loop(process: str) -> None:
    """A network that is told the time, asked only where and when a draw could matter, against one asked at every step."""
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    model = network("sigma" if process == "uniform" else "t", torch.float64)
    model.lm_head.weight.data /= 8  # flatter, so that stays and leaves both happen
    steps, length, rows, seed = 24, 6, 4, 7
    row, column = torch.arange(rows).unsqueeze(1), torch.arange(length)

    def drawn(step: int, purpose: Purpose) -> Tensor:
        return uniform(torch.tensor(seed), row, torch.tensor(step), column, purpose)

    tokens = prior(scheduler.process, drawn(0, Purpose.PRIOR))
    for step in range(1, steps + 1):
        t, s = (torch.tensor(1 - done / steps, dtype=torch.float64) for done in (step - 1, step))
        theta = probabilities(logits(model, tokens, t.expand(rows)).flatten(0, 1), MASK)
        theta_z = theta.gather(-1, tokens.flatten().unsqueeze(-1)).view(rows, length).double()
        token = inverse_cdf(theta, drawn(step, Purpose.TOKEN).flatten()).view(rows, length)
        now, then = scheduler.process.masses(t), scheduler.process.masses(s)
        u_route, u_noise = drawn(step, Purpose.ROUTE), drawn(step, Purpose.NOISE_TOKEN)
        tokens = reverse(scheduler.process, tokens, theta_z, token, now, then, u_route, u_noise)
    function = sample if process == "uniform" else sample_hybrid
    output = function(model, scheduler, num_samples=rows, seq_len=length, num_inference_steps=steps, seed=seed)
    assert output.sequences.equal(tokens)
    assert output.nfe > 0


def saved(folder: Path, process: str, time_conditioning: str, **schedule: Any) -> Path:
    """A folder of a network with log-linear sigma and a scheduler of `schedule`."""
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process, **schedule)
    save_checkpoint(folder, network(time_conditioning), tiny_tokenizer(), scheduler)
    return folder


@pytest.mark.parametrize("process", PROCESSES)
def test_a_folder_samples_and_the_head_runs_at_the_asked_positions_alone(process: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(saved(tmp_path / "x", process, "sigma" if process == "uniform" else "t"))
    assert isinstance(checkpoint.denoiser, MaskedLMDenoiser) and checkpoint.denoiser.gathers
    assert checkpoint.max_seq_len == 96
    output = sample_block(checkpoint.denoiser, checkpoint.scheduler, seq_len=12, block_size=5, num_inference_steps=6)
    assert not bool((output.sequences == MASK).any())


def test_a_network_is_told_the_sigma_of_its_scheduler(tmp_path: Path) -> None:
    """Otherwise it would be told another number than in training, without a word."""
    assert load_checkpoint(saved(tmp_path / "a", "uniform", "sigma", sigma_max=5.0)).process == "uniform"
    with pytest.raises(ParameterError, match=r"alpha_schedule must be the scheduler's LogLinear\(eps=0.01\)"):
        load_checkpoint(saved(tmp_path / "b", "uniform", "sigma", eps=1e-2))
    with pytest.raises(ParameterError, match="alpha_schedule must be the scheduler's Cosine"):
        load_checkpoint(saved(tmp_path / "c", "absorbing", "sigma", alpha_schedule="cosine"))
    with pytest.raises(ParameterError, match="time_conditioning must be none or t for the hybrid process"):
        load_checkpoint(saved(tmp_path / "d", "hybrid", "sigma"))
    for time_conditioning in ("none", "t"):
        folder = saved(tmp_path / time_conditioning, "uniform", time_conditioning, alpha_schedule="cosine")
        assert load_checkpoint(folder).process == "uniform"
