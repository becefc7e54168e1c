"""Each decoder's quality against the network evaluations that it takes.

    python -m benchmarks decoders --judge judge --reference held-out.txt [--checkpoint NAME=DIR ...] [--quick]

On the demo checkpoints and on what `--checkpoint` names: samples of every decoder that fits a model's process, at
several budgets, under a judge that `python -m benchmarks.decoders.judge` trained on the same kind of text (quality.py says
what is measured). `--judge NAME=DIR` and `--reference NAME=FILE` are for one of the checkpoints, without a name for all
others. With `--output` a picture goes into `pictures/` beside the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.diffusion.values import check_int
from token_diffusion.errors import ParameterError
from trainer.evaluation.quality import load_judge

from ..models import DEMOS
from ..report import Section, Table
from .picture import Measured, draw
from .quality import Examiner, Quality
from .settings import BUDGETS, settings

PICTURE = Path("pictures") / "decoders.png"
COLUMNS = ["decoder", "budget", "evaluations", "generative perplexity", "entropy", "a sample's entropy"]
COLUMNS += ["bound, nats a token", "MAUVE"]

QUALITY_NOTE = """{count} samples of {seq_len} tokens a setting, at temperature 1 unless it is a preset with another, beside
as many pieces of text that was held out of everything. Perplexity: a token of the judge {judge}, ± one standard error
over samples. Entropy: unigram, nats, of the tokens of all samples together, and the mean of each sample's own. Bound: of the
samples under the model itself, at {num_times} times each. MAUVE: on the judge's features (a text's mean), against other pieces of
held-out text than those of the first row. **These are no paper's figures**: the judge is a small model of our own ({judged}),
the samples are short, and MAUVE of so few is rough (with many the first row's would be 1). They compare the rows of one table,
and nothing else. A low perplexity with an entropy far below that of the text is repetition."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--judge", nargs="+", required=True, metavar="[NAME=]DIR", help="folders of `benchmarks.decoders.judge`"
    )
    parser.add_argument(
        "--reference", nargs="+", required=True, metavar="[NAME=]FILE", help="text held out of everything"
    )
    parser.add_argument("--checkpoint", nargs="+", default=[], metavar="NAME=DIR", help="models beside the demos")
    parser.add_argument("--only", nargs="+", help="names of the models, as the demos mdlm, udlm, hybrid")
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS), help="steps")
    parser.add_argument("--num_samples", type=int, default=64)
    parser.add_argument("--seq_len", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)


def section(arguments: argparse.Namespace) -> Section:
    """A table a model, and the picture of all of them."""
    if arguments.quick:
        arguments.budgets, arguments.num_samples, arguments.seq_len = [4, 16], 16, 32
    for name, least in {"num_samples": 2, "seq_len": 2}.items():
        check_int(name, getattr(arguments, name), least, 2**31)
    found = Section("decoders", "Decoders: quality against evaluations")
    add_quality(found, arguments)
    return found


def add_quality(found: Section, arguments: argparse.Namespace) -> None:
    """The tables, below how to read them."""
    models: dict[str, tuple[Quality, Sequence[Measured]]] = {}
    judges: dict[str, str] = {}
    for name, examiner in examiners(arguments):
        models[name] = examiner.text(), list(examined(name, examiner, arguments))
        judges[examiner.judge.name] = f"`{examiner.judge.name}`: {examiner.judge.model.num_parameters() / 1e6:.1f} M"
    names = " or ".join(f"`{name}`" for name in judges)
    note = QUALITY_NOTE.format(
        count=arguments.num_samples,
        seq_len=arguments.seq_len,
        judge=names,
        judged=", ".join(judges.values()) + " parameters",
        num_times=Examiner.NUM_TIMES,
    )
    found.parts.append(note)
    if arguments.output is not None:
        picture = arguments.output.parent / PICTURE
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(draw(models))
        found.parts.append(f"![Perplexity and entropy against evaluations]({PICTURE.as_posix()})")
    for name, (text, measured) in models.items():
        table = Table(COLUMNS)
        table.add("held-out text", "", *cells(text))
        for setting, quality in measured:
            table.add(setting.name, setting.budget, *cells(quality))
        found.parts += [f"**{name}**:", table]


def examined(name: str, examiner: Examiner, arguments: argparse.Namespace) -> Iterator[Measured]:
    """Every setting that fits the model's process."""
    for setting in settings(examiner.checkpoint.process, arguments.budgets):
        print(f"{name}: {setting.name} {setting.budget}", file=sys.stderr, flush=True)
        parameters = setting.parameters(arguments.seq_len, arguments.num_samples, arguments.seed)
        yield setting, examiner.samples(parameters)


def examiners(arguments: argparse.Namespace) -> Iterator[tuple[str, Examiner]]:
    """One after the other, the model's name first. Raises `ParameterError` before any is made for what cannot be done."""
    given = [each.partition("=") for each in arguments.checkpoint]
    for name, _, folder in given:
        if not folder:
            raise ParameterError("checkpoint", "be NAME=DIR", name)
    folders = {**{name: str(path) for name, path in DEMOS.items()}, **{name: folder for name, _, folder in given}}
    for name in arguments.only or []:
        if name not in folders:
            raise ParameterError("only", f"be among {', '.join(folders)}", name)
    chosen = {name: folders[name] for name in arguments.only or folders}
    judges, texts = (named(flag, getattr(arguments, flag), chosen) for flag in ("judge", "reference"))
    for name, folder in chosen.items():
        checkpoint: Checkpoint = load_checkpoint(folder, name=name, device=arguments.device, dtype=arguments.dtype)
        try:
            judge = load_judge(judges[name], arguments.device)
        except ParameterError as error:  # the trainer has another name for it
            raise ParameterError("judge", error.rule, error.value) from error
        yield name, Examiner(checkpoint, judge, Path(texts[name]), arguments.num_samples, arguments.seq_len)


def named(flag: str, given: Sequence[str], models: Any) -> dict[str, str]:
    """What is given for each model: under its name, or else what has no name. Raises `ParameterError`."""
    found = dict.fromkeys(models, "")
    pairs = [
        (name, value) if equals else ("", name) for name, equals, value in (each.partition("=") for each in given)
    ]
    for name, value in sorted(pairs):
        if name and name not in found:
            raise ParameterError(flag, f"be for one of {', '.join(models)}", f"{name}={value}")
        for each in [name] if name else list(found):
            found[each] = value
    for name, value in found.items():
        if not value:
            raise ParameterError(flag, f"be given for {name}", " ".join(given))
    return found


def cells(quality: Quality) -> tuple[object, ...]:
    """Of a table's row, behind the setting."""
    perplexity, bound = quality.perplexity, quality.bound
    nfe = "" if quality.nfe is None else f"{quality.nfe:.1f}"
    spread = f"{perplexity.value:.1f} ± {perplexity.error:.1f}"
    own = f"{bound.value:.2f} ± {bound.error:.2f}"
    return nfe, spread, f"{quality.entropy:.2f}", f"{quality.sample_entropy:.2f}", own, f"{quality.mauve:.2f}"
