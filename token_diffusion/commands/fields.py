"""The flags by which a sampler is asked, which are the fields of a request; those of one sampler alone from the one table."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ..errors import one_of
from ..samplers.catalogue import KINDS, all_options, kind_of
from ..samplers.options import Option
from ..samplers.parameters import SamplingParameters
from ..samplers.presets import PRESETS, with_preset

APART = {"seed", "num_samples", "seq_len", "logprobs"}
"""Fields that no preset has, which the command fills in by itself."""


class Asked(argparse.Action):
    """Takes note in `given` that a field was given: a preset fills in the others alone."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        namespace.given = (*namespace.given, self.dest)


class Flag(argparse.BooleanOptionalAction):
    """The same of a field that is on or off: `--name` or `--no-name`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        super().__call__(parser, namespace, values, option_string)
        namespace.given = (*namespace.given, self.dest)


def add_fields(command: argparse.ArgumentParser, steps: int, block_size: int | None) -> None:
    """Those of all samplers, by default so many steps, and those of some. block_size: by default; None: there are no blocks."""
    command.set_defaults(given=())

    def add(name: str, **how: Any) -> None:
        command.add_argument(name, action=how.pop("action", Asked), **how)

    add(
        "--sampler",
        default=next(iter(KINDS)),
        help=f"{one_of(KINDS)}; see the command samplers (default: %(default)s)",
    )
    help_preset = "defaults of these flags by the name of who has them; what is given goes before"
    command.add_argument("--preset", metavar="NAME", help=f"{help_preset}: {', '.join(PRESETS)}")
    help_steps = "steps of the time grid (each block's); 'none': first-hitting, absorbing alone"
    add("--num_inference_steps", type=_or_none(int), default=steps, help=f"{help_steps} (default: {steps})")
    if block_size is not None:
        add("--block_size", type=int, help=f"tokens a block (default: {block_size}, or a block-causal model's)")
    add("--temperature", type=float, default=1.0, help="divides the logits; 0 is greedy (default: %(default)s)")
    add("--top_p", type=float, default=1.0, help="nucleus, in (0, 1] (default: %(default)s)")
    add("--top_k", type=int, default=0, help="most probable tokens kept, 0 for all (default: %(default)s)")
    add("--min_p", type=float, default=0.0, help="tokens kept, by the largest's share (default: %(default)s)")
    add("--label", type=int, help="class that the model is told, for models with labels (default: none)")
    help_guidance = "how much label or prompt count: 1 as the model has it, 0 not at all, above 1 more"
    add("--guidance_scale", type=float, default=1.0, help=f"{help_guidance} (default: %(default)s)")
    add(
        "--suppress_end", action=Flag, default=False, help="draw no token that the model has learnt to end a text with"
    )
    add("--early_end", action=Flag, default=False, help="fill in no further what stands behind the end of a text")
    group = command.add_argument_group("options of some samplers")
    for name, (option, samplers) in all_options().items():
        _add_option(group, name, option, samplers)


def _add_option(group: Any, name: str, option: Option, samplers: list[str]) -> None:
    rule = " or ".join(option.choices) or option.bounds
    default = ("none" if option.nullable else "its own") if option.default is None else option.default
    said = f"{option.description} ({', '.join(samplers)}; {rule}{', ' if rule else ''}default: {default})"
    how: dict[str, Any] = {"help": said.replace("%", "%%"), "default": None}
    if option.type is bool:
        group.add_argument(f"--{name}", action=Flag, **how)
    else:
        kind = _or_none(option.type) if option.nullable else option.type
        group.add_argument(f"--{name}", action=Asked, type=kind, metavar=option.type.__name__.upper(), **how)


def fields_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a sampler is asked for, as flat fields: what was given, over the preset, over the defaults.

    Raises:
        ParameterError: there is no such preset or sampler, or a value is outside its range.
    """
    given = {name: getattr(arguments, name) for name in arguments.given}
    own = SamplingParameters.__dataclass_fields__.keys() & vars(arguments).keys() - APART
    fields = {name: getattr(arguments, name) for name in own} | with_preset(arguments.preset, given)
    kind_of(fields["sampler"])
    SamplingParameters.flat(fields)
    return fields


def _or_none(kind: type) -> Callable[[str], Any]:
    """Reads a value, or 'none'."""

    def read(text: str) -> Any:
        try:
            return None if text.lower() == "none" else kind(text)
        except ValueError:
            what = {int: "an integer", float: "a number"}.get(kind, "a value")
            raise argparse.ArgumentTypeError(f"must be {what} or none, got {text!r}") from None

    return read
