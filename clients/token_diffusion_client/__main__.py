"""Sample from a running server: `token-diffusion-client sample --prompt "..."`; on a terminal you see it denoise.

Exit codes: 0 done, 1 the server failed or cannot be reached, 2 the request is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

import httpx2

from .cells import one_line
from .commands import bench, sample, score, watch
from .protocol.errors import IncompleteStream, InvalidEvent, SampleError
from .version import __version__

UNPROCESSABLE = 422

PROG = "token-diffusion-client"


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """All commands and their flags; each command sets `run`."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (sample, score, bench, watch):
        command.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command line `arguments` (sys.argv's without it), which began with `prog`; returns the exit code."""
    options = build_parser(prog).parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a server may send what is no character

    def fail(reason: object, code: int) -> int:
        print(f"{prog}: error: {one_line(str(reason))}", file=sys.stderr)
        return code

    try:
        code: int = options.run(options)
    except SampleError as error:
        return fail(error, 2 if error.code == UNPROCESSABLE else 1)
    except (IncompleteStream, InvalidEvent) as error:
        return fail(error, 1)
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        return fail(f"url must be http:// or https://, got {options.url!r}: {error}", 2)
    except httpx2.ConnectError as error:
        return fail(f"cannot connect to {options.url}: {error}; is the server running?", 1)
    except httpx2.HTTPError as error:
        return fail(f"{options.url}: {error or type(error).__name__}", 1)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does; Python must not try to flush into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        return fail(error, 2)
    return code


if __name__ == "__main__":
    sys.exit(main(prog="python -m token_diffusion_client"))
