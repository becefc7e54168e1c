"""The transformer's parts: adaptive norms, attention, MLP, residual branches, the embedded time."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .config import TokenDiffusionConfig

MIN_ALPHA = 1e-9
"""sigma = -ln alpha is fed as if alpha were never below it: 20.7 at most."""
TIME_FEATURES = 256


class Modulation(nn.Linear):
    """Zero before training: what it modulates is then what it is without."""


class Output(nn.Linear):
    """Ends a residual branch; starts the smaller the more branches there are."""


class AdaptiveLayerNorm(nn.LayerNorm):
    """LayerNorm, then scale and shift by the condition, if there is one: norm(x) (1 + scale(c)) + shift(c)."""

    def __init__(self, config: TokenDiffusionConfig) -> None:
        super().__init__(config.hidden_size, eps=config.norm_eps, bias=False)
        self.modulation = Modulation(config.cond_dim, 2 * config.hidden_size) if config.adaptive else None

    def forward(self, hidden: Tensor, condition: Tensor | None = None) -> Tensor:
        normal = super().forward(hidden)
        if self.modulation is None:
            return normal
        scale, shift = self.modulation(condition).chunk(2, -1)
        return normal * (1 + scale) + shift


class Attention(nn.Module):
    """Every valid position attends to every valid position."""

    def __init__(self, config: TokenDiffusionConfig) -> None:
        super().__init__()
        self.num_heads, self.dropout = config.num_attention_heads, config.dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.output = Output(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(hidden).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            rotate(q, *rotation), rotate(k, *rotation), v, attn_mask=mask, dropout_p=dropout
        )
        return self.output(mixed.transpose(1, 2).flatten(2))


class GELUMLP(nn.Module):
    """Two layers and a GELU between them, the tanh kind, as in DiT."""

    def __init__(self, config: TokenDiffusionConfig) -> None:
        super().__init__()
        self.input = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = Output(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.output(F.gelu(self.input(hidden), approximate="tanh"))


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: TokenDiffusionConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.output = Output(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_up(hidden).chunk(2, -1)
        return self.output(F.silu(gate) * up)


class Residual(nn.Module):
    """x + (offset + gate(c)) branch(norm(x, c)); without a condition x + branch(norm(x)). gate(c) is 0 before training."""

    def __init__(self, config: TokenDiffusionConfig, branch: nn.Module) -> None:
        super().__init__()
        self.norm, self.branch = AdaptiveLayerNorm(config), branch
        self.dropout = nn.Dropout(config.dropout)
        self.gate_offset = config.gate_offset
        self.gate = Modulation(config.cond_dim, config.hidden_size) if config.adaptive else None

    def forward(self, hidden: Tensor, condition: Tensor | None, *context: Any) -> Tensor:
        update = self.dropout(self.branch(self.norm(hidden, condition), *context))
        return hidden + (update if self.gate is None else (self.gate_offset + self.gate(condition)) * update)


class Block(GradientCheckpointingLayer):
    """Attention, then the MLP."""

    def __init__(self, config: TokenDiffusionConfig) -> None:
        super().__init__()
        mlp = MLP if config.mlp == "swiglu" else GELUMLP
        self.attention, self.mlp = Residual(config, Attention(config)), Residual(config, mlp(config))

    def forward(
        self, hidden: Tensor, condition: Tensor | None, rotation: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        return self.mlp(self.attention(hidden, condition, rotation, mask), condition)


class TimeEmbedding(nn.Module):
    """t [B] -> condition [B, 1, cond_dim]: sinusoids, float32 until they are put in `dtype`, through two layers."""

    def __init__(self, config: TokenDiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.input = nn.Linear(TIME_FEATURES, config.cond_dim)
        self.output = nn.Linear(config.cond_dim, config.cond_dim)

    def forward(self, timesteps: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        time = timesteps.double()
        if self.config.time_conditioning == "sigma":
            time = -self.config.schedule().alpha(time).clamp(min=MIN_ALPHA).log()
        half = torch.arange(TIME_FEATURES // 2, device=time.device)
        frequencies = self.config.max_frequency * torch.exp(-math.log(10000) * half / len(half))
        angles = time.float().view(-1, 1, 1) * frequencies
        features = torch.cat([angles.cos(), angles.sin()], -1).to(dtype)
        return F.silu(self.output(F.silu(self.input(features))))


class ClassEmbedding(nn.Embedding):
    """Label [B] -> condition [B, 1, cond_dim]; the last row is of "no label", which -1 stands for."""

    def __init__(self, config: TokenDiffusionConfig) -> None:
        super().__init__(config.num_classes + 1, config.cond_dim)

    def forward(self, class_labels: Tensor) -> Tensor:
        row = torch.where(class_labels < 0, self.num_embeddings - 1, class_labels)
        return F.silu(super().forward(row)).unsqueeze(1)


def rotations(length: int, head_dim: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [L, head_dim / 2] of rotary positions (RoFormer, arXiv 2104.09864), made in float32, in `like`'s dtype."""
    half = torch.arange(0, head_dim, 2, device=like.device) / head_dim
    angles = torch.arange(length, device=like.device).unsqueeze(1) * theta**-half
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the halves of each vector of x [B, heads, L, head_dim] against each other, by its position."""
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


def seen_in_blocks(length: int, size: int, twice: bool, device: torch.device) -> Tensor:
    """Which positions see which, bool [L, L]: those of their own block, and of those before it.

    twice: [2 L, 2 L], of noisy positions and as many clean ones. A noisy block sees itself, and those before it clean; the clean
    ones see clean ones alone.
    """
    block = torch.arange(length, device=device) // size
    own, before = block[:, None] == block, block[:, None] > block
    if not twice:
        return own | before
    noisy, clean = torch.cat([own, before], 1), torch.cat([torch.zeros_like(own), own | before], 1)
    return torch.cat([noisy, clean])
