"""What the values of a text at its times come to: how likely it is, as its bound and the Monte-Carlo error of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .updates import Scores


@dataclass(frozen=True)
class Score:
    """An upper bound on -ln p(text), given what is given: an estimate, with its standard error (None for one time alone).

    The error is that of times and noise, not of the model. Each of the K times is drawn in its K-th of (0, 1], so their values
    y_k have a variance each: Var = sum_k Var(y_k) / K^2. That of two neighbours together is estimated by (y_k - y_k+1)^2, which
    is rather too large, as it has the difference of their means in it (collapsed strata: Cochran, Sampling Techniques, 5A.12);
    of three, where K is odd, by 3/2 of their squared distances from their mean. From fewer than eight times it is rough.

    token_nats, token_nats_error: float64 [seq_len], a token's part of it; NaN where the token is given.
    num_tokens: those that were scored. nfe: noised versions that the network was shown.
    """

    nats: float
    nats_error: float | None
    token_nats: np.ndarray
    token_nats_error: np.ndarray | None
    num_tokens: int
    nfe: int

    @property
    def bits(self) -> float:
        return self.nats / math.log(2)

    @property
    def bits_error(self) -> float | None:
        return None if self.nats_error is None else self.nats_error / math.log(2)

    def figures(self, start: int, end: int) -> dict[str, Any]:
        """All of it in JSON's types, that of the tokens from `start` to `end`; None for what JSON has no number for."""
        error = self.token_nats_error
        return {
            "nats": _number(self.nats),
            "nats_error": _number(self.nats_error),
            "bits": _number(self.bits),
            "bits_error": _number(self.bits_error),
            "nats_per_token": _number(self.nats / self.num_tokens),
            "bits_per_token": _number(self.bits / self.num_tokens),
            "num_tokens": self.num_tokens,
            "token_nats": [_number(value) for value in self.token_nats[start:end].tolist()],
            "token_nats_error": None if error is None else [_number(value) for value in error[start:end].tolist()],
        }


def summarise(scores: Scores, given: Sequence[int]) -> Score:
    """What the values of a text at its times come to."""
    values = scores.values.copy()
    error, token_error = standard_error(values.sum(1)), standard_error(values)
    nats = float(values.mean(0).sum())
    values[:, list(given)] = np.nan
    if token_error is not None:
        token_error[list(given)] = np.nan
    found = None if error is None else float(error)
    return Score(nats, found, values.mean(0), token_error, scores.completion_tokens, scores.nfe)


def standard_error(values: np.ndarray) -> np.ndarray | None:
    """Of the mean of values [K, ...] over neighbouring strata, one draw each, as `Score` says; None for K = 1."""
    count = len(values)
    if count == 1:
        return None
    odd = 3 if count % 2 else 0
    first, second = values[: count - odd : 2], values[1 : count - odd : 2]
    with np.errstate(invalid="ignore"):  # of infinities there is no difference
        variance = np.square(first - second).sum(0)
        if odd:
            variance = variance + 1.5 * np.square(values[-odd:] - values[-odd:].mean(0)).sum(0)
    found: np.ndarray = np.sqrt(variance) / count
    return found


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def ranking(scores: Sequence[Score]) -> list[int]:
    """Their indices, the likeliest text first: the one whose bound is least."""
    return sorted(range(len(scores)), key=lambda index: scores[index].nats)


def table(texts: Sequence[str], scores: Sequence[Score]) -> list[str]:
    """For people: names, and a line for each text, the likeliest first."""
    lines = [f"{'rank':>4} {'index':>5} {'nats':>20} {'bits/token':>16} {'tokens':>6}  text"]
    for rank, index in enumerate(ranking(scores), 1):
        found = scores[index]
        each = found.num_tokens
        error = None if found.bits_error is None else found.bits_error / each
        nats, bits = _with_error(found.nats, found.nats_error), _with_error(found.bits / each, error)
        lines.append(f"{rank:>4} {index:>5} {nats:>20} {bits:>16} {each:>6}  {_shown(texts[index])}")
    return lines


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.2f}" + ("" if error is None else f" ± {error:.2f}")


def _shown(text: str, most: int = 80) -> str:
    """Its beginning; what a terminal would obey, spelled out."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in cut)
