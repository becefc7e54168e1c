"""Who computes the forward passes: every backend beside the matrix products alone, in float32 and bfloat16, on this CPU.

    python -m benchmarks backends [--backends torch openvino compile] [--quick]

Forward passes (passes.py) are those that samplers make, of the 22.7 M network: the body over rows x tokens, the head at a few
positions. Under them lie the same matrix products with nothing between them (products.py), each by the fastest kernel that
torch has for it here: what a pass takes beyond that is all else. All take turns in one process. The samplers (seeds.py) are
those of `samplers`, at the settings of the original scripts, with the textbook of the first of their authors in float32.
Then what a backend's answers are off by, whether neighbours change a request's tokens (sampling/determinism.py), and what it
costs to load (loading.py). A backend that is not installed, or refuses the network or the type, says so in its row.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.networks.backends import BACKENDS

from ..models import DEMOS, save_random
from ..network.precision import error
from ..report import Section, Table
from ..sampling.determinism import CANCELLED, Mode, compare, make_requests
from ..sampling.samplers import CASES
from .contenders import DTYPES, PLAIN, Contender
from .loading import cost
from .passes import apart, passes
from .seeds import seeds

NOTE = """22.7 M parameters, random weights; in parentheses a pass / the products alone. The products are the linear layers, with
the head at the asked positions, and attention's two, each by the fastest kernel of torch here; plain is the network as
transformers loads it, torch what `load_checkpoint` makes of it."""

SEEDS_NOTE = """**Samplers**: textbook in float32, its time extrapolated from a few of its steps; ours whole, by every backend."""

ANSWERS_NOTE = """**Answers and costs.** Logits: the largest difference from plain float32, as a share of the largest logit. ln p:
mean absolute error in nats against float32 on the MDLM demo. Requests: how many of the demo's have any differing token alone
and among others, in mode fast; in mode exact. Load: seconds of `load_checkpoint`, then of the first passes at all the shapes
above; MB that the process grew by, after these and at most."""

ANSWERS = ["by", "type", "logits differ by", "error of ln p", "requests that differ", "in mode exact"]
ANSWERS += ["load s", "first passes s", "resident MB", "peak MB"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS), help="some of them")
    parser.add_argument("--only", nargs="*", choices=list(CASES), help="some of the samplers, or none")
    parser.add_argument(
        "--rounds", type=int, default=30, help="forward passes of each, in turn; a tenth as many samples"
    )
    parser.add_argument(
        "--textbook_steps", type=int, default=8, help="steps of a textbook loop that are timed a round"
    )
    parser.add_argument("--requests", type=int, default=240, help="alone and among others, of each backend and type")


def section(arguments: argparse.Namespace) -> Section:
    """Passes, samplers, answers; a difference in mode exact is a failure."""
    found = Section("backends", "Backends: who computes the forward passes", [NOTE])
    if arguments.device != "cpu":
        found.parts.append("Measured on the CPU alone.")
        return found
    backends, quick = list(arguments.backends), arguments.quick
    names = list(CASES) if arguments.only is None else arguments.only
    rounds, samples, requests = (
        (3, 2, 24) if quick else (arguments.rounds, arguments.textbook_steps, arguments.requests)
    )
    with TemporaryDirectory(prefix="token-diffusion-") as root:
        folder = save_random(Path(root) / "random", "absorbing")
        contenders = [Contender(folder, who, dtype) for dtype in DTYPES for who in (PLAIN, *backends)]
        for dtype in DTYPES:
            found.parts += [
                f"**Forward passes, {dtype}**",
                passes([e for e in contenders if e.dtype == dtype], rounds),
            ]
        if names:
            found.parts += [
                SEEDS_NOTE,
                seeds(Path(root), backends, names[: 1 if quick else None], max(1, rounds // 10), samples),
            ]
        found.parts += [ANSWERS_NOTE, answers(contenders, requests, found.failures)]
    return found


def answers(contenders: list[Contender], requests: int, failures: list[str]) -> Table:
    """The last table; whoever refuses says why in it."""
    table, exact = Table(ANSWERS), Contender(DEMOS["mdlm"], "torch", "float32").checkpoint
    plain = contenders[0].denoiser
    for each in contenders:
        if each.refusal is not None:
            table.add(each.backend, each.dtype, each.refusal, *[""] * (len(ANSWERS) - 3))
            continue
        off: list[object] = ["", "", ""]
        if each.backend != PLAIN:
            demo = Contender(DEMOS["mdlm"], each.backend, each.dtype).checkpoint
            off = [error(exact, demo), *(differing(demo, mode, requests) for mode in ("fast", "exact"))]
            if not str(off[2]).startswith(("0 of", "refused")):
                failures.append(f"{each.backend}, {each.dtype}: {off[2]} requests differ in mode exact")
        costs = cost(each.folder, each.backend, each.dtype)
        logits = f"{apart(plain, each.denoiser):.0e}"
        table.add(each.backend, each.dtype, logits, *off, costs.load, costs.first, costs.resident, costs.peak)
    return table


def differing(checkpoint: Checkpoint, mode: Mode, requests: int) -> str:
    """How many requests have another token among others than alone, as it stands in the table."""
    asked = make_requests(requests * CANCELLED // (CANCELLED - 1), seed=0)
    try:
        counts = compare(checkpoint, mode, asked).values()
    except ParameterError as error:
        return f"refused: {error}"
    return f"{sum(each.differing for each in counts)} of {sum(each.requests for each in counts)}"
