"""Offline sampling and scoring: `python -m token_diffusion sample|sample-block|sample-hybrid|score --checkpoint_path DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from transformers.utils import logging as transformers_logging

from .commands.convert import add_convert, convert_folder
from .commands.sample import COMMANDS, add_sample, sample_text
from .commands.samplers import add_samplers, print_samplers
from .commands.score import add_score, score_texts
from .errors import ParameterError
from .networks.cpu.memory import prepare
from .networks.cpu.threads import set_threads

DOES: dict[str, Callable[[argparse.Namespace], None]] = {
    **dict.fromkeys(COMMANDS, sample_text),
    "score": score_texts,
    "convert": convert_folder,
    "samplers": print_samplers,
}
"""What each command does."""


class Parser(argparse.ArgumentParser):
    """One whose mistakes are told in one line, as all others are: there are too many flags to repeat them each time."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """All commands, each with its flags."""
    parser = Parser(prog="python -m token_diffusion", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add_sample(commands)
    add_score(commands)
    add_convert(commands)
    add_samplers(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 for a user's mistake, told in one line, or 130 after Ctrl-C."""
    arguments = build_parser().parse_args(argv)
    prepare()
    set_threads()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        DOES[arguments.command](arguments)
    except ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
