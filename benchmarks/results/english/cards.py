"""What the card of a demo has beside what the trainer writes: how it reads, what it has learnt under which licence, in what time.

    python -m benchmarks.results.english.cards checkpoints/mdlm-english \\
        --stage runs/mdlm-english/final/README.md 7.5 "one core of an AMD EPYC" --stories storybooks-ccby/stories.tsv

`--stage`: a run that it was trained in: the card of its end, hours, machine; again for each. They are kept in the folder as
`training.json`. `--stories`: who wrote the stories of storybooks-ccby, a file that is put into the folder, as their licence asks.
What `benchmarks.results.english.reading --output` has found lies there as `reading.json`. The command without flags writes the
card anew after any of these has changed, or the trainer has written another: all of it stands between two marks, and is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from token_diffusion.errors import ParameterError
from trainer.output.files import write_whole
from trainer.report.card import COMMANDS

from ... import command
from ..block import put, quoted
from .part import note, table

PROGRAM = "benchmarks.results.english.cards"

READING, TRAINING, STORIES = "reading.json", "training.json", "stories.tsv"
STORYBOOKS = "storybooks-ccby"
ASKED = {"sampler": "ancestral", "temperature": 1.0, "top_p": 1.0}


class Licence(NamedTuple):
    """Of a text: what it is, under which terms, and the words that these ask for."""

    text: str
    terms: str
    attribution: str


BY = "[CC BY {0}](https://creativecommons.org/licenses/by/{1}/)"
LICENCES = {
    "gutenberg-simple": Licence(
        "easy passages of children's books of the 19th and early 20th century, from e-books of Project Gutenberg; "
        "paragraphs joined, quotes and dashes turned to ASCII",
        "public domain in the USA; elsewhere it depends on the life of the author",
        "none is asked for",
    ),
    STORYBOOKS: Licence(
        "picture-book stories of Pratham Books' StoryWeaver (`pb-source`) and of the African Storybook (`asp-source`); "
        "page marks cut, pages joined, quotes turned to ASCII",
        f"{BY.format('4.0', '4.0')} (StoryWeaver) and {BY.format('3.0', '3.0')} (African Storybook); one is in the public domain",
        f"title, author and source of every story: [{STORIES}]({STORIES})",
    ),
    "tatoeba-english": Licence(
        "English sentences of Tatoeba, by way of manythings.org/anki; repeats cut, quotes turned to ASCII",
        BY.format("2.0 FR", "2.0/fr"),
        "Sentences from tatoeba.org, CC BY 2.0 FR",
    ),
}

TERMS = """The weights and this card are given under Apache-2.0, as the repository is: that is our own part. The texts were
cleaned and put together, and stay under their terms. But for what prompted and infilled samples are given of them, they do not
lie in this folder; but a model can repeat what it has learnt (the table above says how much it does). What it repeats of a text
is that text, and who passes it on owes the attribution."""

HEAD = {
    "license": "other",
    "license_name": "apache-2.0-texts-with-attribution",
    "license_link": "#texts-and-licences",
    "language": "en",
}


class Stage(NamedTuple):
    """A run: what was typed, tokens seen in it, hours, and on what."""

    command: str
    tokens: int
    hours: float
    machine: str


def stage(card: Path, hours: str, machine: str) -> dict[str, Any]:
    """As the trainer's card tells it. Raises `ParameterError` for a file that is none."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    tokens = re.search(r"^\| Tokens seen \| ([\d,]+)", text, re.MULTILINE)
    command = re.search(r"^## How it was made\n\n```\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
    if tokens is None or command is None:
        raise ParameterError("stage", "begin with a card that the trainer has written", str(card))
    try:
        took = float(hours)
    except ValueError as error:
        raise ParameterError("stage", "have a number of hours behind its card", hours) from error
    return Stage(command[1], int(tokens[1].replace(",", "")), took, machine)._asdict()


def rewrite(folder: Path) -> None:
    """The card of a folder that has all it is made of. Raises `ParameterError`."""
    for name, maker in {
        READING: "benchmarks.results.english.reading",
        TRAINING: "--stage",
    }.items():
        if not (folder / name).is_file():
            raise ParameterError("checkpoint_path", f"hold {name}, which {maker} writes", str(folder))
    read, runs = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (READING, TRAINING))
    stages = [Stage(**each) for each in runs]
    for name, value in ASKED.items():
        if read[name] != value:
            raise ParameterError(READING, f"be of {name} {value}, as the aims are", read[name])
    parts = [samples(read), figures(read), licences(folder, read), training(stages)]
    put(folder, "\n\n".join(parts), HEAD)


def samples(read: dict[str, Any]) -> str:
    """Ten free ones, the first prompted and the first infilled one."""
    kinds = {
        each["kind"]: each for each in read["measured"]
    }  # the last free ones are first-hitting, where there is that
    free = kinds["free"]
    steps = free["num_inference_steps"]
    typed = f"{COMMANDS[read['process']]} --checkpoint_path THIS_FOLDER --seq_len {read['seq_len']} --num_samples 1"
    typed += f" --num_inference_steps {steps or 'none'}"
    how = "first-hitting" if steps is None else f"{steps} steps"
    first, last = read["seed"], read["seed"] + len(free["examples"]) - 1
    parts = [
        f"## What it writes\n\nNot chosen: seeds {first} to {last}, {how}, {read['seq_len']} tokens, temperature 1.",
        f"```\npython -m token_diffusion {typed} --seed {first}\n```",
    ]
    for index, (_, text, _) in enumerate(free["examples"]):
        parts += [f"Seed {first + index}:", quoted(text)]
    if (prompted := kinds.get("prompted")) is not None:
        (before, drawn, _), *_ = prompted["examples"]
        parts += [
            "Prompted, the first of the table's; given, from held-out text:",
            quoted(before),
            "drawn:",
            quoted(drawn),
        ]
    if (infilled := kinds.get("infilled")) is not None:
        (before, drawn, behind), *_ = infilled["examples"]
        parts += ["Infilled, the first of the table's; given:", quoted(before), "drawn:", quoted(drawn)]
        parts += ["given:", quoted(behind)]
    return "\n\n".join(parts)


def figures(read: dict[str, Any]) -> str:
    flags = {name: read[name] for name in ("num_samples", "seq_len", "seed")}
    flags |= {"judge": read["judge"]["name"], "num_inference_steps": read["measured"][0]["num_inference_steps"]}
    asked = [f"--{name} {value}" for name, value in flags.items()] + [
        f"--text {' '.join(each)}" for each in read["texts"]
    ]
    typed = f"python -m benchmarks.results.english.reading --checkpoint_path THIS_FOLDER {' '.join(asked)}"
    parts = ["## Its samples beside held-out text", note(read), table({read["checkpoint"]: read}).markdown()]
    return "\n\n".join([*parts, f"```\n{typed}\n```"])


def licences(folder: Path, read: dict[str, Any]) -> str:
    """Of each text that was learnt. Raises `ParameterError` where one of them, or what it asks for, is not known."""
    lines = ["| text | what | terms | attribution |", "|---|---|---|---|"]
    for learnt, *_ in read["texts"]:
        name = learnt.partition("/")[0]
        if name not in LICENCES:
            raise ParameterError("text", f"be one whose licence is known ({', '.join(LICENCES)})", name)
        if name == STORYBOOKS and not (folder / STORIES).is_file():
            raise ParameterError("stories", f"be given, as its licence asks for the authors of {name}", None)
        lines.append(f"| {name} | {' | '.join(LICENCES[name])} |")
    return "\n\n".join(["## Texts and licences", "\n".join(lines), TERMS])


def training(stages: Sequence[Stage]) -> str:
    """Tokens, hours, commands, in all and run by run."""
    tokens, hours = sum(each.tokens for each in stages), sum(each.hours for each in stages)
    rows = [f"| {run} | {each.tokens:,} | {each.hours:g} | {each.machine} |" for run, each in enumerate(stages, 1)]
    total = f"In all {tokens:,} tokens seen, in {hours:g} hours; the last run is the one that the rest of this card is about."
    commands = "\n".join(each.command for each in stages)
    lines = ["| run | tokens seen | hours | on |", "|---|---|---|---|", *rows]
    return "\n\n".join(["## All of its training", total, "\n".join(lines), f"```\n{commands}\n```"])


def make_parser() -> argparse.ArgumentParser:
    parser = command.make_parser(PROGRAM, __doc__)
    parser.add_argument("checkpoint_path", type=Path)
    parser.add_argument(
        "--stage", nargs=3, action="append", metavar=("CARD", "HOURS", "MACHINE"), help="in their order"
    )
    parser.add_argument("--stories", type=Path, help="stories.tsv of storybooks-ccby")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Keeps what is given in the folder, and writes its card."""
    asked = make_parser().parse_args(arguments)
    folder: Path = asked.checkpoint_path
    if asked.stage:
        runs = [stage(Path(card), hours, machine) for card, hours, machine in asked.stage]
        write_whole(folder / TRAINING, json.dumps(runs, indent=1) + "\n")
    if asked.stories is not None:
        shutil.copyfile(asked.stories, folder / STORIES)
    rewrite(folder)
    return 0


if __name__ == "__main__":
    command.run(PROGRAM, main, (ValueError, OSError))
