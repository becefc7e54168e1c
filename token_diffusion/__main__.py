"""Offline sampling and scoring: `python -m token_diffusion sample|sample-block|sample-hybrid|score --checkpoint_path DIR`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from .checkpoint import DTYPES, Checkpoint, load_checkpoint
from .checkpoint.conversion import WRITTEN, convert
from .engine.scores import Score, ranking, table
from .errors import ParameterError
from .networks.cpu.memory import prepare
from .networks.cpu.threads import set_threads
from .networks.hub import local_folder, tokenizer_folder
from .samplers.blocks import check_fixed
from .samplers.parameters import SamplingParameters
from .samplers.scoring import estimator_of
from .sampling import SampleOutput, run, score
from .text import OPEN, Ending, Passage, check_stops, encode, encode_passage, ending, read_messages

COMMANDS = {
    "sample": (("absorbing", "uniform"), "ancestral sampling from an absorbing (MDLM) or uniform (UDLM) checkpoint"),
    "sample-block": (("absorbing", "uniform", "hybrid"), "block-wise sampling, left to right, from any checkpoint"),
    "sample-hybrid": (("hybrid",), "ancestral sampling from a hybrid (GIDD) checkpoint"),
}

BLOCK_SIZE = 16
"""Tokens of a block, where neither a flag nor the model says."""


def _steps(text: str) -> int | None:
    try:
        return None if text.lower() == "none" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer or none, got {text!r}") from None


def build_parser() -> argparse.ArgumentParser:
    """The seed's flags, with the seed's defaults."""
    parser = argparse.ArgumentParser(prog="python -m token_diffusion", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, description) in COMMANDS.items():
        command = commands.add_parser(name, help=description, description=description)
        add = command.add_argument
        _add_checkpoint(command)
        text = command.add_mutually_exclusive_group()
        text.add_argument("--prompt", help="fixed prefix")
        text.add_argument("--template", help="text whose [MASK] holes are filled in, one token each")
        text.add_argument("--prompt_ids", type=int, nargs="+", help="fixed prefix as token ids, without the frame's")
        text.add_argument("--template_ids", type=int, nargs="+", help="template as token ids; the mask's id is a hole")
        help_messages = "prompt as a conversation, for models with a chat template: messages in JSON, or their file"
        text.add_argument("--messages", help=f'{help_messages}: \'[{{"role": "user", "content": "Hi"}}]\'')
        add("--num_samples", type=int, default=4, help="sequences drawn (default: %(default)s)")
        add("--seq_len", type=int, help="tokens in all (default: 64, or the template's length)")
        if name == "sample-block":
            add("--block_size", type=int, help=f"tokens a block (default: {BLOCK_SIZE}, or a block-causal model's)")
        steps = 32 if name == "sample-block" else 64 if name == "sample-hybrid" else 128
        help_steps = "steps of the time grid (each block's); 'none': first-hitting, absorbing alone"
        add("--num_inference_steps", type=_steps, default=steps, help=f"{help_steps} (default: {steps})")
        add("--temperature", type=float, default=1.0, help="divides the logits; 0 is greedy (default: %(default)s)")
        add("--top_p", type=float, default=1.0, help="nucleus, in (0, 1] (default: %(default)s)")
        add("--top_k", type=int, default=0, help="most probable tokens kept, 0 for all (default: %(default)s)")
        add("--min_p", type=float, default=0.0, help="tokens kept, by the largest's share (default: %(default)s)")
        add("--stop", nargs="+", default=[], help="strings that end a text where they were drawn")
        add("--label", type=int, help="class that the model is told, for models with labels (default: none)")
        add("--seed", type=int, default=0, help="same seed, same samples (default: %(default)s)")
        add("--inject_start_token", action="store_true", help="begin with [CLS] or BOS where the frame does not")
        add("--json", action="store_true", help="print one JSON object instead of text")
    _add_score(commands)
    _add_convert(commands)
    return parser


def _add_folders(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--checkpoint_path", required=True, help="folder of a checkpoint, or org/name or org/name@revision of the hub")
    help_tokenizer = "of the tokenizer, if it is not the checkpoint's own"
    add("--tokenizer_name", help=f"folder, or repository of the hub, {help_tokenizer}")


def _add_checkpoint(command: argparse.ArgumentParser) -> None:
    """The flags that say which, and how it is loaded."""
    _add_folders(command)
    add = command.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)")
    add("--dtype", choices=list(DTYPES), help="of the weights (default: bfloat16 if they are that, else float32)")


def _add_score(commands: Any) -> None:
    description = "how likely texts are, by any checkpoint: a bound on -ln p, its error, and their ranking"
    command = commands.add_parser("score", help=description, description=description)
    add = command.add_argument
    _add_checkpoint(command)
    texts = command.add_mutually_exclusive_group(required=True)
    texts.add_argument("--texts", nargs="+", metavar="TEXT", help="the texts")
    texts.add_argument("--file", type=Path, help="file with a text on each line; empty lines are passed over")
    add("--prefix", help="text before each of them, given: the scores are conditional on it")
    help_times = "noised versions of each text; the error falls at least as one over their square root"
    add("--num_times", type=int, default=16, help=f"{help_times} (default: %(default)s)")
    help_estimator = "noise is drawn at times or, absorbing alone, by the number of masks"
    add("--estimator", choices=["times", "counts"], help=f"{help_estimator} (default: counts for absorbing)")
    add("--label", type=int, help="class that the model is told, given as the prefix is (default: none)")
    add("--seed", type=int, default=0, help="same seed, same scores (default: %(default)s)")
    add("--json", action="store_true", help="print one JSON object instead of a table")


def _add_convert(commands: Any) -> None:
    description = "any checkpoint that loads, or adapters and their model, as an ordinary folder of the same logits"
    command = commands.add_parser("convert", help=description, description=description)
    _add_folders(command)
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


def _load(arguments: argparse.Namespace) -> Checkpoint:
    folder = local_folder("checkpoint_path", arguments.checkpoint_path)
    options = {name: getattr(arguments, name) for name in ("device", "dtype")}
    return load_checkpoint(folder, tokenizer_name=tokenizer_folder(arguments.tokenizer_name), **options)


def sample_text(arguments: argparse.Namespace) -> None:
    """Loads, samples, prints."""
    checkpoint = _load(arguments)
    needed = COMMANDS[arguments.command][0]
    if checkpoint.process not in needed:
        others = " or ".join(name for name, (takes, _) in COMMANDS.items() if checkpoint.process in takes)
        rule = f"hold a model of the {' or '.join(needed)} process for {arguments.command} (this one is for {others})"
        raise ParameterError("checkpoint_path", rule, checkpoint.process)
    block_size = _block_size(arguments, checkpoint)
    is_template = arguments.template is not None or arguments.template_ids is not None
    seq_len = 64 if arguments.seq_len is None and not is_template else arguments.seq_len
    check_stops(arguments.stop)
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
    parameters = SamplingParameters(
        seq_len=len(tokens),
        num_samples=arguments.num_samples,
        num_inference_steps=arguments.num_inference_steps,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        min_p=arguments.min_p,
        seed=arguments.seed,
        label=arguments.label,
        block_size=block_size,
    )
    checkpoint.check_seq_len(parameters.seq_len)
    check_fixed("template", tokens, checkpoint.block_size)
    start = time.perf_counter()
    output = run(checkpoint.denoiser, checkpoint.scheduler, parameters, tokens)
    seconds = time.perf_counter() - start
    how: dict[str, Any] = {"stop": arguments.stop, "facts": checkpoint.facts}
    if arguments.messages is not None:  # of a conversation only what comes next is told
        how["start"] = next((index for index, token in enumerate(tokens) if token == OPEN), len(tokens))
    endings = [ending(checkpoint.tokenizer, row, tokens, **how) for row in output.sequences.tolist()]
    _print(arguments, output, endings, seconds)


def _block_size(arguments: argparse.Namespace, checkpoint: Checkpoint) -> int | None:
    """Tokens of the blocks that are filled in one after the other; None: the whole text at once, or a model's own blocks."""
    own = checkpoint.block_size
    if arguments.command == "sample-block":
        return BLOCK_SIZE if arguments.block_size is None and own is None else arguments.block_size
    if own is not None:
        rule = f"hold a model that sees the whole text for {arguments.command}, not a block-causal one, as sample-block may"
        raise ParameterError("checkpoint_path", rule, f"blocks of {own} tokens")
    return None


def _print(arguments: argparse.Namespace, output: SampleOutput, endings: list[Ending], seconds: float) -> None:
    if arguments.json:
        samples = [
            {"text": end.text, "tokens": row, "finish_reason": end.reason}
            for end, row in zip(endings, output.sequences.tolist(), strict=True)
        ]
        usage = {"nfe": output.nfe, "forwards_skipped": output.forwards_skipped}
        print(json.dumps({"samples": samples, "seed": arguments.seed, "usage": usage, "seconds": round(seconds, 3)}))
        return
    for index, end in enumerate(endings):
        print(f"[{index}] {end.text}")
    skipped = f"{output.forwards_skipped} skipped"
    print(f"{output.nfe} network evaluations ({skipped}), {seconds:.2f} s, seed {arguments.seed}", file=sys.stderr)


def score_texts(arguments: argparse.Namespace) -> None:
    """Loads, scores, prints."""
    texts = _read_texts(arguments)
    checkpoint = _load(arguments)
    options: dict[str, Any] = {"prefix": arguments.prefix, "frame": checkpoint.facts.frame}
    options["max_tokens"] = checkpoint.max_seq_len
    passages = [encode_passage(checkpoint.tokenizer, text, name=name, **options) for name, text in texts.items()]
    estimator = estimator_of(checkpoint.scheduler.process, arguments.estimator)
    start = time.perf_counter()
    scores = score(
        checkpoint.denoiser,
        checkpoint.scheduler,
        [passage.tokens for passage in passages],
        given=[passage.given for passage in passages],
        labels=[arguments.label] * len(passages),
        num_times=arguments.num_times,
        estimator=estimator,
        seed=arguments.seed,
    )
    seconds = time.perf_counter() - start
    if arguments.json:
        asked = {"seed": arguments.seed, "num_times": arguments.num_times, "estimator": estimator}
        found = {"scores": _figures(passages, scores), "ranking": ranking(scores)}
        print(json.dumps({**found, **asked, "seconds": round(seconds, 3)}))
        return
    print(*table(list(texts.values()), scores), sep="\n")
    if unknown := sum(passage.num_unknown for passage in passages):
        print(f"{unknown} tokens that the tokenizer does not know are given, not scored", file=sys.stderr)
    how = f"{arguments.num_times} noised versions of each by {estimator}"
    print(f"{how}, {seconds:.2f} s, seed {arguments.seed}", file=sys.stderr)


def _read_texts(arguments: argparse.Namespace) -> dict[str, str]:
    """The texts by the names that errors have for them."""
    if arguments.file is None:
        return {f"texts.{index}": text for index, text in enumerate(arguments.texts)}
    try:
        # Not splitlines, which cuts at form feeds, U+2028 and others, too.
        lines = arguments.file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ParameterError("file", f"be a text file that can be read ({reason})", str(arguments.file)) from error
    found = {f"line {number} of file": line for number, line in enumerate(lines, 1) if line.strip()}
    if not found:
        raise ParameterError("file", "hold at least one text", str(arguments.file))
    return found


def _figures(passages: Sequence[Passage], scores: Sequence[Score]) -> list[dict[str, Any]]:
    """As POST /score of the server has them."""
    return [
        {
            "index": index,
            "num_unknown": passage.num_unknown,
            "tokens": passage.text_tokens,
            **score.figures(passage.start, passage.end),
        }
        for index, (passage, score) in enumerate(zip(passages, scores, strict=True))
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 for a user's mistake, told in one line, or 130 after Ctrl-C."""
    arguments = build_parser().parse_args(argv)
    prepare()
    set_threads()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        {"score": score_texts, "convert": convert_folder}.get(arguments.command, sample_text)(arguments)
    except ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
