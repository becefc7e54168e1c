"""Which decoders are measured, and at what budgets: those of the table of samplers that fit a process, and the presets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.errors import ParameterError
from token_diffusion.samplers import Samplers
from token_diffusion.samplers.catalogue import KINDS
from token_diffusion.samplers.options import Option, declared
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.samplers.presets import PRESETS

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
    """All that fit a process and that it can do, those of one curve one after the other."""
    samplers = Samplers(TokenDiffusionScheduler(8, 0, forward_process=process))
    for setting in _proposed(process, budgets):
        parameters = setting.parameters(seq_len=8, num_samples=1)
        try:
            samplers.of(parameters)
        except ParameterError:  # a choice that the decoder has for another process
            continue
        yield setting


def _proposed(process: str, budgets: Sequence[int]) -> Iterator[Setting]:
    switched: set[str] = set()
    for sampler, kind in KINDS.items():
        if process not in kind.decoders:
            continue
        options = declared(kind.decoders[process].Options)
        for name, asked in variants(sampler, options, switched):
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


def guided(process: str, steps: int) -> Iterator[Setting]:
    """Ancestral sampling with guidance by a prompt, which absorbing models alone have without labels: two views a row."""
    if process == "absorbing":
        yield Setting("ancestral, guided", f"{steps} steps", {"num_inference_steps": steps, "guidance_scale": 2.0})


def gridded(name: str, asked: Mapping[str, Any], budgets: Sequence[int]) -> Iterator[Setting]:
    for steps in budgets:
        yield Setting(name, f"{steps} steps", {**asked, "num_inference_steps": steps})


def variants(sampler: str, options: Mapping[str, Option], switched: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Its defaults, each other choice, and what can be switched on, one at a time, under what names them.

    switched: what was, with a sampler before this one; it is not tried again.
    """
    choices = {name: each for name, each in options.items() if each.choices and name not in ASIDE}
    yield ", ".join([sampler, *(each.default for each in choices.values())]), {}
    for name, each in choices.items():
        others = [choice for choice in each.choices if choice != each.default]
        yield from ((f"{sampler}, {choice}", {name: choice}) for choice in others)
    switches = {name: each for name, each in options.items() if each.type is bool and name not in switched}
    switched.update(switches)
    yield from ((f"{sampler}, {name.replace('_', ' ')}", {name: not each.default}) for name, each in switches.items())
