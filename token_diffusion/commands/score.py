"""`score`: how likely texts are."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine.scores import Score, ranking, table
from ..errors import ParameterError
from ..samplers.scoring import estimator_of
from ..sampling import score
from ..text import Passage, encode_passage
from .folder import add_checkpoint, load


def add_score(commands: Any) -> None:
    """Its flags."""
    description = "how likely texts are, by any checkpoint: a bound on -ln p, its error, and their ranking"
    command = commands.add_parser("score", help=description, description=description)
    add = command.add_argument
    add_checkpoint(command)
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


def score_texts(arguments: argparse.Namespace) -> None:
    """Loads, scores, prints."""
    texts = _read_texts(arguments)
    checkpoint = load(arguments)
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
