"""What the commands of this folder have in common: how their help looks, and how a mistake in what was asked ends them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn


def make_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Of `python -m PROGRAM`, with its module's docstring as it stands."""
    return argparse.ArgumentParser(
        prog=f"python -m {program}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def run(
    program: str, main: Callable[[Sequence[str]], int], mistakes: tuple[type[Exception], ...] = (ValueError,)
) -> NoReturn:
    """Ends the process with what `main` makes of its arguments, or with 2 and one line for a mistake."""
    try:
        sys.exit(main(sys.argv[1:]))
    except mistakes as error:
        print(f"python -m {program}: error: {error}", file=sys.stderr)
        sys.exit(2)
