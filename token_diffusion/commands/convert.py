"""`convert`: any checkpoint that loads, as an ordinary folder."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..checkpoint.conversion import WRITTEN, convert
from .folder import add_folders


def add_convert(commands: Any) -> None:
    """Its flags."""
    description = "any checkpoint that loads, or adapters and their model, as an ordinary folder of the same logits"
    command = commands.add_parser("convert", help=description, description=description)
    add_folders(command)
    add = command.add_argument
    add("--output_dir", required=True, help="folder to write, new or empty")
    add("--base_model", help="folder, or repository of the hub, that adapters (LoRA) are for, if not where they say")
    add("--dtype", choices=WRITTEN, help="of the weights (default: as they are)")
    add("--scheduler_overrides", help="key=value,... in place of what is known of the noise: alpha_schedule=cosine")
    help_tokens = "in place of what is known; ids or spellings, or none of them"
    add("--frame_prefix", nargs="*", metavar="TOKEN", help=f"control tokens before every text, {help_tokens}")
    add("--frame_suffix", nargs="*", metavar="TOKEN", help=f"control tokens after every text, {help_tokens}")
    add("--learnt_tokens", nargs="*", metavar="TOKEN", help=f"control tokens that samples may hold, {help_tokens}")
    add("--max_shard_size", default="5GB", help="of a file of weights (default: %(default)s)")


def convert_folder(arguments: argparse.Namespace) -> None:
    """Loads and writes."""
    given = {name: value for name, value in vars(arguments).items() if name != "command"}
    print(f"wrote {convert(**given)}", file=sys.stderr)
