"""Counter-based randomness: every draw is a pure function of (seed, sample, step, position, purpose).

So the draws of a request do not depend on its batch-mates, on when it arrived or on padding, and they are the same on
every device. The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011):
the 64-bit seed is its key, the four 32-bit counters are what names the draw. PyTorch has Philox inside, but offers no way
to set key and counter per element, hence these lines of integer arithmetic.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


class Purpose(IntEnum):
    """What a draw is for; two draws of one position in one step never share a purpose."""

    PRIOR = 0
    TIME = 1
    ROUTE = 2
    TOKEN = 3
    NOISE_TOKEN = 4


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10 over int64 tensors that hold 32-bit words; broadcasts, and returns four tensors of such words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # A 32x32-bit product may pass 2^63, but int64 wraps to the right 64 bits; the masks drop the sign's copies.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def uniform(seed: Tensor, sample: Tensor, step: Tensor, position: Tensor, purpose: Purpose) -> Tensor:
    """Uniforms in [0, 1) with 53 random bits, float64, of the arguments' broadcast shape (int64 tensors, one device).

    `seed` is in [0, 2^63), the others in [0, 2^32).
    """
    counter = (step, position, sample, torch.full_like(step, int(purpose)))
    high, low, _, _ = philox(counter, (seed & _MASK, (seed >> 32) & _MASK))
    bits = (high >> 5) * (1 << 26) + (low >> 6)
    return bits.to(torch.float64) / (1 << 53)
