"""What a forward pass takes: so many seconds however few tokens it has, and so many more for each."""

from __future__ import annotations

import torch

PRIOR = {"cpu": (2e-3, 2e-5)}
"""(fixed, token) until something is measured: on a CPU a pass takes as long as a hundred tokens, however few it has."""
ACCELERATOR = (5e-3, 2e-7)

ENOUGH_TOKENS = {"cpu": 2048}
"""Tokens of a forward pass beyond which more of them take longer and are not cheaper each (measured for the CPU)."""
ACCELERATOR_ENOUGH_TOKENS = 65536

WARM_UP = 3
"""Passes that are not measured: the first ones allocate, compile, load."""
FORGET = 0.98
"""What one more pass leaves of the weight of those before it."""
OUTLIER = 2.0
"""A pass that takes longer than so many times what was expected counts as one that takes that."""
TRUST = 2.0
"""The prior's ratio weighs as much as so many passes at either end of what was seen."""


def enough_tokens(device: torch.device) -> int:
    """The largest forward pass that is worth its time, in tokens, padding included."""
    return ENOUGH_TOKENS.get(device.type, ACCELERATOR_ENOUGH_TOKENS)


class Cost:
    """`fixed + token * n` seconds for a pass of n tokens, padding included; a line through what was measured.

    Args:
        fixed, token: what holds until then. Where all passes are of one size their ratio stays.
    """

    def __init__(self, fixed: float, token: float) -> None:
        self.fixed, self.token = fixed, token
        self._ratio = fixed / token
        self._seen = 0
        self._weight = self._n = self._nn = self._s = self._ns = 0.0

    @classmethod
    def prior(cls, device: torch.device, apart: bool = False) -> Cost:
        """apart: rows share no forward pass, so that there is nothing to share its fixed cost among."""
        fixed, token = PRIOR.get(device.type, ACCELERATOR)
        return cls(0.0 if apart else fixed, token)

    def of(self, tokens: float) -> float:
        """Seconds of a pass of so many tokens."""
        return self.fixed + self.token * tokens

    def observe(self, tokens: int, seconds: float) -> None:
        """One more pass was measured."""
        self._seen += 1
        if self._seen <= WARM_UP:
            return
        if self._seen > 2 * WARM_UP:
            seconds = min(seconds, OUTLIER * self.of(tokens))
        n, s = float(tokens), max(seconds, 1e-9)
        self._weight = FORGET * self._weight + 1
        self._n, self._nn = FORGET * self._n + n, FORGET * self._nn + n * n
        self._s, self._ns = FORGET * self._s + s, FORGET * self._ns + n * s
        self._fit()

    def _fit(self) -> None:
        """Least squares over what was seen and the prior's line at either end of it, with no part below zero."""
        scale = self._s / (self._weight * self._ratio + self._n)
        far = 2 * self._n / self._weight
        weight, n, nn = self._weight + 2 * TRUST, self._n + TRUST * far, self._nn + TRUST * far * far
        at_zero, at_far = scale * self._ratio, scale * (self._ratio + far)
        s, ns = self._s + TRUST * (at_zero + at_far), self._ns + TRUST * far * at_far
        slope = (ns - n * s / weight) / (nn - n * n / weight)
        if slope * n > s:
            self.fixed, self.token = 0.0, s / n
        else:
            self.token = max(slope, 1e-3 * scale)
            self.fixed = max(0.0, (s - self.token * n) / weight)
