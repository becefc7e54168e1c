"""Each offline sampler against the loop as the papers' code writes it, on the same weights.

    python -m benchmarks.samplers [--only mdlm udlm hybrid block] [--textbook_steps 6]

The textbook loop runs the whole network at every step, keeps a vocabulary-sized posterior for every position, and draws it
with Gumbel noise over the full vocabulary. Each of its steps costs the same, so a few are timed and their median is multiplied
by their number; ours runs whole. Both are timed in turn in one process, on random weights of BERT's vocabulary (about 22 M
parameters).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.parameters import SamplingParameters
from token_diffusion.sampling import run

VOCAB_SIZE, MASK = 30522, 103


@dataclass(frozen=True)
class Case:
    """A setting of the original example scripts."""

    process: str
    parameters: SamplingParameters


CASES = {
    "mdlm": Case("absorbing", SamplingParameters(64, 4, 128)),
    "udlm": Case("uniform", SamplingParameters(64, 4, 128)),
    "hybrid": Case("hybrid", SamplingParameters(256, 4, 64)),
    "block": Case("absorbing", SamplingParameters(256, 4, 64, top_p=0.9, block_size=32)),
}


def make_model() -> BertForMaskedLM:
    """BERT's vocabulary, 6 layers of 384."""
    torch.manual_seed(0)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536)
    return BertForMaskedLM(config).eval()


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits [B, L, V] with all but the nucleus at -inf."""
    ranked, order = logits.sort(-1, descending=True)
    drop = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1) >= top_p
    return logits.masked_fill(torch.zeros_like(drop).scatter_(-1, order, drop), -torch.inf)


@torch.inference_mode()
def textbook_step(model: BertForMaskedLM, scheduler: TokenDiffusionScheduler, z: Tensor, k: int, case: Case) -> Tensor:
    """One reverse step for all positions: q(z_s | z_t, theta) as [B, L, V] and a Gumbel draw from it."""
    n, process = case.parameters.num_inference_steps, scheduler.process
    assert n is not None
    now, then = (process.masses(torch.tensor(1 - i / n, dtype=torch.float64)) for i in (k, k + 1))
    logits = model(input_ids=z).logits
    logits[..., MASK] = -torch.inf
    if case.parameters.top_p < 1:
        logits = nucleus(logits, case.parameters.top_p)
    theta = logits.softmax(-1)
    kept = float(now.alpha / then.alpha)
    landing = (
        float(process.states.landing(torch.tensor(0), then)),
        float(process.states.landing(torch.tensor(MASK), then)),
    )
    at_s = float(then.alpha) * theta + landing[0]
    at_s[..., MASK] = landing[1]
    noise_t, noise_s = (process.states.landing(z, masses) for masses in (now, then))
    step = (noise_t - kept * noise_s).float().unsqueeze(-1).expand_as(at_s).clone()
    step.scatter_add_(-1, z.unsqueeze(-1), torch.full_like(z, kept, dtype=torch.float32).unsqueeze(-1))
    posterior = at_s * step
    gumbel = -torch.log(-torch.log(torch.rand_like(posterior).clamp_(1e-30, 1 - 1e-7)))
    return (posterior.log() + gumbel).argmax(-1)


def time_textbook(model: BertForMaskedLM, scheduler: TokenDiffusionScheduler, case: Case, steps: int) -> float:
    """Seconds for all steps, from the median of a few spread over the grid."""
    parameters = case.parameters
    assert parameters.num_inference_steps is not None
    z = scheduler.sample_prior((parameters.num_samples, parameters.seq_len))
    seconds = []
    for index in range(steps):
        k = index * parameters.num_inference_steps // steps
        seconds.append(timed(lambda z=z, k=k: textbook_step(model, scheduler, z, k, case)))  # type: ignore[misc]
    blocks = -(-parameters.seq_len // (parameters.block_size or parameters.seq_len))
    return statistics.median(seconds) * parameters.num_inference_steps * blocks


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--textbook_steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="both are timed this often, in turn; the medians count")
    arguments = parser.parse_args()
    model = make_model()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {versions}, float32, ")
    print(f"{model.num_parameters() / 1e6:.1f} M parameters, random weights; medians of {arguments.rounds} rounds\n")
    print("| sampler | samples x tokens, steps | textbook s | ours s | textbook / ours | evaluations of steps |")
    print("|---|---|---|---|---|---|")
    for name in arguments.only:
        case = CASES[name]
        parameters = case.parameters
        scheduler = TokenDiffusionScheduler(VOCAB_SIZE, MASK, forward_process=case.process)
        theirs, ours, nfe, skipped = [], [], 0, 0
        for _ in range(arguments.rounds):
            theirs.append(time_textbook(model, scheduler, case, arguments.textbook_steps))
            start = time.perf_counter()
            output = run(model, scheduler, parameters)
            ours.append(time.perf_counter() - start)
            nfe, skipped = output.nfe, output.forwards_skipped
        ratio = statistics.median(t / o for t, o in zip(theirs, ours, strict=True))
        block = f", blocks of {parameters.block_size}, top-p {parameters.top_p}" if parameters.block_size else ""
        setting = f"{parameters.num_samples} x {parameters.seq_len}, {parameters.num_inference_steps}{block}"
        medians = f"{statistics.median(theirs):.1f} | {statistics.median(ours):.1f}"
        print(f"| {name} | {setting} | {medians} | {ratio:.1f} | {nfe} of {nfe + skipped} |", flush=True)


if __name__ == "__main__":
    main()
