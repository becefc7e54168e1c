"""Block-wise sampling against the released pipeline of diffusers (`LLaDA2Pipeline`), same model, block, steps and top-p.

    python -m benchmarks pipeline [--quick]

The pipeline calls `model(tokens, attention_mask=[B, L], position_ids=[B, L]).logits`, which masked LMs of transformers
take as they are: nothing is adapted. It gets an empty prompt, no editing and no stop at an end token, both of which would
make the two do different work. What cannot be made equal is counted and shown beside the times: forward passes, and the
positions that went through the network's body and through its vocabulary head.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import BlockRefinementScheduler, LLaDA2Pipeline

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run

from ..figures import median
from ..models import DEMOS, MASK, VOCAB_SIZE, as_loaded, plain_model, random_model
from ..report import Section, Table
from .limit import Recorder

SETTING = SamplingParameters(256, 4, 64, top_p=0.9, block_size=32)

NOTE = """Both fill 4 sequences of 256 tokens in blocks of 32, left to right, 64 steps a block, top-p 0.9, temperature 1. Not
the same method: the pipeline commits a quota of its most confident tokens a step (with 64 steps for 32 tokens: one a step,
in 32 steps, more at once where its confidence passes its threshold of 0.7), and its window ends with the active block. Ours
draws when each position unmasks from the schedule, and shows the network the whole sequence. "Ours, one token a step" is
our first-hitting sampler, which also makes about one forward pass a token. So compare the times together with the
forward passes and positions beside them."""


@dataclass(frozen=True)
class Work:
    """What a run asked of the network: forward passes, positions through the body, positions through the head."""

    nfe: int
    body: int
    head: int


def work_of_pipeline(pipeline: LLaDA2Pipeline, parameters: SamplingParameters, mask_token_id: int) -> Work:
    shapes: list[tuple[int, int]] = []
    handle = pipeline.model.register_forward_hook(lambda _, __, output: shapes.append(output.logits.shape[:2]))
    run_pipeline(pipeline, parameters, mask_token_id)
    handle.remove()
    positions = sum(rows * length for rows, length in shapes)
    return Work(len(shapes), positions, positions)


def run_pipeline(pipeline: LLaDA2Pipeline, parameters: SamplingParameters, mask_token_id: int, seed: int = 0) -> Any:
    """Tokens [num_samples, seq_len] from the released pipeline; what may be left of the mask in it is its own."""
    device = next(pipeline.model.parameters()).device
    return pipeline(
        input_ids=torch.empty(parameters.num_samples, 0, dtype=torch.int64),
        gen_length=parameters.seq_len,
        block_length=parameters.block_size,
        num_inference_steps=parameters.num_inference_steps,
        temperature=parameters.temperature,
        top_p=parameters.top_p,
        sampling_method="multinomial",
        editing_threshold=None,
        eos_early_stop=False,
        mask_token_id=mask_token_id,
        generator=torch.Generator(device).manual_seed(seed),
        output_type="seq",
    ).sequences


def make_pipeline(model: Any) -> LLaDA2Pipeline:
    """The pipeline around a masked LM, silent."""
    pipeline = LLaDA2Pipeline(model=model, scheduler=BlockRefinementScheduler(), tokenizer=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def work_of_ours(model: Any, scheduler: TokenDiffusionScheduler, parameters: SamplingParameters) -> Work:
    recorder = Recorder(model)
    output = run(recorder, scheduler, parameters)
    body = sum(call.tokens.numel() for call in recorder.calls)
    return Work(output.nfe, body, sum(call.positions.numel() for call in recorder.calls))


def measure(
    model: Any, scheduler: TokenDiffusionScheduler, parameters: SamplingParameters, rounds: int, weights: str
) -> Table:
    """All three in turn, `rounds` times; what each asked of the network is counted in the first."""
    denoiser, pipeline, mask = as_loaded(model), make_pipeline(model), int(scheduler.config.mask_token_id)
    one_a_step = replace(parameters, num_inference_steps=None)
    runs: dict[str, Callable[[], Work]] = {
        "LLaDA2Pipeline": lambda: work_of_pipeline(pipeline, parameters, mask),
        "ours": lambda: work_of_ours(denoiser, scheduler, parameters),
        "ours, one token a step": lambda: work_of_ours(denoiser, scheduler, one_a_step),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    works: dict[str, Work] = {}
    for _ in range(rounds):
        for name, run_once in runs.items():
            start = time.perf_counter()
            works[name] = run_once()
            seconds[name].append(time.perf_counter() - start)
    columns = ["weights", "sampler", "s", "LLaDA2Pipeline / it", "tokens/s"]
    table = Table([*columns, "forward passes", "body positions", "head positions"])
    tokens = parameters.num_samples * parameters.seq_len
    for name, work in works.items():
        ratio = median([a / b for a, b in zip(seconds["LLaDA2Pipeline"], seconds[name], strict=True)])
        each = median(seconds[name])
        table.add(weights, name, each, ratio, tokens / each, work.nfe, work.body, work.head)
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=1, help="all sides are timed this often, in turn")


def section(arguments: argparse.Namespace) -> Section:
    """One table: random weights of BERT's vocabulary, and the demo checkpoint."""
    rounds = 1 if arguments.quick else arguments.rounds
    found = Section("pipeline", "Block-wise sampling: diffusers' released pipeline and ours", [NOTE])
    model = random_model(arguments.device, arguments.dtype)
    scheduler = TokenDiffusionScheduler(VOCAB_SIZE, MASK, forward_process="absorbing")
    demo = plain_model(DEMOS["mdlm"], arguments.device, arguments.dtype)
    demo_scheduler = TokenDiffusionScheduler.from_pretrained(DEMOS["mdlm"])
    table = measure(model, scheduler, SETTING, rounds, "random, 22.7 M")
    table.rows += measure(demo, demo_scheduler, SETTING, rounds, "demo, 4.4 M").rows
    found.parts.append(table)
    return found
