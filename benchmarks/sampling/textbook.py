"""The samplers as their authors' code runs them: the whole network at every step, a posterior over the vocabulary for
every position, and a draw from it. Written anew from reading that code; the choices are theirs:

- `mdlm` (kuleshov-group/mdlm, `_ddpm_caching_update`, float32): SUBS log-probabilities, exponentiated, times the masses,
  the draw as a race q / -log u over the vocabulary; one more pass with argmax at the end (`noise_removal`). Their default
  predictor `ddpm_cache` keeps theta after a step that changed nothing in the whole batch; `ddpm` does not.
- `udlm` (kuleshov-group/discrete-diffusion-guidance, `_compute_posterior`, float32): one-hot z, the posterior formula over
  the vocabulary, the same race; theta is kept after a step without change (`use_cache`, their default). `duo`
  (s-sahoo/duo, `ancestral` with `use_float64: True`, their defaults) is the same in float64, keeps nothing, and takes one
  more step to s = 0.
- `gidd` (dvruette/gidd, `DenoisingStep`): q_s and q_t over the vocabulary, one-hot z, the draw by inverse CDF. They take the
  softmax twice and compile the step; here it is taken once, which is what compiling makes of it.
- `bd3lm` (kuleshov-group/bd3lms, `_semi_ar_sampler`): the window ends with the active block, so early blocks are cheap; its
  posterior, nucleus and race are float64 and of the block alone; theta is kept after a step without change, and a block
  ends when no mask is left. Without their KV cache, which bidirectional attention does not allow, and without their
  first-hitting option, which takes one sequence at a time. Here SUBS and float64 stay within the block too, which is kinder.
- `diffusers` (the example script of huggingface/diffusers #12911 for block-wise sampling): the whole sequence at every step of
  every block, all steps; top-p at the block's positions; Gumbel noise over the vocabulary at every position.

Where they do one thing in several equivalent ways, the cheaper one is used. Nothing is compiled on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.diffusion.processes import Process
from token_diffusion.samplers.parameters import SamplingParameters

Network = Callable[[Tensor, float], Tensor]
"""Tokens [B, L] and the time -> raw logits [B, L, V], which the loops may overwrite."""

LAST_T = 1e-5
"""Where the grids of mdlm and udlm end (`eps`)."""


@dataclass(frozen=True)
class Task:
    """A request as the loops see it; without `block_size` there is one block."""

    scheduler: TokenDiffusionScheduler
    parameters: SamplingParameters

    @property
    def process(self) -> Process:
        return self.scheduler.process

    @property
    def mask(self) -> int:
        return self.process.states.mask_token_id

    @property
    def num_steps(self) -> int:
        """Grid steps of a block."""
        assert self.parameters.num_inference_steps is not None
        return self.parameters.num_inference_steps

    @property
    def block_size(self) -> int:
        return self.parameters.block_size or self.parameters.seq_len

    @property
    def num_blocks(self) -> int:
        return -(-self.parameters.seq_len // self.block_size)

    def block(self, k: int) -> tuple[int, int]:
        """Positions [start, end) of the block that step k works on."""
        start = min(k // self.num_steps, self.num_blocks - 1) * self.block_size
        return start, min(start + self.block_size, self.parameters.seq_len)


Step = Callable[[Network, Task, Tensor, int, Tensor | None], tuple[Tensor, Tensor | None]]
"""(network, task, z [B, L], step k, theta kept or None) -> (z after it, theta that may be kept if it changed nothing)."""


@dataclass(frozen=True)
class Textbook:
    """extra_steps: after the grid. early_end: a block is over once it holds no mask. caches: it keeps theta while z stays."""

    step: Step
    extra_steps: int = 0
    caches: bool = False
    early_end: bool = False

    def steps(self, task: Task) -> int:
        """All steps, if none is left out."""
        return task.num_steps * task.num_blocks + self.extra_steps

    @torch.inference_mode()
    def run(self, network: Network, task: Task, z: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(steps done, state) after each step, from the prior z [B, L] to the end; steps left out are counted as done."""
        kept, k = None, 0
        while k < self.steps(task):
            start, end = task.block(k)
            if self.early_end and not bool((z[:, start:end] == task.mask).any()):
                k = (k // task.num_steps + 1) * task.num_steps
                continue
            after, theta = self.step(network, task, z, k, kept)
            kept = theta if self.caches and torch.equal(after, z) else None
            z, k = after, k + 1
            yield k, z


def logits_of(network: Network, task: Task, z: Tensor, t: float, start: int = 0) -> Tensor:
    """Float32 logits at positions from `start`, divided by the temperature, the mask out of reach."""
    logits = network(z, t)[:, start:].float()
    if task.parameters.temperature != 1:  # none of them has one; a server that offers it does this
        logits = logits / max(task.parameters.temperature, 1e-6)
    logits[..., task.mask] += -1e6
    return logits


def race(q: Tensor) -> Tensor:
    """One draw for each row of weights q [..., V]: the largest q / e with e ~ Exp(1)."""
    e = 1e-10 - (torch.rand_like(q) + 1e-10).log()
    return (q / e).argmax(-1)


def subs(logits: Tensor, z: Tensor, mask: int) -> Tensor:
    """Log-probabilities [B, L, V]: normalised at masks, all on z where z is a token."""
    logits = logits - logits.logsumexp(-1, keepdim=True)
    fixed = z != mask
    logits[fixed] = -1e6
    logits[fixed, z[fixed]] = 0
    return logits


def nucleus(theta: Tensor, top_p: float) -> Tensor:
    """Probabilities [..., V] outside the nucleus set to 0, the rest renormalised; the most probable token always stays."""
    if top_p == 1:
        return theta
    ranked, order = theta.sort(dim=-1, descending=True)
    keep = ranked.cumsum(-1) <= top_p
    keep[..., 0] = True
    kept = torch.empty_like(theta).scatter_(-1, order, ranked * keep)
    return kept / kept.sum(-1, keepdim=True)


def _noise(task: Task, t: float) -> float:
    """1 - alpha(t)."""
    return 1 - float(task.process.masses(torch.tensor(t, dtype=torch.float64)).alpha)


def mdlm(network: Network, task: Task, z: Tensor, k: int, theta: Tensor | None) -> tuple[Tensor, Tensor | None]:
    t, s = (1 - (1 - LAST_T) * i / task.num_steps for i in (k, k + 1))
    if k == task.num_steps:
        return subs(logits_of(network, task, z, t), z, task.mask).argmax(-1), None
    if theta is None:
        log_theta = subs(logits_of(network, task, z, t), z, task.mask)
        theta = nucleus(log_theta.exp(), task.parameters.top_p)
    move_t, move_s = _noise(task, t), _noise(task, s)
    q = theta * (move_t - move_s)
    q[..., task.mask] = move_s
    after = torch.where(z == task.mask, race(q), z)
    return after, theta


def udlm(network: Network, task: Task, z: Tensor, k: int, theta: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return _uniform(network, task, z, k, theta, torch.float32)


def duo(network: Network, task: Task, z: Tensor, k: int, theta: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return _uniform(network, task, z, k, theta, torch.float64)


def _uniform(
    network: Network, task: Task, z: Tensor, k: int, theta: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    t, s = (max(0.0, 1 - (1 - LAST_T) * i / task.num_steps) for i in (k, k + 1))
    if theta is None:
        theta = nucleus(logits_of(network, task, z, t).log_softmax(-1).to(dtype).exp(), task.parameters.top_p)
    a_t, a_s, n = 1 - _noise(task, t), 1 - _noise(task, s), task.process.states.count
    limit = torch.full((theta.shape[-1],), 1 / n, dtype=dtype, device=z.device)
    limit[task.mask] = 0
    one_hot, a_ts = F.one_hot(z, theta.shape[-1]), a_t / a_s
    stay = a_t * n * theta * one_hot + (a_ts - a_t) * one_hot
    above = stay + (a_s - a_t) * theta + (1 - a_ts) * (1 - a_s) * limit
    after = race(above / (a_t * n * theta.gather(-1, z.unsqueeze(-1)) + 1 - a_t))
    return after, theta


def gidd(network: Network, task: Task, z: Tensor, k: int, theta: Tensor | None) -> tuple[Tensor, Tensor | None]:
    eps = float(task.scheduler.config.t_eps)
    t, s = (eps + (1 - 2 * eps) * max(i, 0) / task.num_steps for i in (task.num_steps - 1 - k, task.num_steps - 2 - k))
    theta = nucleus(logits_of(network, task, z, t).softmax(-1), task.parameters.top_p)
    (a_t, beta_t), (a_s, beta_s) = (_alpha_and_beta(task, time, theta) for time in (t, s))
    q_s, q_t = (theta * alpha + beta for alpha, beta in ((a_s, beta_s), (a_t, beta_t)))
    at_z = (beta_t - a_t / a_s * beta_s)[z].unsqueeze(-1)
    q = (a_t / a_s * F.one_hot(z, theta.shape[-1]) + at_z) * q_s / q_t.gather(-1, z.unsqueeze(-1))
    cdf = q.cumsum(-1)
    cdf[..., -1] = 1 + 1e-4
    u = torch.rand(z.shape, dtype=q.dtype, device=z.device).unsqueeze(-1)
    return torch.searchsorted(cdf, u, right=True).squeeze(-1), None


def _alpha_and_beta(task: Task, t: float, like: Tensor) -> tuple[float, Tensor]:
    """alpha(t), and where the noise lands [V]."""
    masses = task.process.masses(torch.tensor(t, dtype=torch.float64))
    beta = torch.full((like.shape[-1],), float(masses.uniform) / task.process.states.count)
    beta[task.mask] = float(masses.mask)
    return float(masses.alpha), beta.to(like)


def bd3lm(network: Network, task: Task, z: Tensor, k: int, theta: Tensor | None) -> tuple[Tensor, Tensor | None]:
    start, end = task.block(k)
    n, i = task.num_steps, k % task.num_steps
    block = z[:, start:end]
    t = 1 - i / max(n - 1, 1)  # their grid: n points from 1 to 0, yet steps of 1 / n
    if theta is None:
        log_theta = subs(logits_of(network, task, z[:, :end], t, start), block, task.mask)
        theta = nucleus(log_theta.double().exp(), task.parameters.top_p)
    still_masked = max(t - 1 / n, 0.0) / t if t > 0 else 0.0
    q = theta * (1 - still_masked)
    q[..., task.mask] = still_masked
    filled = torch.where(block == task.mask, race(q), block)
    after = torch.cat([z[:, :start], filled, z[:, end:]], dim=1)
    return after, theta


def diffusers_block(network: Network, task: Task, z: Tensor, k: int, theta: Tensor | None) -> tuple[Tensor, None]:
    start, end = task.block(k)
    i, n = k % task.num_steps, task.num_steps
    logits = logits_of(network, task, z, 1 - i / n)
    if task.parameters.top_p < 1:
        kept = nucleus(logits[:, start:end].softmax(-1), task.parameters.top_p)
        logits = torch.cat([logits[:, :start], kept.log(), logits[:, end:]], dim=1)
    gumbel = -torch.log(-torch.log(torch.rand_like(logits).clamp_(1e-30, 1)))
    drawn = (logits + gumbel).argmax(-1)
    unmask = (_noise(task, 1 - i / n) - _noise(task, 1 - (i + 1) / n)) / _noise(task, 1 - i / n)
    position = torch.arange(z.shape[1], device=z.device)
    leaves = (
        (z == task.mask) & (position >= start) & (position < end) & (torch.rand(z.shape, device=z.device) < unmask)
    )
    return torch.where(leaves, drawn, z), None


TEXTBOOKS: dict[str, Textbook] = {
    "mdlm, ddpm_cache": Textbook(mdlm, extra_steps=1, caches=True),
    "mdlm, ddpm": Textbook(mdlm, extra_steps=1),
    "udlm": Textbook(udlm, caches=True),
    "duo, float64": Textbook(duo, extra_steps=1),
    "gidd": Textbook(gidd),
    "bd3lms": Textbook(bd3lm, caches=True, early_end=True),
    "diffusers #12911": Textbook(diffusers_block),
}
