"""What a validation says: the bound in all its units, each with its standard error, and what was counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.spelling import Spelling


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error; NaN where there is but one sequence."""

    value: float
    error: float

    def scaled(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.error * factor)

    def exp(self) -> Estimate:
        """By the delta method: the error of exp(v) is exp(v) times that of v."""
        value = math.exp(min(self.value, 700.0))
        return Estimate(value, value * self.error)

    def figures(self, name: str) -> dict[str, float | None]:
        """Under `name` and `name_error`; None for what JSON has no number for."""
        pairs = ((name, self.value), (f"{name}_error", self.error))
        return {key: value if math.isfinite(value) else None for key, value in pairs}

    @classmethod
    def read(cls, figures: Mapping[str, Any], name: str) -> Estimate:
        """What `figures` wrote under `name`; NaN for None."""
        value, error = (math.nan if figures[key] is None else figures[key] for key in (name, f"{name}_error"))
        return cls(value, error)


@dataclass(frozen=True)
class TextBound:
    """The bound in bits per character and per UTF-8 byte of the source text; `exact` is that of `Spelling`."""

    bits_per_char: Estimate
    bits_per_byte: Estimate
    num_chars: int
    num_bytes: int
    num_given_chars: int
    exact: bool


@dataclass(frozen=True)
class ValidationBound:
    """An upper bound on the negative log-likelihood, estimated at `num_times` stratified t a sequence.

    `nelbo` and `standard_error` (over sequences: that of their choice and of times and noise together) are nats a token;
    `num_tokens` are those that count. `text` is None where a character is not known. `weights` says which were used.
    `unlabelled` is the same figure, nats a token, of a network that is not told the labels; None where it was told none, or
    nobody asked.
    """

    nelbo: float
    standard_error: float
    num_sequences: int
    num_tokens: int
    num_times: int
    text: TextBound | None = None
    weights: str = "as trained"
    unlabelled: Estimate | None = None

    @property
    def per_token(self) -> Estimate:
        return Estimate(self.nelbo, self.standard_error)

    @property
    def perplexity(self) -> float:
        return self.per_token.exp().value

    @property
    def perplexity_error(self) -> float:
        return self.per_token.exp().error

    @property
    def bits_per_token(self) -> float:
        return self.nelbo / math.log(2)

    @property
    def bits_per_token_error(self) -> float:
        return self.standard_error / math.log(2)

    @property
    def bits_per_char(self) -> float | None:
        return None if self.text is None else self.text.bits_per_char.value

    @property
    def bits_per_byte(self) -> float | None:
        return None if self.text is None else self.text.bits_per_byte.value

    @property
    def num_chars(self) -> int | None:
        return None if self.text is None else self.text.num_chars

    def estimates(self) -> dict[str, Estimate]:
        """Every figure by its unit."""
        found = {
            "nats/token": self.per_token,
            "perplexity": self.per_token.exp(),
            "bits/token": self.per_token.scaled(1 / math.log(2)),
        }
        if self.text is not None:
            found |= {"bits/char": self.text.bits_per_char, "bits/byte": self.text.bits_per_byte}
        return found

    @property
    def counted(self) -> str:
        """What was counted, in words."""
        parts = [f"{self.num_sequences:,} sequences", f"{self.num_tokens:,} tokens"]
        if self.text is not None:
            parts += [f"{self.text.num_chars:,} characters", f"{self.text.num_bytes:,} bytes"]
        return f"{', '.join(parts)}; {self.num_times} times a sequence, fixed noise; weights: {self.weights}"

    @property
    def remarks(self) -> list[str]:
        """What a reader of the figures has to know, in sentences."""
        found = []
        if (without := self.unlabelled) is not None:
            found.append(
                "The network was told the label of each sequence, at no cost in bits; without labels the bound is "
                f"{without.value:.4f} ± {without.error:.4f} nats a token."
            )
        if self.text is None:
            return [*found, "Bits per character are unknown: nothing tells which characters a token stands for."]
        if not self.text.exact:
            found.append(
                "Characters and bytes are those of the source text, white space and capitals included; the tokenizer "
                "does not keep all of it, and the bits are those of what it keeps."
            )
        if self.text.num_given_chars:
            found.append(
                f"{self.text.num_given_chars:,} characters are special tokens, such as unknown words: given, not "
                "predicted, and not counted."
            )
        return found

    def figures(self) -> dict[str, Any]:
        """All of it, in JSON's types."""
        names = {"nats/token": "nelbo", "bits/token": "bits_per_token", "bits/char": "bits_per_char"}
        names["bits/byte"] = "bits_per_byte"
        found: dict[str, Any] = {}
        for unit, estimate in self.estimates().items():
            found |= estimate.figures(names.get(unit, unit))
        found |= {"num_sequences": self.num_sequences, "num_tokens": self.num_tokens, "num_times": self.num_times}
        if (text := self.text) is not None:
            found |= {"num_chars": text.num_chars, "num_bytes": text.num_bytes}
            found |= {"num_given_chars": text.num_given_chars, "exact_text": text.exact}
        if self.unlabelled is not None:
            found |= self.unlabelled.figures("nelbo_without_labels")
        return {**found, "weights": self.weights}

    def __str__(self) -> str:
        shown = self.estimates() | ({"without labels": self.unlabelled} if self.unlabelled is not None else {})
        figures = (f"{each.value:.4f} ± {each.error:.4f} {unit}" for unit, each in shown.items())
        return f"nelbo {', '.join(figures)} ({self.counted})"


def summarise(
    sums: Tensor, counts: Tensor, num_times: int, spelling: Spelling | None = None, weights: str = "as trained"
) -> ValidationBound:
    """The bound of sequences whose NELBO is `sums` nats over `counts` tokens, float64 [n] each."""
    nelbo = pooled_ratio(sums, counts)
    text = None if spelling is None else _text_bound(sums / math.log(2), spelling)
    return ValidationBound(nelbo.value, nelbo.error, len(sums), int(counts.sum()), num_times, text, weights)


def pooled_ratio(sums: Tensor, counts: Tensor) -> Estimate:
    """R = Σ sums / Σ counts over sequences (float64 [n] each), with its standard error over sequences.

    Both sums vary with the choice of sequences. The delta method gives, for independent ones,
    Var R = n / (n - 1) Σ (sums_i - R counts_i)² / (Σ counts)².
    """
    n, total = len(sums), counts.sum()
    ratio = sums.sum() / total
    residual = (sums - ratio * counts).square().sum()
    error = math.sqrt(n / (n - 1) * residual.item()) / total.item() if n > 1 else math.nan
    return Estimate(ratio.item(), error)


def _text_bound(bits: Tensor, spelling: Spelling) -> TextBound | None:
    """None where the counted tokens stand for no text at all."""
    chars, utf8_bytes = (torch.from_numpy(each).double() for each in (spelling.chars, spelling.utf8_bytes))
    if not chars.sum():
        return None
    return TextBound(
        pooled_ratio(bits, chars),
        pooled_ratio(bits, utf8_bytes),
        int(chars.sum()),
        int(utf8_bytes.sum()),
        spelling.num_given_chars,
        spelling.exact,
    )
