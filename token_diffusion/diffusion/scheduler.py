"""TokenDiffusionScheduler: the configuration of a diffusion, saved beside the model, and the calls to train and step with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from ..errors import ParameterError
from .processes import Absorbing, Hybrid, NoiseStates, Process, Uniform, forward, prior, reverse
from .schedules import make_schedule
from .shaping import inverse_cdf, probabilities

FORWARD_PROCESSES = ("absorbing", "uniform", "hybrid")

MIN_T = 1e-12
"""The NELBO's 1/t is evaluated no closer to 0, where float32 would overflow; a float32 or float64 rand() never gets there."""


@dataclass
class TokenDiffusionSchedulerOutput(BaseOutput):
    """`prev_sample` [B, L] int64: the tokens at the next, less noisy time."""

    prev_sample: Tensor


class TokenDiffusionScheduler(SchedulerMixin, ConfigMixin):
    """Discrete diffusion over token ids: absorbing (MDLM), uniform (UDLM) or hybrid (GIDD).

    Stateless but for `timesteps`, which `set_timesteps` fills for callers with a loop of their own; nothing here or in the
    samplers reads it otherwise, so one instance serves every request. It never edits a caller's tensor.

    Args:
        vocab_size: V, the width of the logits.
        mask_token_id: id of [MASK]; never predicted, whatever its logit.
        forward_process: "absorbing", "uniform" or "hybrid".
        alpha_schedule: "log_linear", "linear", "cosine" or "geometric"; without effect for hybrid, which has its own.
        eps: floor of log_linear, alpha(1) = eps. sigma_min, sigma_max: ends of geometric.
        exclude_mask_from_uniform: uniform noise never lands on the mask (N = V - 1 states instead of V).
        p_uniform, gamma, t_eps: hybrid's share of uniform noise at t = 1/2 in [0, 1), the exponent of its bump in time in
            (0, 2], and how far from 0 and 1 its training draws t, in (0, 1/2).
        num_train_timesteps: accepted for old configurations and without effect: time is continuous.

    Raises:
        ParameterError: a value is outside its range.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        vocab_size: int,
        mask_token_id: int,
        forward_process: str = "absorbing",
        alpha_schedule: str = "log_linear",
        eps: float = 1e-3,
        sigma_min: float = 1e-4,
        sigma_max: float = 20.0,
        exclude_mask_from_uniform: bool = True,
        p_uniform: float = 0.1,
        gamma: float = 1.0,
        t_eps: float = 1e-4,
        num_train_timesteps: int = 1000,
    ) -> None:
        if vocab_size < 2:
            raise ParameterError("vocab_size", "be >= 2", vocab_size)
        if not 0 <= mask_token_id < vocab_size:
            raise ParameterError("mask_token_id", f"be in [0, vocab_size = {vocab_size})", mask_token_id)
        if forward_process not in FORWARD_PROCESSES:
            raise ParameterError("forward_process", f"be one of {', '.join(FORWARD_PROCESSES)}", forward_process)
        if not 0 <= p_uniform < 1:
            raise ParameterError("p_uniform", "be in [0, 1)", p_uniform)
        if not 0 < gamma <= 2:
            raise ParameterError("gamma", "be in (0, 2]", gamma)
        if not 0 < t_eps < 0.5:
            raise ParameterError("t_eps", "be in (0, 0.5)", t_eps)
        make_schedule(alpha_schedule, eps=eps, sigma_min=sigma_min, sigma_max=sigma_max)
        self.num_inference_steps: int | None = None
        self.timesteps = torch.empty(0, dtype=torch.float64)

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple[dict[str, Any], ...]:
        """Reads the configurations of the seed's three scheduler classes as well as our own (ConfigMixin's hook)."""
        return super().extract_init_dict(modernise(config_dict), **kwargs)

    @cached_property
    def process(self) -> Process:
        """The forward process as an object: masses, NELBO, noise states."""
        config = self.config
        exclude_mask = config.exclude_mask_from_uniform or config.forward_process != "uniform"
        states = NoiseStates(config.vocab_size, config.mask_token_id, exclude_mask)
        if config.forward_process == "hybrid":
            return Hybrid(states, config.p_uniform, config.gamma)
        schedule = make_schedule(
            config.alpha_schedule, eps=config.eps, sigma_min=config.sigma_min, sigma_max=config.sigma_max
        )
        return Absorbing(schedule, states) if config.forward_process == "absorbing" else Uniform(schedule, states)

    def add_noise(
        self,
        original_samples: Tensor,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """z_t ~ q_t(z | x).

        Args:
            original_samples: x, int64 [B, L].
            noise: the uniforms in [0, 1) that decide, float [2, B, L] (route, token); drawn from `generator` by default.
            timesteps: t in (0, 1], float, [B] or [B, L].

        Returns:
            int64 [B, L], a new tensor.
        """
        t = self._times(timesteps, original_samples)
        if noise is None:
            device = original_samples.device if generator is None else generator.device
            shape = (2, *original_samples.shape)
            noise = torch.rand(shape, dtype=torch.float64, device=device, generator=generator)
        self._check_shape("noise", noise, (2, *original_samples.shape))
        u_route, u_token = noise.to(original_samples.device, torch.float64)
        return forward(self.process, original_samples, t, u_route, u_token)

    def nelbo(self, logits: Tensor, original_samples: Tensor, noisy_samples: Tensor, timesteps: Tensor) -> Tensor:
        """The exact continuous-time bound: nats a token, unreduced.

        Its mean over t ~ U(0, 1] and z_t ~ q_t, summed over the sequence, bounds -log p(x) from above. KL(q_1 || prior) is in
        it at every t. For hybrid it grows towards t = 0 faster than it gets rare: draw small t more often, and weigh them less.

        Args:
            logits: raw network outputs [B, L, V] at `noisy_samples`; the mask's logit is ignored.
            original_samples, noisy_samples: x and z_t, int64 [B, L].
            timesteps: the t of `noisy_samples`, float, [B] or [B, L].

        Returns:
            float32 [B, L] (float64 for float64 logits), differentiable in `logits`, finite for every t in (0, 1].
        """
        _, nelbo = self.loss(logits, original_samples, noisy_samples, timesteps)
        return nelbo

    def loss(
        self,
        logits: Tensor,
        original_samples: Tensor,
        noisy_samples: Tensor,
        timesteps: Tensor,
        weighting: str = "elbo",
    ) -> tuple[Tensor, Tensor]:
        """What to train on beside what to report; the vocabulary is read once for both.

        Args:
            logits, original_samples, noisy_samples, timesteps: as for `nelbo`.
            weighting: "elbo", where the loss is the NELBO; for hybrid also "clip" or "dynamic" (`Hybrid.weights`).

        Returns:
            The loss and the NELBO, each as `nelbo` returns it.

        Raises:
            ParameterError: the process has no such weighting, or a shape or a time is wrong.
        """
        self._check_shape("logits", logits, (*original_samples.shape, self.config.vocab_size))
        self._check_shape("noisy_samples", noisy_samples, original_samples.shape)
        t = self._times(timesteps, original_samples).clamp(min=MIN_T)
        weights = self.process.weights(original_samples, noisy_samples, t)
        if weighting not in weights:
            rule = f"be {' or '.join(weights)} for the {self.process.name} process"
            raise ParameterError("weighting", rule, weighting)
        divergence = self.process.divergence(logits, original_samples, noisy_samples, t).double()
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        prior_kl = self.process.prior_divergence
        loss, nelbo = ((weights[name] * divergence + prior_kl).to(dtype) for name in (weighting, "elbo"))
        return loss, nelbo

    def sample_prior(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
    ) -> Tensor:
        """Tokens at t = 1, int64 of `shape`: all mask (absorbing, hybrid) or uniform over the noise states (uniform)."""
        source = generator.device if generator is not None else torch.device(device or "cpu")
        u = torch.rand(tuple(shape), dtype=torch.float64, device=source, generator=generator)
        return prior(self.process, u.to(device or source))

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Fills `timesteps`: the n times 1, (n-1)/n, ..., 1/n at which the network is asked, float64 on `device`."""
        if num_inference_steps < 1:
            raise ParameterError("num_inference_steps", "be >= 1", num_inference_steps)
        self.num_inference_steps = num_inference_steps
        self.timesteps = (
            1 - torch.arange(num_inference_steps, dtype=torch.float64, device=device) / num_inference_steps
        )

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> TokenDiffusionSchedulerOutput | tuple[Tensor]:
        """One ancestral step, from `timestep` to the next of `timesteps`, from the last one to t = 0.

        Args:
            model_output: raw logits [B, L, V] at `sample`.
            timestep: one of `timesteps`, a number or a tensor with one element.
            sample: z_t, int64 [B, L].
            generator: for the draws (its device's, or the sample's).

        Raises:
            FloatingPointError: there is no distribution in the logits.
        """
        if self.num_inference_steps is None:
            raise ParameterError("timesteps", "be set by set_timesteps before step", None)
        n = self.num_inference_steps
        self._check_shape("model_output", model_output, (*sample.shape, self.config.vocab_size))
        t = torch.as_tensor(timestep, dtype=torch.float64, device=sample.device)
        if t.numel() != 1 or not 0 < t.item() <= 1:
            raise ParameterError("timestep", "be one number in (0, 1]", t.tolist())
        t = t.reshape(())
        s = ((t * n).round() - 1).clamp(min=0) / n
        now, then = self.process.masses(t), self.process.masses(s)
        device = sample.device if generator is None else generator.device
        draws = torch.rand((3, *sample.shape), dtype=torch.float64, device=device, generator=generator)
        theta = probabilities(model_output.flatten(0, 1), self.config.mask_token_id)
        theta_z = theta.gather(-1, sample.flatten().unsqueeze(-1)).view(sample.shape).double()
        u_route, u_token, u_noise = draws.to(sample.device)
        drawn = inverse_cdf(theta, u_token.flatten()).view(sample.shape)
        if bool((drawn < 0).any()):  # it would leave noise as it is
            raise FloatingPointError("model_output is NaN, or -inf for every token")
        prev_sample = reverse(self.process, sample, theta_z, drawn, now, then, u_route, u_noise)
        return TokenDiffusionSchedulerOutput(prev_sample) if return_dict else (prev_sample,)

    @staticmethod
    def _check_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
        if value.shape != shape:
            raise ParameterError(name, f"have the shape {list(shape)}", list(value.shape))

    def _times(self, timesteps: Tensor | None, samples: Tensor) -> Tensor:
        """[B] or [B, L] -> float64 [B, L] (or [B, 1]) on the samples' device; checked on the way."""
        if timesteps is None or not torch.is_tensor(timesteps) or not timesteps.is_floating_point():
            raise ParameterError(
                "timesteps", "be a float tensor with values in (0, 1]", getattr(timesteps, "dtype", timesteps)
            )
        if timesteps.shape not in (samples.shape[:1], samples.shape):
            rule = f"have the shape {list(samples.shape[:1])} or {list(samples.shape)}"
            raise ParameterError("timesteps", rule, list(timesteps.shape))
        t = timesteps.to(samples.device, torch.float64)
        if t.device.type == "cpu" and t.numel() and not (bool((t > 0).all()) and bool((t <= 1).all())):
            raise ParameterError("timesteps", "be in (0, 1]", [t.min().item(), t.max().item()])
        return (t.unsqueeze(-1) if t.dim() == 1 else t).expand(samples.shape)


def modernise(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as the seed's scripts wrote it, in today's terms; one of ours passes unchanged.

    The hybrid process was a class of its own with no `forward_process`, and its default p_uniform was 0.
    """
    config = dict(config)
    if config.get("_class_name") == "HybridTokenDiffusionScheduler":
        config["forward_process"] = "hybrid"
        config.setdefault("p_uniform", 0.0)
        config.pop("clip_noise", None)
    return config
