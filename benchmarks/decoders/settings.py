"""Which decoders are measured, and at what budgets: those of the table of samplers that fit a process, and the presets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from token_diffusion.samplers.presets import PRESETS

from token_diffusion.samplers.catalogue import KINDS
from token_diffusion.samplers.options import Option, declared
from token_diffusion.samplers.parameters import SamplingParameters

BUDGETS = (4, 16, 64)
"""Steps, where a decoder has steps."""

RULES: dict[str, tuple[str, tuple[float, ...]]] = {
    "threshold": ("confidence", (0.9, 0.5, 0.2)),
    "factor": ("confidence", (1.0, 2.0, 4.0)),
    "entropy_bound": ("entropy", (0.1, 1.0, 8.0)),
}
"""Options that say, in place of steps, how many tokens an evaluation sets: the sampler they are tried with, and their values."""

ASIDE = ("quota", "ranked_by")
"""Choices that make no curve of their own: the presets have them."""

COMMON = {each.name for each in fields(SamplingParameters)} - {"options"}


@dataclass(frozen=True)
class Setting:
    """A decoder at one budget. name: of the decoder, whose settings make one curve. budget: in words. asked: flat fields."""

    name: str
    budget: str
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.name}, {self.budget}" if self.budget else self.name

    def parameters(self, seq_len: int, num_samples: int, seed: int = 0, **more: Any) -> SamplingParameters:
        """The request; `more` is for what the setting leaves open."""
        given = {"seq_len": seq_len, "num_samples": num_samples, "seed": seed, **more, **self.asked}
        options = {name: value for name, value in given.items() if name not in COMMON}
        if size := given.get("block_size"):  # whose steps are those of a block
            steps = given.get("num_inference_steps", 1) or 1
            given["num_inference_steps"] = max(1, steps // max(1, -(-seq_len // size)))
        return SamplingParameters(**{name: given[name] for name in COMMON & given.keys()}, options=options)


def settings(process: str, budgets: Sequence[int] = BUDGETS) -> Iterator[Setting]:
    """All that fit a process, those of one curve one after the other."""
    for sampler, kind in KINDS.items():
        if process not in kind.decoders:
            continue
        options = declared(kind.decoders[process].Options)
        for name, asked in variants(sampler, options):
            yield from gridded(name, {"sampler": sampler, **asked}, budgets)
        if sampler == "ancestral" and process == "absorbing":
            yield Setting("first-hitting", "", {"sampler": sampler, "num_inference_steps": None})
        for rule, (tried, values) in RULES.items():
            if tried == sampler and rule in options:
                for value in values:
                    yield Setting(f"{sampler}, {rule}", f"{rule} {value:g}", {"sampler": sampler, rule: value})
    for name, asked in PRESETS.items():
        if process in KINDS[asked["sampler"]].decoders:
            preset = f"preset {name}"
            if any(rule in asked for rule in RULES):
                yield Setting(preset, "", asked)
            else:
                yield from gridded(preset, asked, budgets)


def gridded(name: str, asked: Mapping[str, Any], budgets: Sequence[int]) -> Iterator[Setting]:
    for steps in budgets:
        yield Setting(name, f"{steps} steps", {**asked, "num_inference_steps": steps})


def variants(sampler: str, options: Mapping[str, Option]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Its defaults, each other choice, and what can be switched on, one at a time, under what names them."""
    curves = {
        name: each for name, each in options.items() if name not in ASIDE and (each.choices or each.type is bool)
    }
    defaults = [each.default for each in curves.values() if each.choices]
    yield ", ".join([sampler, *defaults]), {}
    for name, each in curves.items():
        for choice in each.choices or [not each.default]:
            if choice != each.default:
                yield f"{sampler}, {choice if each.choices else name.replace('_', ' ')}", {name: choice}
