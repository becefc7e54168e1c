"""Counter-based randomness: every draw is a pure function of (seed, sample, step, position, purpose).

So the draws of a request do not depend on its batch-mates, on when it arrived or on padding, nor on the device, for they are
made on the host, where the rows are. The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1,
2, 3", SC 2011): the 64-bit seed is its key, the four 32-bit counters are what names the draw. PyTorch and numpy have Philox
inside, but offer no way to set key and counter per element, hence these lines of integer arithmetic.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

_MASK, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
_KEY_STEPS = np.array([0x9E3779B9, 0xBB67AE85], dtype=np.uint64)
_ROUNDS = np.arange(10, dtype=np.uint64)


class Purpose(IntEnum):
    """What a draw is for; two draws of one position in one step never share a purpose."""

    PRIOR = 0
    TIME = 1
    ROUTE = 2
    TOKEN = 3
    NOISE_TOKEN = 4
    SCORE_TIME = 5
    SCORE_ROUTE = 6
    SCORE_TOKEN = 7
    POSITION = 8
    PSI = 10
    CORRECT = 11


def philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Philox4x32-10 over uint64 arrays of 32-bit words: counter [4, ...], key [2, ...] -> [4, ...].

    Both products of a round are taken in one operation, as most calls are for a few draws and cost what their operations do.
    """
    even, odd = counter[::2], counter[1::2]
    along = (2,) + (1,) * (counter.ndim - 1)
    multipliers = _MULTIPLIERS.reshape(along)
    for of_round in key + np.multiply.outer(_ROUNDS, _KEY_STEPS).reshape(-1, *along) & _MASK:
        products = even * multipliers
        even = (products >> _HALF)[::-1] ^ odd
        even ^= of_round
        products &= _MASK
        odd = products[::-1]
    return np.stack([even[0], odd[0], even[1], odd[1]])


def uniform(seed: Tensor, sample: Tensor, step: Tensor, position: Tensor, purpose: Purpose) -> Tensor:
    """Uniforms in [0, 1) with 53 random bits, float64, of the arguments' broadcast shape (int64 tensors on the CPU).

    `seed` is in [0, 2^63), the others in [0, 2^32).
    """
    seeds, samples, steps, positions = (each.numpy().view(np.uint64) for each in (seed, sample, step, position))
    shape = np.broadcast(seeds, samples, steps, positions).shape
    counter = np.empty((4, *shape), dtype=np.uint64)
    counter[0], counter[1], counter[2], counter[3] = steps, positions, samples, int(purpose)
    seeds = seeds.reshape((1,) * (len(shape) - seeds.ndim) + seeds.shape)
    high, low, _, _ = philox(counter, np.stack([seeds & _MASK, seeds >> _HALF]))
    bits = (high >> np.uint64(5)) * np.uint64(2**26) + (low >> np.uint64(6))
    return torch.from_numpy(np.asarray(bits / 2**53))
