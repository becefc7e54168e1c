"""The training losses as their authors' code computes them: log-probabilities and posteriors over the whole vocabulary for
every position. Written anew from reading that code; the choices are theirs:

- `mdlm` (kuleshov-group/mdlm, `_subs_parameterization` and `_forward_pass_diffusion`, T = 0): the mask's logit lowered in
  place, log-probabilities [B, L, V] by logsumexp, at positions that show a token overwritten with 0 and -1e6, the clean
  token gathered, weighed with dsigma / expm1(sigma).
- `udlm` (kuleshov-group/discrete-diffusion-guidance, `_forward_pass_diffusion`, `parameterization: d3pm`, T = 0): x_bar of a
  one-hot [B, L, V] and of exp of the log-probabilities, both terms over the vocabulary, N = V. Their alpha is 1 - t while
  their noise is (1 - eps) t; here it is that of the noise, as their own TODO has it, and the mask is given no probability
  (`subs_masking: True`), or there would be no common value to check. Their step also runs the network on the clean text,
  for a reconstruction loss that `zero_recon_loss: True` then leaves out: left out here altogether, which is kinder.
- `gidd` (dvruette/gidd, `GiddLoss` with `HybridDiffusion.probs_at_t`): one-hot [B, L, V] and softmax, both noised in place,
  logarithms in place, `F.kl_div`, the ratio term, weights in float64. It keeps the type of the logits, bfloat16 in theirs.
  They train on the same divergence with other weights, a factor [B, L].

All take t in float32 and may overwrite the logits. gidd's authors compile their step by default; nothing is compiled here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from token_diffusion import TokenDiffusionScheduler

Loss = Callable[[TokenDiffusionScheduler, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(scheduler, logits [B, L, V], clean x [B, L], noisy z [B, L], t [B]) -> nats [B, L], differentiable in the logits."""

NEG_INFINITY = -1e6


def mdlm(scheduler: TokenDiffusionScheduler, logits: Tensor, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """SUBS in continuous time (MDLM, arXiv 2406.07524, eq. 11)."""
    sigma, dsigma = _log_linear(scheduler, t)
    mask, logits = scheduler.config["mask_token_id"], logits.float()
    logits[:, :, mask] += NEG_INFINITY
    logits = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
    shown = z != mask
    logits[shown] = NEG_INFINITY
    logits[shown, z[shown]] = 0
    log_theta = logits.gather(-1, x.unsqueeze(-1)).squeeze(-1)
    return -log_theta * (dsigma / torch.expm1(sigma)).unsqueeze(-1)


def udlm(scheduler: TokenDiffusionScheduler, logits: Tensor, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """The two terms over the vocabulary (UDLM, arXiv 2412.10193, eq. 18). The scheduler's noise may land on the mask."""
    assert not scheduler.config["exclude_mask_from_uniform"]
    sigma, dsigma = _log_linear(scheduler, t)
    logits = logits.float()
    logits[:, :, scheduler.config["mask_token_id"]] += NEG_INFINITY
    log_theta, n = logits.log_softmax(dim=-1), logits.shape[-1]
    alpha = (-sigma).exp()[:, None, None]
    alpha_prime = -dsigma[:, None, None] * alpha
    x_bar = n * alpha * F.one_hot(x, n).float() + 1 - alpha
    x_bar_theta = n * alpha * log_theta.exp() + 1 - alpha
    x_bar_z, x_bar_theta_z = (each.gather(-1, z.unsqueeze(-1)) for each in (x_bar, x_bar_theta))
    term1 = n / x_bar_z - n / x_bar_theta_z
    term2 = (x_bar / x_bar_z) * (x_bar_theta_z.log() - x_bar_theta.log() + x_bar.log() - x_bar_z.log())
    return (alpha_prime / (n * alpha) * (term1 - term2.sum(dim=-1, keepdim=True))).squeeze(-1)


def gidd(scheduler: TokenDiffusionScheduler, logits: Tensor, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """Weight times (KL + ratio term) (GIDD, arXiv 2503.04482, Thm. 3.7)."""
    config, dtype = scheduler.config, logits.dtype
    t = t.float().clamp(config["t_eps"], 1 - config["t_eps"])
    logits[..., config["mask_token_id"]] = torch.finfo(dtype).min
    one_hot, theta = F.one_hot(x, logits.shape[-1]).to(dtype), logits.softmax(-1).to(dtype)
    log_q, log_p = (_noised(scheduler, each, t).log_().clip_(min=NEG_INFINITY) for each in (one_hot, theta))
    kl = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    log_q_z, log_p_z = (each.gather(-1, z.unsqueeze(-1)).squeeze(-1) for each in (log_q, log_p))
    log_ratio = log_q_z - log_p_z
    return _gidd_weights(scheduler, x, z, t) * (kl + log_ratio.exp() - log_ratio - 1)


def _log_linear(scheduler: TokenDiffusionScheduler, t: Tensor) -> tuple[Tensor, Tensor]:
    """sigma(t) = -ln alpha(t) and its derivative, [B]."""
    assert scheduler.config["alpha_schedule"] == "log_linear"
    t, rest = t.float(), 1 - scheduler.config["eps"]
    return -torch.log1p(-rest * t), rest / (1 - rest * t)


def _gidd_b(scheduler: TokenDiffusionScheduler) -> float:
    p_uniform = scheduler.config["p_uniform"]
    return 2 ** scheduler.config["gamma"] * p_uniform / (1 - p_uniform)


def _noised(scheduler: TokenDiffusionScheduler, probabilities: Tensor, t: Tensor) -> Tensor:
    """alpha times probabilities [B, L, V], plus where the noise lands."""
    vocab_size, gamma = probabilities.shape[-1], scheduler.config["gamma"]
    mask = F.one_hot(torch.tensor(scheduler.config["mask_token_id"], device=t.device), vocab_size).float()
    t = t.unsqueeze(-1)
    c = t.pow(gamma / 2) * (1 - t).pow(gamma / 2) * _gidd_b(scheduler)
    beta_pi = (t * mask + c * (1 - mask) / (vocab_size - 1)) / (1 + c)
    noised = probabilities.mul(((1 - t) / (1 + c)).unsqueeze(-1))
    return noised.add_(beta_pi.unsqueeze(1)).to(probabilities.dtype)


def _gidd_weights(scheduler: TokenDiffusionScheduler, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """The factors of the bound for what z is there: x, the mask, or another token; [B, L] in the type of t."""
    s, gamma, n = t.double().unsqueeze(-1), scheduler.config["gamma"], scheduler.config["vocab_size"] - 1
    c = (s * (1 - s)) ** (gamma / 2) * _gidd_b(scheduler)
    c_prime = gamma / 2 * (1 - 2 * s) / (s * (1 - s)) * c
    on_x = (c + (1 - s) * c_prime) / n / ((1 - s) * (1 - s + c / n))
    on_other = (c + (1 - s) * c_prime) / ((1 - s) * c)
    on_mask = 1 / (s * (1 - s))
    is_x, is_mask = (z == x).double(), (z == scheduler.config["mask_token_id"]).double()
    return (is_x * on_x + is_mask * on_mask + (1 - is_x - is_mask) * on_other).to(t.dtype)


LOSSES: dict[str, Loss] = {"absorbing": mdlm, "uniform": udlm, "hybrid": gidd}
"""forward process -> its authors' loss."""
