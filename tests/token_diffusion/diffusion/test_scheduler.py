from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.laws import chi_square_p, counts, make_law
from token_diffusion import ParameterError, TokenDiffusionScheduler
from token_diffusion.diffusion.configuration import CLASS_NAMES
from token_diffusion.diffusion.schedules import ALPHA_SCHEDULES
from token_diffusion.samplers.draws import shaped
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.samplers.rows import SampleRows, make_rows

PROCESSES = ["absorbing", "uniform", "hybrid"]
KINDS = [("absorbing", name) for name in ALPHA_SCHEDULES] + [("uniform", name) for name in ALPHA_SCHEDULES]
KINDS += [("hybrid", "log_linear")]


@pytest.mark.parametrize(("process", "schedule"), KINDS)
@pytest.mark.parametrize("mask", [0, 1, 3])
def test_nelbo_of_the_exact_denoiser_is_the_entropy(process: str, schedule: str, mask: int) -> None:
    """Law 1 of the design. Stratified times keep the standard error, which the bound of 4 is in, an upper estimate."""
    law = make_law(4, 3, mask, seed=mask)
    scheduler = TokenDiffusionScheduler(4, mask, forward_process=process, alpha_schedule=schedule)
    generator, count = torch.Generator().manual_seed(11), 40_000
    x = law.draw(count, generator)
    t = (torch.arange(count) + torch.rand(count, dtype=torch.float64, generator=generator)) / count
    t = t.clamp(min=1e-9)[torch.randperm(count, generator=generator)]
    z = scheduler.add_noise(x, timesteps=t, generator=generator)
    value = scheduler.nelbo(law.denoiser(scheduler)(z, t), x, z, t).sum(1)
    error = value.std().item() / count**0.5
    assert abs(value.mean().item() - law.entropy) < 4 * error
    assert error < 0.15 * law.entropy  # an estimate that could not fail would prove nothing


@pytest.mark.parametrize(("process", "schedule"), KINDS)
@pytest.mark.parametrize("floor", [1e-3, 0.2])
def test_nelbo_by_quadrature_lacks_nothing(process: str, schedule: str, floor: float) -> None:
    """No Monte-Carlo: every noisy sequence with its probability, t on a grid that is fine towards both ends.

    Neither what eps and e^-sigma_max leave at t = 1 is lost, nor what sigma_min and t_eps would leave out at t = 0. What lies
    between bound and entropy is how far the law of z_1 is from the prior that stands for it: nothing but for uniform.
    """
    law = make_law(4, 2, 3, seed=5)
    ends = {"eps": floor, "sigma_min": floor, "sigma_max": 2.0, "t_eps": floor}
    scheduler = TokenDiffusionScheduler(4, 3, forward_process=process, alpha_schedule=schedule, **ends)
    states, points = scheduler.process.states, 4000
    u = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    t, dt = u**4 * (35 - 84 * u + 70 * u**2 - 20 * u**3), 140 * u**3 * (1 - u) ** 3 / points
    masses, end = scheduler.process.masses(t), scheduler.process.masses(torch.ones(1, dtype=torch.float64))
    total, missed = 0.0, 0.0
    for noisy in itertools.product(range(4), repeat=2):
        z = torch.tensor([noisy]).expand(points, -1)
        landed = states.landing(z, type(masses)(*(mass.unsqueeze(1) for mass in masses)))
        logits, last = law.denoiser(scheduler)(z, t), 0.0
        for x, probability in zip(law.sequences, law.probability, strict=True):
            q = (landed + masses.alpha.unsqueeze(1) * (z == x)).prod(1)
            value = scheduler.nelbo(logits, x.expand(points, -1), z, t).sum(1)
            total += (probability * (q * torch.where(q > 0, value, 0.0) * dt).sum()).item()
            last += (probability * (states.landing(z[:1], end) + end.alpha * (z[:1] == x)).prod()).item()
        if process == "uniform" and last > 0:
            missed += last * math.log(last * states.count**2)
    assert missed < (1e-5 if floor == 1e-3 and schedule != "geometric" else 0.1)
    assert total == pytest.approx(law.entropy + missed, rel=1e-4)


@pytest.mark.parametrize(("process", "schedule"), KINDS)
@pytest.mark.parametrize("vocab_size", [30, 30_000])
def test_nelbo_and_its_gradient_are_finite_for_every_time(process: str, schedule: str, vocab_size: int) -> None:
    scheduler = TokenDiffusionScheduler(vocab_size, 5, forward_process=process, alpha_schedule=schedule)
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(6, 9, vocab_size, generator=generator) * 8).requires_grad_()
    x = torch.randint(6, 30, (6, 9), generator=generator)
    t = torch.tensor([1e-38, 1e-20, 1e-6, 0.5, 1 - 1e-7, 1.0])
    noisy = [
        scheduler.add_noise(x, timesteps=t, generator=generator),
        torch.randint(6, 30, (6, 9), generator=generator),
    ]
    if process != "uniform":
        noisy.append(torch.full_like(x, 5))
    for z in noisy:
        value = scheduler.nelbo(logits, x, z, t)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert value.dtype == torch.float32
        assert value.isfinite().all() and gradient.isfinite().all()
        assert value.min() > -1e-3


@pytest.mark.parametrize("weighting", ["elbo", "clip", "dynamic"])
def test_loss_is_the_nelbo_with_other_weights(weighting: str) -> None:
    """And its gradient too, for every time; what is reported beside it is the NELBO whatever the weighting."""
    scheduler = TokenDiffusionScheduler(30, 5, forward_process="hybrid")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, 30, dtype=torch.float64, generator=generator).requires_grad_()
    x = torch.randint(6, 30, (4, 9), generator=generator)
    t = torch.tensor([1e-30, 0.2, 0.9, 1.0], dtype=torch.float64)
    z = torch.where(torch.arange(9) < 3, 5, torch.where(torch.arange(9) < 6, x, x.roll(1, 0)))
    loss, nelbo = scheduler.loss(logits, x, z, timesteps=t, weighting=weighting)
    assert nelbo.equal(scheduler.nelbo(logits, x, z, t)) and (weighting != "elbo" or loss.equal(nelbo))
    weights = scheduler.process.weights(x, z, t.unsqueeze(1).expand(4, 9))
    ratio = weights[weighting] / weights["elbo"]
    torch.testing.assert_close(loss, ratio * nelbo)
    gradients = [torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (loss, ratio * nelbo)]
    torch.testing.assert_close(*gradients)
    assert loss.isfinite().all() and gradients[0].isfinite().all()
    assert scheduler.loss(logits.float(), x, z, t, weighting)[0].dtype == torch.float32


@pytest.mark.parametrize("process", PROCESSES)
def test_nelbo_ignores_the_mask_logit(process: str) -> None:
    scheduler = TokenDiffusionScheduler(7, 3, forward_process=process)
    x = torch.tensor([[0, 1, 2, 4]])
    z = torch.tensor([[0, 5, 2, 6]]) if process == "uniform" else torch.tensor([[0, 3, 3, 6]])
    logits, t = torch.randn(1, 4, 7), torch.tensor([0.6])
    value = scheduler.nelbo(logits, x, z, t)
    logits[..., 3] = 1e4
    torch.testing.assert_close(scheduler.nelbo(logits, x, z, t), value)


@pytest.mark.parametrize("process", PROCESSES)
def test_add_noise_keeps_the_original_and_repeats_with_its_generator(process: str) -> None:
    scheduler = TokenDiffusionScheduler(50, 7, forward_process=process)
    x = torch.randint(8, 50, (4, 100))
    kept = x.clone()
    for t in (torch.tensor([0.01, 0.3, 0.7, 1.0]), torch.rand(4, 100).clamp(min=0.01)):
        z = scheduler.add_noise(x, timesteps=t, generator=torch.Generator().manual_seed(3))
        again = scheduler.add_noise(
            original_samples=x, noise=None, timesteps=t, generator=torch.Generator().manual_seed(3)
        )
        assert z.equal(again) and z.dtype == torch.int64 and x.equal(kept)
    assert process != "absorbing" or bool((scheduler.add_noise(x, timesteps=torch.ones(4)) == 7).all())


@pytest.mark.parametrize("process", PROCESSES)
def test_a_loop_of_ones_own_follows_the_law(process: str) -> None:
    """`sample_prior`, `set_timesteps`, `timesteps`, `step` as a diffusers user writes them, against the exact law."""
    law, count = make_law(3, 2, 0, seed=2), 4000
    scheduler = TokenDiffusionScheduler(3, 0, forward_process=process)
    generator, denoiser = torch.Generator().manual_seed(5), law.denoiser(scheduler)
    sample = scheduler.sample_prior((count, 2), generator=generator)
    scheduler.set_timesteps(150)
    assert len(scheduler.timesteps) == 150 and scheduler.timesteps[0] == 1 and (scheduler.timesteps.diff() < 0).all()
    for t in scheduler.timesteps:
        logits = denoiser(sample, t.expand(count))
        kept = logits.clone(), sample.clone()
        sample = scheduler.step(logits, t, sample, generator=generator).prev_sample
        assert logits.equal(kept[0])
    assert not bool((sample == 0).any())
    assert chi_square_p(counts(law, sample), law.probability) > 0.001


@pytest.mark.parametrize("as_given", [torch.Tensor.float, torch.Tensor.numpy, torch.Tensor.tolist])
def test_step_takes_float32_logits_timesteps_and_gives_a_tuple(as_given: Callable[[Tensor], Any]) -> None:
    scheduler = TokenDiffusionScheduler(9, 8)
    scheduler.set_timesteps(3)
    sample = scheduler.sample_prior((2, 5))
    for t in as_given(scheduler.timesteps):
        sample, original, logits = scheduler.step(torch.randn(2, 5, 9), t, sample, return_dict=False)
    assert sample.dtype == original.dtype == torch.int64 and not bool((sample == 8).any())
    assert sample.equal(original) and logits.dtype == torch.float32 and logits.shape == (2, 5, 9)


@pytest.mark.parametrize("count", [5, np.int64(5), np.uint8(5), torch.tensor(5), torch.tensor([5], dtype=torch.int32)])
def test_the_number_of_steps_may_be_any_integer(count: Any) -> None:
    scheduler = TokenDiffusionScheduler(9, 8)
    scheduler.set_timesteps(count)
    assert scheduler.timesteps.tolist() == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert type(scheduler.num_inference_steps) is int and scheduler.timesteps.dtype == torch.float64


@pytest.mark.parametrize(
    "count", [None, 2.5, 8.0, "8", True, np.bool_(True), torch.tensor(True), torch.tensor(2.0), [4]]
)
def test_what_is_no_number_of_steps_is_named(count: Any) -> None:
    with pytest.raises(ParameterError) as raised:
        TokenDiffusionScheduler(9, 8).set_timesteps(count)
    assert str(raised.value) == f"num_inference_steps must be an integer, got {count!r}"


@pytest.mark.parametrize("count", [0, -1, 2**20, np.int64(-3)])
def test_a_number_of_steps_out_of_range_is_named(count: Any) -> None:
    with pytest.raises(ParameterError, match=r"num_inference_steps must be in \[1, 1048576\), got"):
        TokenDiffusionScheduler(9, 8).set_timesteps(count)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(
    "shaping", [{}, {"temperature": 0.6}, {"top_p": 0.7}, {"top_k": 3}, {"min_p": 0.3}, {"temperature": 0}]
)
def test_step_shapes_as_the_samplers_do(process: str, shaping: dict[str, Any]) -> None:
    """pred_logits against the very function that the samplers call; and what is drawn has that distribution."""
    scheduler = TokenDiffusionScheduler(9, 8, forward_process=process)
    scheduler.set_timesteps(4)
    logits = torch.randn(1, 1, 9, generator=torch.Generator().manual_seed(1)) * 2
    count = 4000
    rows = make_rows([-1], SamplingParameters(1, count, **shaping), SampleRows)
    expected = shaped(rows, torch.arange(count), logits[0].expand(count, -1), 8)
    generator = torch.Generator().manual_seed(3)
    sample = torch.full((count, 1), 8 if process != "uniform" else 2)
    output = scheduler.step(logits.expand(count, 1, 9), 0.25, sample, generator, **shaping)
    assert output.pred_logits.softmax(-1)[:, 0].allclose(expected, atol=1e-6)
    assert output.pred_logits[0, 0, 8] == -torch.inf
    for tokens in (output.pred_original_sample, output.prev_sample):  # at t = 0.25 of 4 steps they lead to t = 0
        if process == "uniform" and tokens is output.prev_sample:
            continue  # there the draw is weighed with what was at the place before
        observed = tokens.flatten().bincount(minlength=9).double()
        if shaping.get("temperature") == 0:
            assert observed.equal(expected.sum(0).double())
        else:
            assert chi_square_p(observed, expected[0].double()) > 1e-4


def test_pred_original_sample_keeps_what_is_no_longer_masked() -> None:
    scheduler = TokenDiffusionScheduler(9, 8)
    scheduler.set_timesteps(4)
    sample = torch.tensor([[8, 3, 8, 0]])
    logits = torch.zeros(1, 4, 9).index_fill_(2, torch.tensor([5]), 30.0)
    for t in scheduler.timesteps:
        output = scheduler.step(logits, t, sample)
        assert output.pred_original_sample.tolist() == [[5, 3, 5, 0]]
        sample = output.prev_sample
    assert sample.tolist() == [[5, 3, 5, 0]]


def test_the_scheduler_is_compatible_with_itself_alone() -> None:
    scheduler = TokenDiffusionScheduler(9, 8, "uniform", alpha_schedule="cosine")
    assert scheduler.compatibles == [TokenDiffusionScheduler]
    again = TokenDiffusionScheduler.from_config(scheduler.config)
    assert again.process == scheduler.process
    other = TokenDiffusionScheduler.from_config(scheduler.config, forward_process="hybrid")
    assert other.config.forward_process == "hybrid" and scheduler.config.forward_process == "uniform"
    _, unused = TokenDiffusionScheduler.from_config(scheduler.config, return_unused_kwargs=True, torch_dtype=None)
    assert "torch_dtype" in unused


def test_saved_and_loaded(tmp_path: Path) -> None:
    scheduler = TokenDiffusionScheduler(11, 4, forward_process="hybrid", p_uniform=0.25, gamma=1.5, t_eps=1e-3)
    scheduler.save_pretrained(tmp_path)
    loaded = TokenDiffusionScheduler.from_pretrained(tmp_path)
    assert loaded.process == scheduler.process


@pytest.mark.parametrize(
    ("saved", "process", "p_uniform"),
    [
        (
            {"_class_name": "TokenDiffusionScheduler", "forward_process": "uniform", "num_train_timesteps": 1000},
            "uniform",
            0.1,
        ),
        ({"_class_name": "BlockTokenDiffusionScheduler", "eps": 0.001, "num_train_timesteps": 500}, "absorbing", 0.1),
        (
            {"_class_name": "HybridTokenDiffusionScheduler", "t_eps": 1e-4, "clip_noise": 20.0, "gamma": 1.0},
            "hybrid",
            0.0,
        ),
        ({"_class_name": "HybridTokenDiffusionScheduler", "p_uniform": 0.2}, "hybrid", 0.2),
    ],
)
def test_configurations_of_the_seeds_scripts_load(
    tmp_path: Path, saved: dict[str, object], process: str, p_uniform: float
) -> None:
    saved = {"_diffusers_version": "0.37.0.dev0", "vocab_size": 12, "mask_token_id": 4, **saved}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(saved))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = TokenDiffusionScheduler.from_pretrained(tmp_path)
    assert scheduler.config.forward_process == process and scheduler.config.p_uniform == p_uniform
    assert scheduler.process.states.mask_token_id == 4


BAD = [
    ("vocab_size", 1, "be >= 2"),
    ("vocab_size", 9.0, "be an integer"),
    ("vocab_size", "9", "be an integer"),
    ("vocab_size", True, "be an integer"),
    ("vocab_size", None, "be an integer"),
    ("mask_token_id", 9, "be in [0, vocab_size = 9)"),
    ("mask_token_id", -1, "be >= 0"),
    ("mask_token_id", 1.0, "be an integer"),
    ("forward_process", "gaussian", "be one of absorbing, uniform, hybrid"),
    ("forward_process", ["uniform"], "be one of absorbing, uniform, hybrid"),
    ("forward_process", None, "be one of absorbing, uniform, hybrid"),
    ("alpha_schedule", "quadratic", "be one of log_linear, linear, cosine, geometric"),
    ("alpha_schedule", {}, "be one of log_linear, linear, cosine, geometric"),
    ("eps", "0.001", "be a finite number"),
    ("eps", float("nan"), "be a finite number"),
    ("eps", 10**400, "be a finite number"),
    ("eps", True, "be a finite number"),
    ("eps", 1.0, "be in (0, 1)"),
    ("sigma_min", float("nan"), "be a finite number"),
    ("sigma_max", float("inf"), "be a finite number"),
    ("sigma_max", None, "be a finite number"),
    ("exclude_mask_from_uniform", "no", "be true or false"),
    ("exclude_mask_from_uniform", 0, "be true or false"),
    ("exclude_mask_from_uniform", None, "be true or false"),
    ("p_uniform", 1.0, "be in [0, 1)"),
    ("p_uniform", float("nan"), "be a finite number"),
    ("p_uniform", False, "be a finite number"),
    ("gamma", 2.5, "be in (0, 2]"),
    ("gamma", "1", "be a finite number"),
    ("t_eps", 0.5, "be in (0, 0.5)"),
    ("t_eps", float("-inf"), "be a finite number"),
    ("num_train_timesteps", 0, "be >= 1"),
    ("num_train_timesteps", 1000.0, "be an integer"),
]


@pytest.mark.parametrize(("name", "value", "rule"), BAD)
def test_bad_configurations_are_named(tmp_path: Path, name: str, value: object, rule: str) -> None:
    """By the constructor, from a dict and from a folder alike."""
    config = {"vocab_size": 9, "mask_token_id": 1, name: value}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    ways: list[Callable[[], Any]] = [
        lambda: TokenDiffusionScheduler(**config),
        lambda: TokenDiffusionScheduler.from_config(config),
        lambda: TokenDiffusionScheduler.from_pretrained(tmp_path),
    ]
    for way in ways:
        with pytest.raises(ParameterError) as raised:
            way()
        assert str(raised.value) == f"{name} must {rule}, got {value!r}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"alpha_shedule": "cosine"},
            "alpha_shedule must be a setting of the scheduler (alpha_schedule?), got 'cosine'",
        ),
        ({"zeal": None}, "zeal must be a setting of the scheduler, got None"),
        ({"clip_noise": 20.0}, "clip_noise must be a setting of the scheduler, got 20.0"),
        (
            {"_class_name": "DDPMScheduler"},
            f"_class_name must be one of {', '.join(CLASS_NAMES)}, got 'DDPMScheduler'",
        ),
        ({"_class_name": None}, f"_class_name must be one of {', '.join(CLASS_NAMES)}, got None"),
        ({"_class_name": ["a", "B"]}, f"_class_name must be one of {', '.join(CLASS_NAMES)}, got ['a', 'B']"),
        ({"mask_token_id": ...}, "mask_token_id must be in the scheduler's configuration, got None"),
    ],
)
def test_keys_that_are_not_ours_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A misspelt key would silently be another model; `...` takes one away."""
    config = {"_class_name": "TokenDiffusionScheduler", "vocab_size": 9, "mask_token_id": 1, **change}
    config = {key: value for key, value in config.items() if value is not ...}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    for way in (
        lambda: TokenDiffusionScheduler.from_config(config),
        lambda: TokenDiffusionScheduler.from_pretrained(tmp_path),
    ):
        with pytest.raises(ParameterError) as raised:
            way()
        assert str(raised.value) == message


def test_misspelt_arguments_and_what_is_no_configuration_are_named(tmp_path: Path) -> None:
    TokenDiffusionScheduler(9, 1).save_pretrained(tmp_path)
    with pytest.raises(ParameterError, match="alpha_shedule must be a setting"):
        TokenDiffusionScheduler.from_pretrained(tmp_path, alpha_shedule="cosine")
    (tmp_path / "scheduler_config.json").write_text("[1]")
    with pytest.raises(ParameterError, match=r"config must be a dict of a scheduler's settings .*, got \[1\]"):
        TokenDiffusionScheduler.from_pretrained(tmp_path)
    with pytest.raises(ParameterError, match="config must be a dict"):
        TokenDiffusionScheduler.from_config(None)
    with pytest.raises(ParameterError, match="vocab_size must be in the scheduler's configuration"):
        TokenDiffusionScheduler.from_config({})


def test_what_diffusers_adds_to_a_configuration_is_read(tmp_path: Path) -> None:
    config = {"vocab_size": 9, "mask_token_id": 1, "_diffusers_version": "9.9", "_name_or_path": "x"}
    config |= {"auto_map": {}, "quantization_config": None, "_use_default_values": ["eps"]}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    assert TokenDiffusionScheduler.from_pretrained(tmp_path).config.eps == 1e-3


def test_bad_calls_are_named() -> None:
    scheduler = TokenDiffusionScheduler(9, 1)
    x = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ParameterError, match=r"timesteps must be in \(0, 1\]"):
        scheduler.add_noise(x, timesteps=torch.tensor([0.0, 0.5]))
    with pytest.raises(ParameterError, match="timesteps must be a float tensor"):
        scheduler.add_noise(x, timesteps=torch.tensor([1, 2]))
    with pytest.raises(ParameterError, match=r"timesteps must have the shape \[2\] or \[2, 3\], got \[3\]"):
        scheduler.add_noise(x, timesteps=torch.ones(3))
    with pytest.raises(ParameterError, match=r"logits must have the shape \[2, 3, 9\], got \[2, 3, 8\]"):
        scheduler.nelbo(torch.zeros(2, 3, 8), x, x, torch.ones(2))
    rule = "weighting must be elbo for the absorbing process, got 'dynamic'"
    with pytest.raises(ParameterError, match=rule):
        scheduler.loss(torch.zeros(2, 3, 9), x, x, torch.ones(2), weighting="dynamic")
    hybrid = TokenDiffusionScheduler(9, 1, forward_process="hybrid")
    with pytest.raises(ParameterError, match="be elbo or clip or dynamic for the hybrid process, got 'raw'"):
        hybrid.loss(torch.zeros(2, 3, 9), x, x, torch.ones(2), weighting="raw")
    with pytest.raises(ParameterError, match="set by set_timesteps"):
        scheduler.step(torch.zeros(2, 3, 9), 1.0, x)
    scheduler.set_timesteps(4)
    for t in (0.0, 900, float("nan")):
        with pytest.raises(ParameterError, match=r"timestep must be one number in \(0, 1\]"):
            scheduler.step(torch.zeros(2, 3, 9), t, x)
    with pytest.raises(ParameterError, match=r"model_output must have the shape \[2, 3, 9\], got \[2, 3, 8\]"):
        scheduler.step(torch.zeros(2, 3, 8), 1.0, x)
    off_grid: list[Any] = [0.6, torch.tensor([0.6]), 0.75 + 1e-6, 0.1, 1e-9]
    for t in off_grid:
        with pytest.raises(
            ParameterError, match=r"timestep must be one of the 4 timesteps 1, 1 - 1/4, ... of set_time"
        ):
            scheduler.step(torch.zeros(2, 3, 9), t, x)
    no_times: list[Any] = [True, "1", None, torch.ones(2), [[1.0]]]
    for t in no_times:
        with pytest.raises(ParameterError, match=r"timestep must be one number in \(0, 1\]"):
            scheduler.step(torch.zeros(2, 3, 9), t, x)
    with pytest.raises(ParameterError, match=r"noise must have the shape \[2, 2, 3\], got \[2, 3\]"):
        scheduler.add_noise(x, torch.rand(2, 3), torch.ones(2))
    with pytest.raises(ParameterError, match=r"noisy_samples must have the shape \[2, 3\], got \[1, 3\]"):
        scheduler.nelbo(torch.zeros(2, 3, 9), x, x[:1], torch.ones(2))
    with pytest.raises(ParameterError, match=r"logits must be a float tensor, got torch\.int64"):
        scheduler.nelbo(torch.zeros(2, 3, 9, dtype=torch.int64), x, x, torch.ones(2))
    with pytest.raises(ParameterError, match="logits must be on the sample's device cpu, got 'meta'"):
        scheduler.nelbo(torch.zeros(2, 3, 9, device="meta"), x, x, torch.ones(2))
    for name, samples in (("original_samples", (x.int(), x)), ("noisy_samples", (x, x.int()))):
        with pytest.raises(ParameterError, match=rf"{name} must be an int64 tensor of the shape \[B, L\]"):
            scheduler.nelbo(torch.zeros(2, 3, 9), *samples, torch.ones(2))
    no_shapes: list[Any] = ["ab", 3, (), (2, -1), (2, 3.0), None]
    for shape in no_shapes:
        with pytest.raises(ParameterError, match="shape must be sizes, integers >= 0"):
            scheduler.sample_prior(shape)
    assert scheduler.sample_prior([2, 3]).equal(scheduler.sample_prior(torch.Size([2, 3])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sample": torch.zeros(2, 3)},
            "sample must be an int64 tensor of the shape [B, L], got (torch.float32, [2, 3])",
        ),
        (
            {"sample": torch.zeros(3).long()},
            "sample must be an int64 tensor of the shape [B, L], got (torch.int64, [3])",
        ),
        ({"sample": [[0, 0, 0]]}, "sample must be an int64 tensor of the shape [B, L], got 'list'"),
        ({"sample": torch.full((2, 3), 9)}, "sample must hold token ids in [0, 9), got 9"),
        ({"sample": torch.full((2, 3), -1)}, "sample must hold token ids in [0, 9), got -1"),
        ({"model_output": None}, "model_output must be a tensor, got 'NoneType'"),
        ({"model_output": torch.zeros(2, 3, 9).long()}, "model_output must be a float tensor, got torch.int64"),
        (
            {"model_output": torch.zeros(2, 3, 9, device="meta")},
            "model_output must be on the sample's device cpu, got 'meta'",
        ),
        ({"model_output": torch.zeros(1, 3, 9)}, "model_output must have the shape [2, 3, 9], got [1, 3, 9]"),
        ({"generator": [torch.Generator()]}, "generator must be one torch.Generator, got [<"),
        ({"generator": 3}, "generator must be one torch.Generator, got 3"),
        ({"temperature": -1.0}, "temperature must be >= 0, got -1.0"),
        ({"temperature": 10**400}, "temperature must be a finite number, got 1000"),
        ({"top_p": 0.0}, "top_p must be in (0, 1], got 0.0"),
        ({"min_p": 1.1}, "min_p must be in [0, 1], got 1.1"),
        ({"top_k": 1.0}, "top_k must be an integer, got 1.0"),
    ],
)
def test_bad_arguments_of_step_are_named(change: dict[str, Any], message: str) -> None:
    scheduler = TokenDiffusionScheduler(9, 1)
    scheduler.set_timesteps(4)
    arguments = {"model_output": torch.zeros(2, 3, 9), "timestep": 1.0, "sample": torch.ones(2, 3).long()}
    with pytest.raises(ParameterError) as raised:
        scheduler.step(**{**arguments, **change})
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("call", ["add_noise", "sample_prior"])
def test_a_generator_that_is_none_is_named(call: str) -> None:
    scheduler = TokenDiffusionScheduler(9, 1)
    arguments: dict[str, Any] = {"shape": (2, 3)}
    if call == "add_noise":
        arguments = {"original_samples": torch.zeros(2, 3).long(), "timesteps": torch.ones(2)}
    with pytest.raises(ParameterError, match=r"generator must be one torch.Generator, got \["):
        getattr(scheduler, call)(**arguments, generator=[torch.Generator()])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_generator_of_another_device_draws_where_it_is() -> None:
    """So one seed gives the same step whichever device the sample is on."""
    scheduler = TokenDiffusionScheduler(9, 1)
    scheduler.set_timesteps(4, device="cuda")
    logits, sample = torch.randn(2, 3, 9, dtype=torch.float64), torch.ones(2, 3).long()
    one, other = (
        scheduler.step(logits.to(device), scheduler.timesteps[-1], sample.to(device), torch.Generator().manual_seed(1))
        for device in ("cpu", "cuda")
    )
    assert other.prev_sample.device.type == "cuda" and one.prev_sample.equal(other.prev_sample.cpu())
    on_device = scheduler.step(logits, 0.25, sample, torch.Generator("cuda").manual_seed(1))
    assert on_device.prev_sample.device.type == "cpu"
