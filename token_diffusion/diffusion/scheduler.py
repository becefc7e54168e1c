"""TokenDiffusionScheduler: the configuration of a diffusion, saved beside the model, and the calls to train and step with it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from ..errors import ParameterError
from .configuration import check_keys, check_values, modernise
from .processes import Absorbing, Hybrid, NoiseStates, Process, Uniform, forward, prior, reverse
from .schedules import make_schedule
from .shaping import inverse_cdf, probabilities
from .values import MAX_STEPS, check_int, check_logits, check_shape, check_shaping, check_times, check_tokens, whole

MIN_T = 1e-12
"""The NELBO's 1/t is evaluated no closer to 0, where float32 would overflow; a float32 or float64 rand() never gets there."""


@dataclass
class TokenDiffusionSchedulerOutput(BaseOutput):
    """What `step` returns, for every process; a tuple of the same three without `return_dict`.

    prev_sample: int64 [B, L], the tokens at the next, less noisy time.
    pred_original_sample: int64 [B, L], the clean tokens that the network was drawn to say, one draw of `pred_logits` at each
        position; where an absorbing sample is no longer masked, the token that it has. (aMUSEd's name for it; the released
        block schedulers of diffusers call the bare draw `sampled_tokens`.)
    pred_logits: float32 [B, L, V] (float64 for float64 logits), the log-probabilities that were sampled from: the mask removed
        (-inf), then temperature, top_k, top_p and min_p applied. Their softmax is the distribution itself. (The name in
        diffusers, where it is what the scheduler made of the network's logits.)
    """

    prev_sample: Tensor
    pred_original_sample: Tensor
    pred_logits: Tensor


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
        ParameterError: a value has the wrong type or is outside its range.
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
        check_values(self.config)
        self.num_inference_steps: int | None = None
        self.timesteps = torch.empty(0, dtype=torch.float64)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler from another's `config`, or from what `scheduler_config.json` holds; keyword arguments replace values.

        Raises:
            ParameterError: a value is wrong or missing, a key is not one of ours, or `_class_name` is another scheduler's.
        """
        if not isinstance(config, dict):
            raise ParameterError(
                "config", "be a dict of a scheduler's settings (from_pretrained reads a folder)", config
            )
        if not return_unused_kwargs:
            check_keys(kwargs, cls._settings(), cls.__name__)
        return super().from_config(config, return_unused_kwargs, **kwargs)

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple[dict[str, Any], ...]:
        """Reads the configurations of the seed's three scheduler classes as well as our own (ConfigMixin's hook)."""
        config, settings = modernise(config_dict), cls._settings()
        config.pop("_use_default_values", None)  # diffusers lists there, to be left out, what came by position, too
        check_keys(config, settings, cls.__name__)
        for name, parameter in settings.items():
            if parameter.default is parameter.empty and name not in config and name not in kwargs:
                raise ParameterError(name, "be in the scheduler's configuration", None)
        return super().extract_init_dict(config, **kwargs)

    @classmethod
    def _settings(cls) -> dict[str, inspect.Parameter]:
        """The arguments, by name."""
        return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])

    @classmethod
    def _get_compatibles(cls) -> list[type[Any]]:
        """Itself alone (behind `compatibles`): no scheduler of diffusers has these processes, or asks at times in (0, 1]."""
        return [cls]

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
        check_tokens("original_samples", original_samples)
        t = check_times("timesteps", timesteps, original_samples)
        if noise is None:
            noise = _uniforms((2, *original_samples.shape), generator, original_samples.device)
        check_shape("noise", noise, (2, *original_samples.shape))
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
            ParameterError: the process has no such weighting, or a shape, a type or a time is wrong.
        """
        for name, tokens in (("original_samples", original_samples), ("noisy_samples", noisy_samples)):
            check_tokens(name, tokens)
        check_logits("logits", logits, original_samples, self.config.vocab_size)
        check_shape("noisy_samples", noisy_samples, original_samples.shape)
        t = check_times("timesteps", timesteps, original_samples).clamp(min=MIN_T)
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
        """Tokens at t = 1, int64 of `shape`: all mask (absorbing, hybrid) or uniform over the noise states (uniform).

        Raises:
            ParameterError: `shape` is no tuple of sizes.
        """
        sizes = tuple(shape) if isinstance(shape, (tuple, list)) else ()
        if not sizes or not all(type(size) is int and size >= 0 for size in sizes):
            raise ParameterError("shape", "be sizes, integers >= 0", shape)
        own = torch.device("cpu") if generator is None else torch.device(getattr(generator, "device", "cpu"))
        return prior(self.process, _uniforms(sizes, generator, torch.device(device or own)))

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Fills `timesteps`: the n times 1, (n-1)/n, ..., 1/n at which the network is asked, float64 on `device`.

        Args:
            num_inference_steps: n in [1, 2^20), an integer of Python or numpy, or a tensor with one.

        Raises:
            ParameterError: it is none. The continuous-time limit, None, has no grid: that is `sample`'s.
        """
        n = whole("num_inference_steps", num_inference_steps)
        check_int("num_inference_steps", n, 1, MAX_STEPS)
        self.num_inference_steps = n
        self.timesteps = 1 - torch.arange(n, dtype=torch.float64, device=device) / n

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
    ) -> TokenDiffusionSchedulerOutput | tuple[Tensor, ...]:
        """One ancestral step, from `timestep` to the next of `timesteps`, from the last one to t = 0.

        Args:
            model_output: raw logits [B, L, V] at `sample`, of any float type and on its device.
            timestep: one of `timesteps`, a number or a tensor with one element; float32's rounding of it is accepted.
            sample: z_t, int64 [B, L].
            generator: for the draws; they are made on its device, whichever that is, by default on the sample's.
            temperature, top_p, top_k, min_p: shape each token's distribution as the samplers do (`SamplingParameters`); the
                defaults leave it as it is.

        Raises:
            ParameterError: an argument has the wrong type, shape, device or range.
            FloatingPointError: there is no distribution in the logits.
        """
        interval = self._interval(timestep)
        check_shaping(temperature, top_p, top_k, min_p)
        check_tokens("sample", sample, self.config.vocab_size)
        check_logits("model_output", model_output, sample, self.config.vocab_size)
        now, then = map(self.process.masses, torch.tensor(interval, dtype=torch.float64, device=sample.device))
        u_route, u_token, u_noise = _uniforms((3, *sample.shape), generator, sample.device)
        theta = self._theta(model_output.flatten(0, 1), temperature, top_p, top_k, min_p)
        theta_z = theta.gather(-1, sample.flatten().unsqueeze(-1)).view(sample.shape).double()
        drawn = inverse_cdf(theta, u_token.flatten()).view(sample.shape)
        if bool((drawn < 0).any()):  # it would leave noise as it is
            raise FloatingPointError("model_output is NaN, or -inf for every token")
        prev_sample = reverse(self.process, sample, theta_z, drawn, now, then, u_route, u_noise)
        if self.config.forward_process == "absorbing":
            drawn = torch.where(sample == self.config.mask_token_id, drawn, sample)
        output = TokenDiffusionSchedulerOutput(prev_sample, drawn, theta.log_().view(model_output.shape))
        return output if return_dict else output.to_tuple()

    def _theta(self, logits: Tensor, temperature: float, top_p: float, top_k: int, min_p: float) -> Tensor:
        """The distribution [n, V] to sample from at logits [n, V]."""

        def each(value: float, neutral: float, dtype: torch.dtype) -> Tensor | None:
            return None if value == neutral else torch.full(logits.shape[:1], value, dtype=dtype, device=logits.device)

        return probabilities(
            logits,
            self.config.mask_token_id,
            each(temperature, 1, torch.float64),
            each(top_k, 0, torch.int64),
            each(top_p, 1, torch.float64),
            each(min_p, 0, torch.float64),
            top_k,
        )

    def _interval(self, timestep: float | Tensor) -> tuple[float, float]:
        """The grid's time at `timestep`, and the one that a step leads to."""
        if self.num_inference_steps is None:
            raise ParameterError("timesteps", "be set by set_timesteps before step", None)
        n = self.num_inference_steps
        t = timestep.tolist() if hasattr(timestep, "tolist") else timestep  # torch's and numpy's numbers as Python's
        t = t[0] if isinstance(t, list) and len(t) == 1 else t
        if isinstance(t, bool) or not isinstance(t, (int, float)) or not 0 < t <= 1:
            raise ParameterError("timestep", "be one number in (0, 1]", t)
        done = round((1 - t) * n)
        if done == n or abs(1 - done / n - t) > torch.finfo(torch.float32).eps:
            raise ParameterError("timestep", f"be one of the {n} timesteps 1, 1 - 1/{n}, ... of set_timesteps", t)
        return 1 - done / n, 1 - (done + 1) / n


def _uniforms(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """float64 in [0, 1) of `shape` on `device`, drawn where the generator is."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ParameterError("generator", "be one torch.Generator", generator)
    source = device if generator is None else generator.device
    return torch.rand(shape, dtype=torch.float64, device=source, generator=generator).to(device)
