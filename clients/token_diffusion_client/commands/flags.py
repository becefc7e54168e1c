"""Flags that several commands have. Those of a request are named as on the wire; what is not given is not sent."""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

from ..client import DEFAULT_URL, AsyncClient, Client


def number(value: str) -> float:
    """A float that is one."""
    parsed = float(value)
    if not math.isfinite(parsed):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {value!r}")
    return parsed


def not_negative(value: str) -> float:
    """A float of at least 0."""
    parsed = number(value)
    if parsed < 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, got {value!r}")
    return parsed


def count(value: str) -> int:
    """An int of at least 0."""
    parsed = int(value)
    if parsed < 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, got {value!r}")
    return parsed


def positive(value: str) -> int:
    """An int of at least 1."""
    parsed = int(value)
    if parsed < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {value!r}")
    return parsed


def steps(value: str) -> int | None:
    """A number of steps, or none for the continuous-time limit."""
    try:
        return None if value == "none" else int(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer or none, got {value!r}") from None


def text(value: str) -> str:
    """A string that can be sent."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"must be valid Unicode, got {value!r}") from None
    return value


def ids(value: str) -> list[int]:
    """Token ids, with commas or spaces between."""
    try:
        return [int(token_id) for token_id in value.replace(",", " ").split()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be integers with commas between, got {value!r}") from None


def conversation(value: str) -> list[Any]:
    """Messages as JSON, or in a file."""
    is_json = value.lstrip().startswith(("[", "{"))
    try:
        found = json.loads(value if is_json else Path(value).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(
            f"must be JSON, or a file that holds some ({reason}), got {value!r}"
        ) from None
    if not isinstance(found, list):
        raise argparse.ArgumentTypeError(f"must be a list of messages, got {found!r}")
    return found


REQUEST: dict[str, tuple[Any, str]] = {
    "prompt": (text, "fixed beginning of each sample"),
    "prompt_ids": (ids, "token ids in place of a prompt: 5,17,3"),
    "template": (text, "text with [MASK] holes, everything else fixed"),
    "template_ids": (ids, "token ids in place of a template; the mask's is a hole"),
    "messages": (conversation, "a conversation in place of a prompt, as JSON or in a file"),
    "num_samples": (int, "samples drawn"),
    "seq_len": (int, "length of a sample in tokens, prompt included"),
    "num_inference_steps": (steps, "steps of the time grid, for each block; none: the continuous-time limit"),
    "temperature": (number, "divides the logits; 0 takes the most probable token"),
    "top_p": (number, "nucleus: the smallest set of tokens with this much probability"),
    "top_k": (int, "most probable tokens kept; 0 keeps all"),
    "min_p": (number, "tokens dropped that have less than this share of the most probable one's probability"),
    "label": (int, "class that a model with labels is told"),
    "guidance_scale": (number, "how much more a text follows its prompt or label; 1: as the model has it"),
    "sampler": (text, "decoder: ancestral, confidence, margin, entropy, random, remdm, psi, gibbs, self_correction"),
    "preset": (text, "defaults of a published loop: llada, dream, fast-dllm, remdm"),
    "logprobs": (bool, "states and the end tell how probable each token was when it was set"),
    "early_end": (bool, "a text that has ended is not filled in any further"),
    "suppress_end": (bool, "no token is drawn that ends a text"),
    "seed": (int, "same seed, same samples; without it the server draws one, and tells it"),
    "model": (text, "name of a loaded checkpoint"),
    "stream_every": (int, "updates merged into one state event"),
    "keyframe_every": (int, "state events from one that carries all tokens to the next"),
    "timeout_s": (number, "seconds after which the server gives up"),
}
"""Wire name -> type, help; what is of type bool is asked for by its name alone."""

OPTIONS: dict[str, tuple[Any, str]] = {
    "quota": (text, "confidence, margin, entropy, random: how many a step sets: even, schedule"),
    "threshold": (number, "the same: all that are at least so sure"),
    "factor": (number, "the same: the surest, as long as one of r reaches 1 - factor / (r + 1)"),
    "entropy_bound": (number, "the same: the surest, as long as their entropies sum to this"),
    "alg_temp": (number, "the same: temperature at which positions are drawn; 0 takes the surest"),
    "ranked_by": (text, "the same: by which probability: largest, drawn, shaped"),
    "grid_eps": (number, "the same: time at which the grid of a quota ends"),
    "remask": (text, "remdm: how masks come back: cap, rescale, loop, forward_backward, dfm, conf"),
    "kappa": (number, "psi: probability of an ancestral step"),
    "kappa_schedule": (text, "psi: how kappa goes: cap, rescale, loop"),
    "eta": (number, "remdm, psi: strength of remasking, or of correction"),
    "t_on": (number, "remdm, psi: time at which that begins"),
    "t_off": (number, "remdm, psi: time at which it ends"),
    "alpha_on": (number, "remdm, psi: the share of tokens that show meanwhile, of a loop"),
    "num_corrector_steps": (int, "gibbs: corrector steps after each step"),
    "num_corrected": (int, "gibbs, self_correction: positions in one of their steps"),
    "corrected": (text, "gibbs: which positions: random, least_confident"),
    "num_correction_steps": (int, "self_correction: steps of correction at most"),
    "correction_temperature": (number, "self_correction: temperature at which they draw"),
    "correction_t": (number, "self_correction: time that the network is told"),
    "patience": (int, "self_correction: it ends after so many steps without more agreement"),
    "greedy_tail": (bool, "ancestral, psi, gibbs, self_correction: the last step takes the most probable tokens"),
}
"""The same, of what may be asked of some decoders alone."""

REQUEST |= OPTIONS

BLOCK_SIZE: tuple[Any, str] = (int, "tokens of a block")


def add_request(parser: argparse.ArgumentParser, names: dict[str, tuple[Any, str]]) -> None:
    """Flags of a request."""
    for name, (kind, help) in names.items():
        how = {"action": "store_true"} if kind is bool else {"type": kind}
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=help, **how)


def add_color(parser: argparse.ArgumentParser) -> None:
    """By what a terminal's tokens are coloured; `confidence` asks for logprobs."""
    help = "of tokens on a terminal: how old they are, or how sure the model was of them (%(default)s)"
    parser.add_argument("--color", choices=("age", "confidence"), default="age", help=help)


def add_server(parser: argparse.ArgumentParser) -> None:
    """Which server, and how long it is waited for."""
    url, key = os.environ.get("TD_URL", DEFAULT_URL), os.environ.get("TD_API_KEY")
    parser.add_argument("--url", default=url, help="where the server is; or TD_URL (now %(default)s)")
    parser.add_argument("--api_key", default=key, help="sent as a bearer token; better set as TD_API_KEY")
    help = "times that a request is sent again to a busy server, when it says so (%(default)s)"
    parser.add_argument("--max_retries", type=count, default=8, help=help)


def add_output(parser: argparse.ArgumentParser, json: str, quiet: str) -> None:
    """How much is printed, for people or for pipes."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help=json)
    group.add_argument("--quiet", action="store_true", help=quiet)


def client_of(options: argparse.Namespace) -> Client:
    """The client that the flags of `add_server` ask for."""
    return Client(options.url, api_key=options.api_key, max_retries=options.max_retries)


def async_client_of(options: argparse.Namespace) -> AsyncClient:
    """The same for asyncio."""
    return AsyncClient(options.url, api_key=options.api_key, max_retries=options.max_retries)


def given(options: argparse.Namespace, names: dict[str, Any]) -> Any:
    """What was given of a request's flags."""
    return {name: value for name, value in vars(options).items() if name in names}
