"""Offline sampling and scoring: requests, a batch, and a loop until they are done."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .diffusion.scheduler import TokenDiffusionScheduler
from .engine.batch import Batch
from .engine.cost import enough_tokens
from .engine.scores import Score, summarise
from .engine.updates import Result, Scores, Update
from .errors import ParameterError
from .networks.denoiser import MaskedLMDenoiser, block_size_of
from .samplers.parameters import SEQ_LEN, Estimator, SamplingParameters, ScoringParameters

BLOCK_SIZE = 32
"""Tokens of a block that `sample_block` fills in at a time, where a network has no blocks of its own."""


@dataclass(frozen=True)
class SampleOutput:
    """sequences: int64 [num_samples, seq_len] on the CPU. nfe: network evaluations, at most one a grid step and one a mask.

    forwards_skipped: grid steps that needed none. step_map: int64 [num_samples, seq_len], the step that last set a position.
    logprobs: float64 [num_samples, seq_len], where they were asked for; NaN where a token did not come from the network.
    """

    sequences: Tensor
    nfe: int
    forwards_skipped: int
    step_map: Tensor
    logprobs: Tensor | None = None


def sample(
    denoiser: Any,
    scheduler: TokenDiffusionScheduler,
    *,
    num_samples: int = 1,
    seq_len: int = SEQ_LEN,
    num_inference_steps: int | None = 128,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    label: int | None = None,
    sampler: str = "ancestral",
    logprobs: bool = False,
    guidance_scale: float = 1.0,
    suppress_end: bool = False,
    early_end: bool = False,
    frame: tuple[int, int] = (0, 0),
    tokens: Sequence[int] | None = None,
    callback: Callable[[Update], None] | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> SampleOutput:
    """Sampling from an absorbing (MDLM) or a uniform (UDLM) model, by default ancestral.

    Args:
        denoiser: a masked LM of transformers, a `Denoiser`, or a callable `(tokens [B, L], t [B]) -> logits [B, L, V]`; one that
            has a parameter `labels`, too, gets them (`CallableDenoiser`).
        num_inference_steps: grid steps; None (absorbing alone) is the continuous-time limit, first-hitting.
        temperature, top_p, top_k, min_p: shape each token's distribution (`SamplingParameters`); the defaults leave it as it is.
        label: the class that a network with labels is told; None for no label.
        sampler: one of `samplers.catalogue.KINDS` that is for the process; options: what is asked of it alone.
        logprobs: the network's own log-probability of each token is in the output and in updates.
        guidance_scale, suppress_end, early_end, frame: see `SamplingParameters`.
        tokens: [seq_len] ids, negative where the sampler fills in (`text.encode` makes them); all open by default.
        callback: called with each step's `Update`, initial state excluded.

    Raises:
        ParameterError: a value is outside its range, or the scheduler has another process.
    """
    _require(denoiser, scheduler, "sample", ("absorbing", "uniform"))
    parameters = SamplingParameters(
        seq_len, num_samples, num_inference_steps, temperature, top_p, top_k, seed,
        min_p=min_p, label=label, sampler=sampler, options=options, logprobs=logprobs, guidance_scale=guidance_scale,
        frame=frame, suppress_end=suppress_end, early_end=early_end,
    )  # fmt: skip
    return run(denoiser, scheduler, parameters, tokens, callback, device)


def sample_block(
    denoiser: Any,
    scheduler: TokenDiffusionScheduler,
    *,
    num_samples: int = 1,
    seq_len: int = SEQ_LEN,
    block_size: int | None = None,
    num_inference_steps: int | None = 128,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    label: int | None = None,
    sampler: str = "ancestral",
    logprobs: bool = False,
    guidance_scale: float = 1.0,
    suppress_end: bool = False,
    early_end: bool = False,
    frame: tuple[int, int] = (0, 0),
    tokens: Sequence[int] | None = None,
    callback: Callable[[Update], None] | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> SampleOutput:
    """Block-wise sampling, any process: blocks of `block_size` from left to right, `num_inference_steps` each.

    Blocks are counted from the first open position, and those of a block-causal network, which has but its own, from position 0.
    The arguments are those of `sample`.

    Args:
        block_size: 32 by default, or that of a block-causal network.
    """
    if block_size is None and block_size_of(denoiser) is None:
        block_size = BLOCK_SIZE
    parameters = SamplingParameters(
        seq_len, num_samples, num_inference_steps, temperature, top_p, top_k, seed, block_size,
        min_p=min_p, label=label, sampler=sampler, options=options, logprobs=logprobs, guidance_scale=guidance_scale,
        frame=frame, suppress_end=suppress_end, early_end=early_end,
    )  # fmt: skip
    return run(denoiser, scheduler, parameters, tokens, callback, device)


def sample_hybrid(
    denoiser: Any,
    scheduler: TokenDiffusionScheduler,
    *,
    num_samples: int = 1,
    seq_len: int = SEQ_LEN,
    num_inference_steps: int = 128,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    label: int | None = None,
    sampler: str = "ancestral",
    logprobs: bool = False,
    guidance_scale: float = 1.0,
    suppress_end: bool = False,
    early_end: bool = False,
    frame: tuple[int, int] = (0, 0),
    tokens: Sequence[int] | None = None,
    callback: Callable[[Update], None] | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> SampleOutput:
    """Sampling from a hybrid (GIDD) model, by default ancestral; the arguments are those of `sample`."""
    _require(denoiser, scheduler, "sample_hybrid", ("hybrid",))
    parameters = SamplingParameters(
        seq_len, num_samples, num_inference_steps, temperature, top_p, top_k, seed,
        min_p=min_p, label=label, sampler=sampler, options=options, logprobs=logprobs, guidance_scale=guidance_scale,
        frame=frame, suppress_end=suppress_end, early_end=early_end,
    )  # fmt: skip
    return run(denoiser, scheduler, parameters, tokens, callback, device)


def run(
    denoiser: Any,
    scheduler: TokenDiffusionScheduler,
    parameters: SamplingParameters,
    tokens: Sequence[int] | None = None,
    callback: Callable[[Update], None] | None = None,
    device: str | torch.device | None = None,
    forbidden: Sequence[int] = (),
) -> SampleOutput:
    """One request alone in a batch, to its end. A model in training mode is back in it afterwards.

    Args:
        forbidden: ids that no sample of a masked LM of transformers may hold; the denoiser of a `Checkpoint` has its own.

    Raises:
        FloatingPointError: the network's logits hold no distribution.
    """
    with evaluating(denoiser):
        if forbidden:
            denoiser = MaskedLMDenoiser(denoiser, forbidden)
        batch = Batch(denoiser, scheduler, device=device)
        batch.add(0, [-1] * parameters.seq_len if tokens is None else tokens, parameters)
        while True:
            (update,) = batch.step()
            if update.error is not None:
                raise FloatingPointError(update.error)
            if callback is not None:
                callback(update)
            if (result := update.result) is not None:
                return _output(result)


def _output(result: Result) -> SampleOutput:
    sequences, step_map, logprobs = torch.tensor(result.tokens), torch.tensor(result.step_map), None
    if result.logprobs is not None:
        rows = [[math.nan if value is None else value for value in row] for row in result.logprobs]
        logprobs = torch.tensor(rows, dtype=torch.float64)
    return SampleOutput(sequences, result.nfe, result.forwards_skipped, step_map, logprobs)


def score(
    denoiser: Any,
    scheduler: TokenDiffusionScheduler,
    tokens: Sequence[Sequence[int]],
    *,
    given: Sequence[Sequence[int]] | None = None,
    labels: Sequence[int | None] | None = None,
    num_times: int = 16,
    estimator: Estimator | None = None,
    seed: int = 0,
    max_batch_tokens: int | None = None,
    device: str | torch.device | None = None,
) -> list[Score]:
    """The bound of each text, any process. One seed gives one score, whatever other texts there are.

    Args:
        denoiser: a masked LM of transformers, or a callable `(tokens [B, L], t [B]) -> logits [B, L, V]`.
        tokens: ids of the texts, in their frame and after their prefix if there are any; `text.encode_passage` makes them.
        given: positions of each that are neither noised nor counted; none by default.
        labels: the class of each that a network with labels is told; none by default.
        num_times: noised versions of each text. estimator, seed: see `ScoringParameters`.
        max_batch_tokens: most tokens of a forward pass, padding included.

    Raises:
        ParameterError: a value is outside its range, or a text is empty or holds the mask token.
        FloatingPointError: the network's logits hold no distribution.
    """
    fixed: Sequence[Sequence[int]] = [()] * len(tokens) if given is None else given
    told: Sequence[int | None] = [None] * len(tokens) if labels is None else labels
    parameters = [
        ScoringParameters(len(text), num_times, estimator, seed, tuple(positions), label=label)
        for text, positions, label in zip(tokens, fixed, told, strict=True)
    ]
    with evaluating(denoiser):
        batch = Batch(denoiser, scheduler, device=device)
        batch.max_tokens = max_batch_tokens or enough_tokens(batch.device)
        for key, (text, its) in enumerate(zip(tokens, parameters, strict=True)):
            batch.add(key, text, its)
        found: dict[Any, Score] = {}
        while not batch.idle:
            for update in batch.step():
                if update.error is not None:
                    raise FloatingPointError(update.error)
                if isinstance(update.result, Scores):
                    found[update.key] = summarise(update.result, fixed[update.key])  # type: ignore[call-overload]
    return [found[key] for key in range(len(tokens))]


@contextmanager
def evaluating(denoiser: Any) -> Iterator[None]:
    """In here a module is in evaluation mode; one that was in training mode is back in it afterwards."""
    was_training = isinstance(denoiser, nn.Module) and denoiser.training
    if was_training:
        denoiser.eval()
    try:
        yield
    finally:
        if was_training:
            denoiser.train()


def _require(denoiser: Any, scheduler: TokenDiffusionScheduler, name: str, processes: tuple[str, ...]) -> None:
    found, block_size = scheduler.config.forward_process, block_size_of(denoiser)
    if found not in processes:
        raise ParameterError("forward_process", f"be {' or '.join(processes)} for {name}", found)
    if block_size is not None:
        rule = f"see the whole sequence for {name}, and not be block-causal, which sample_block is for"
        raise ParameterError("denoiser", rule, f"blocks of {block_size} tokens")
