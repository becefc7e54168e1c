"""`sample`, `sample-block` and `sample-hybrid`: text from a checkpoint."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import ParameterError
from ..samplers.blocks import check_fixed
from ..samplers.parameters import SamplingParameters, default_seq_len
from ..samplers.presets import filled_in
from ..sampling import SampleOutput, run
from ..text import OPEN, Ending, check_stops, encode, ending, read_messages
from .fields import add_fields, fields_of
from .folder import add_checkpoint, load

COMMANDS = {
    "sample": (("absorbing", "uniform"), "sampling from an absorbing (MDLM) or uniform (UDLM) checkpoint"),
    "sample-block": (("absorbing", "uniform", "hybrid"), "block-wise sampling, left to right, from any checkpoint"),
    "sample-hybrid": (("hybrid",), "sampling from a hybrid (GIDD) checkpoint"),
}

BLOCK_SIZE = 16
"""Tokens of a block, where neither a flag nor the model says."""


def add_sample(commands: Any) -> None:
    """The seed's flags, with the seed's defaults, and those of the samplers."""
    for name, (_, description) in COMMANDS.items():
        command = commands.add_parser(name, help=description, description=description)
        add = command.add_argument
        add_checkpoint(command)
        text = command.add_mutually_exclusive_group()
        text.add_argument("--prompt", help="fixed prefix")
        text.add_argument("--template", help="text whose [MASK] holes are filled in, one token each")
        text.add_argument("--prompt_ids", type=int, nargs="+", help="fixed prefix as token ids, without the frame's")
        text.add_argument("--template_ids", type=int, nargs="+", help="template as token ids; the mask's id is a hole")
        help_messages = "prompt as a conversation, for models with a chat template: messages in JSON, or their file"
        text.add_argument("--messages", help=f'{help_messages}: \'[{{"role": "user", "content": "Hi"}}]\'')
        add("--num_samples", type=int, default=4, help="sequences drawn (default: %(default)s)")
        add(
            "--seq_len",
            type=int,
            help="tokens in all (default: the template's length, else 64 or as many as the model takes)",
        )
        steps = 32 if name == "sample-block" else 64 if name == "sample-hybrid" else 128
        add_fields(command, steps, BLOCK_SIZE if name == "sample-block" else None)
        add("--stop", nargs="+", default=[], help="strings that end a text where they were drawn")
        add("--seed", type=int, default=0, help="same seed, same samples (default: %(default)s)")
        add("--inject_start_token", action="store_true", help="begin with [CLS] or BOS where the frame does not")
        add("--logprobs", action="store_true", help="with --json: the model's own log-probability of each token")
        add("--json", action="store_true", help="print one JSON object instead of text")


def sample_text(arguments: argparse.Namespace) -> None:
    """Loads, samples, prints."""
    with filled_in(arguments.preset, arguments.given):
        _sample(arguments)


def _sample(arguments: argparse.Namespace) -> None:
    fields = fields_of(arguments)
    check_stops(arguments.stop)
    if arguments.logprobs and not arguments.json:
        raise ParameterError("logprobs", "come with json, which has room for them", True)
    checkpoint = load(arguments)
    _check_process(arguments, checkpoint)
    fields["block_size"] = _block_size(arguments, checkpoint, fields)
    tokens = _tokens(arguments, checkpoint)
    frame = checkpoint.facts.frame
    told = {name: getattr(arguments, name) for name in ("num_samples", "seed", "logprobs")}
    framed = {"seq_len": len(tokens), "frame": (len(frame.prefix), len(frame.suffix))}
    parameters = SamplingParameters.flat({**fields, **told, **framed})
    check_fixed("template", tokens, checkpoint.block_size)
    start = time.perf_counter()
    output = run(checkpoint.denoiser, checkpoint.scheduler, parameters, tokens)
    seconds = time.perf_counter() - start
    how: dict[str, Any] = {"stop": arguments.stop, "facts": checkpoint.facts}
    if arguments.messages is not None:  # of a conversation only what comes next is told
        how["start"] = next((index for index, token in enumerate(tokens) if token == OPEN), len(tokens))
    endings = [ending(checkpoint.tokenizer, row, tokens, **how) for row in output.sequences.tolist()]
    _print(arguments, parameters, output, endings, seconds)


def _check_process(arguments: argparse.Namespace, checkpoint: Checkpoint) -> None:
    """Raises `ParameterError` if the checkpoint is for another of the commands."""
    needed = COMMANDS[arguments.command][0]
    if checkpoint.process not in needed:
        others = " or ".join(name for name, (takes, _) in COMMANDS.items() if checkpoint.process in takes)
        rule = f"hold a model of the {' or '.join(needed)} process for {arguments.command} (this one is for {others})"
        raise ParameterError("checkpoint_path", rule, checkpoint.process)


def _tokens(arguments: argparse.Namespace, checkpoint: Checkpoint) -> list[int]:
    """What is given, with OPEN holes. Raises `ParameterError` if it does not fit."""
    is_template = arguments.template is not None or arguments.template_ids is not None
    seq_len = arguments.seq_len
    if seq_len is None and not is_template:
        seq_len = default_seq_len(checkpoint.max_seq_len)
    if seq_len is not None:
        SamplingParameters(seq_len)  # its own error, not one about a text that does not fit
        checkpoint.check_seq_len(seq_len)
    tokens = encode(
        checkpoint.tokenizer,
        seq_len=seq_len,
        prompt=arguments.prompt,
        template=arguments.template,
        prompt_ids=arguments.prompt_ids,
        template_ids=arguments.template_ids,
        messages=read_messages(arguments.messages),
        vocab_size=checkpoint.scheduler.config.vocab_size,
        inject_start_token=arguments.inject_start_token,
        frame=checkpoint.facts.frame,
    )
    checkpoint.check_seq_len(len(tokens))
    return tokens


def _block_size(arguments: argparse.Namespace, checkpoint: Checkpoint, fields: Mapping[str, Any]) -> int | None:
    """Tokens of the blocks that are filled in one after the other; None: the whole text at once, or a model's own blocks."""
    own = checkpoint.block_size
    if arguments.command == "sample-block":
        return arguments.block_size if own is not None else fields.get("block_size") or BLOCK_SIZE
    if own is not None:
        rule = f"hold a model that sees the whole text for {arguments.command}, not a block-causal one, as sample-block may"
        raise ParameterError("checkpoint_path", rule, f"blocks of {own} tokens")
    return None


def _print(
    arguments: argparse.Namespace,
    parameters: SamplingParameters,
    output: SampleOutput,
    endings: list[Ending],
    seconds: float,
) -> None:
    if arguments.json:
        samples = [
            {"text": end.text, "tokens": row, "finish_reason": end.reason}
            for end, row in zip(endings, output.sequences.tolist(), strict=True)
        ]
        found: dict[str, Any] = {"samples": samples, "seed": parameters.seed, "sampler": parameters.sampler}
        if output.logprobs is not None:
            found["logprobs"] = [
                [value if math.isfinite(value) else None for value in row] for row in output.logprobs.tolist()
            ]
        found["usage"] = {"nfe": output.nfe, "forwards_skipped": output.forwards_skipped}
        print(json.dumps({**found, "seconds": round(seconds, 3)}))
        return
    for index, end in enumerate(endings):
        print(f"[{index}] {end.text}")
    skipped = f"{output.forwards_skipped} skipped"
    print(f"{output.nfe} network evaluations ({skipped}), {seconds:.2f} s, seed {arguments.seed}", file=sys.stderr)
