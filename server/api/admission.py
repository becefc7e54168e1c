"""From a wire request to a job: which checkpoint, which parameters, which tokens, and what is wrong with them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Annotated, Any

from fastapi import Depends, Request

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.networks.denoiser import ends_of
from token_diffusion.samplers import Sampler, Samplers, price
from token_diffusion.samplers.blocks import check_fixed
from token_diffusion.samplers.catalogue import KINDS
from token_diffusion.samplers.parameters import SamplingParameters, check_label
from token_diffusion.samplers.presets import filled_in
from token_diffusion.text import OPEN, chat_template, encode

from ..errors import invalid, unavailable
from ..owners.owner import Owner
from ..settings import Settings
from ..work.deadline import Deadline
from ..work.engine import Engine
from ..work.group import Group
from ..work.jobs import Job, new_id
from ..work.register import Register
from ..work.stream import Stream, Telling
from ..work.text import TextThread
from .pieces import PieceTable
from .protocol.requests import BlockSampleRequest, SampleRequest, SamplingFields
from .protocol.scoring import ScoreRequest
from .protocol.values import Process

SEED_BOUND = 2**53
"""Drawn seeds stay below it, so that a client whose numbers are doubles returns them unchanged."""


NOT_SAMPLED = {"stop", "model", "stream_every", "timeout_s", "preset"}
"""Fields of any request that are for others than a sampler."""


@dataclass(frozen=True)
class Service:
    """What a running app shares among its requests."""

    settings: Settings
    engine: Engine
    text: TextThread

    @cached_property
    def register(self) -> Register:
        """The requests by their id."""
        return Register(self.engine, self.settings.reattach_s)

    def longest(self, checkpoint: Checkpoint) -> int:
        """Most tokens of a sequence, those of the frame included."""
        limit = self.settings.max_seq_len
        return limit if checkpoint.max_seq_len is None else min(limit, checkpoint.max_seq_len)

    @cached_property
    def pieces(self) -> dict[str, PieceTable]:
        """The vocabularies that were asked for, by model."""
        return {}


async def _opening(request: Request) -> Service | None:
    service: Service | None = request.app.state.service
    return service


OpeningDep = Annotated[Service | None, Depends(_opening)]
"""None while the checkpoints are loading."""


async def _service(service: OpeningDep) -> Service:
    if service is None:
        raise unavailable("the checkpoints are still loading")
    return service


ServiceDep = Annotated[Service, Depends(_service)]


def deadline_of(wire: SamplingFields | ScoreRequest, settings: Settings) -> Deadline:
    """When `wire`, which was read now, is given up. Raises ParameterError for a `timeout_s` that nobody may have."""
    if wire.timeout_s <= 0:
        raise ParameterError("timeout_s", "be > 0", wire.timeout_s)
    if "timeout_s" in wire.model_fields_set:
        check_at_most("timeout_s", wire.timeout_s, settings.request_timeout_s)
    return Deadline.after(min(wire.timeout_s, settings.request_timeout_s))


def seed_of(wire: SamplingFields | ScoreRequest) -> int:
    """The one that was asked for, or else one that is drawn now."""
    return secrets.randbelow(SEED_BOUND) if wire.seed is None else wire.seed


def belongs(jobs: Sequence[Job[Any]], request: Request) -> None:
    """These answer `request`: they have its id, and whoever looks at it afterwards finds them."""
    for job in jobs:
        job.request_id = request.state.request_id
    request.state.jobs = jobs


async def admit(
    service: Service,
    wire: SampleRequest,
    processes: Sequence[Process],
    path: str,
    owner: Owner,
    deadline: Deadline,
    tokens: list[int] | None = None,
) -> Job[SamplingParameters]:
    """The job that `wire`, sent to the endpoint `path` for checkpoints of `processes`, asks for; not yet submitted.

    Args:
        tokens: [seq_len] with OPEN holes, where somebody else has read its text.

    Raises:
        APIError, ParameterError: 422; 429 if there is no room for this owner, before anything is looked at; 504 if its text was
            not read before `deadline`.
    """
    service.engine.check_room(owner)
    stream = Stream()
    wire, filled = wire.with_preset()
    checkpoint = _choose(service.engine.checkpoints, wire, processes, path)
    settings = service.settings
    wire = wire.within(num_inference_steps=settings.max_num_inference_steps, seq_len=settings.max_seq_len)
    wire = wire.within(seq_len=checkpoint.max_seq_len)
    _check_limits(wire, settings)
    with filled_in(wire.preset, wire.model_fields_set):
        parameters = _parameters(wire, checkpoint)
        check_label(parameters.label, checkpoint.num_classes)
        sampler = Samplers(checkpoint.scheduler, ends=ends_of(checkpoint.denoiser)).of(parameters)
    is_template = wire.template is not None or wire.template_ids is not None
    seq_len = wire.seq_len if not is_template or "seq_len" in wire.model_fields_set else None  # the template's own
    if seq_len is not None:
        _check_seq_len(seq_len, settings, checkpoint)
    if tokens is None:
        async with deadline.bound():
            tokens = await service.text.run(_encoding(wire, seq_len, checkpoint, settings), owner)
    preset = {name: getattr(parameters, name, value) for name, value in filled.items()}
    start = 0 if wire.messages is None else _answer_starts(tokens)
    stream.telling = Telling(wire.stream_every, wire.include_text, wire.keyframe_every, wire.stop or (), start, preset)
    _check_seq_len(len(tokens), settings, checkpoint)
    check_fixed("template", tokens, checkpoint.block_size)
    frame = checkpoint.facts.frame
    parameters = replace(parameters, seq_len=len(tokens), frame=(len(frame.prefix), len(frame.suffix)))
    work = _check_work(sampler, tokens, parameters, settings)
    return Job(checkpoint.name, tokens, parameters, stream, owner, work, new_id(settings.instance))


def _encoding(
    wire: SampleRequest, seq_len: int | None, checkpoint: Checkpoint, settings: Settings
) -> Callable[[], list[int]]:
    """What reads the text of `wire`, with OPEN holes; for the text thread."""
    return partial(
        encode,
        checkpoint.tokenizer,
        seq_len=seq_len,
        prompt=wire.prompt,
        template=wire.template,
        prompt_ids=wire.prompt_ids,
        template_ids=wire.template_ids,
        messages=None if wire.messages is None else [message.said for message in wire.messages],
        vocab_size=checkpoint.scheduler.config.vocab_size,
        max_tokens=settings.max_seq_len,
        frame=checkpoint.facts.frame,
    )


def submit_together(service: Service, jobs: Sequence[Job[Any]], deadline: Deadline) -> Group:
    """Several jobs of one owner as one request, which may cost what one may.

    Raises:
        APIError: 422 if they are too much together, 429 if there is no room for all of them; then none is submitted.
    """
    work = sum(job.work for job in jobs)
    check_price(work, f"the {len(jobs)} parts of this request may need {work} token passes together", service.settings)
    return Group(service.engine, jobs, deadline)


def _choose(
    checkpoints: Mapping[str, Checkpoint], wire: SampleRequest, processes: Sequence[Process], path: str
) -> Checkpoint:
    """The checkpoint that `wire` names, or else the first of a fitting process, for messages one with a chat template."""
    loaded, model = _named(checkpoints), wire.model
    asked = checkpoints.values() if model is None else [choose_loaded(checkpoints, model)]
    of_process = [checkpoint for checkpoint in asked if checkpoint.process in processes]
    in_blocks = isinstance(wire, BlockSampleRequest)
    if fitting := [checkpoint for checkpoint in of_process if in_blocks or checkpoint.block_size is None]:
        chatty = [each for each in fitting if wire.messages is None or chat_template(each.tokenizer)]
        return first_for(wire.sampler, chatty or fitting)
    needed = " or ".join(processes) + (", and not block-causal, as for /sample/block" if of_process else "")
    named = "" if model is None else f", asked for: {model}"
    raise invalid(f"{path} needs a checkpoint of the process {needed}; loaded: {loaded}{named}", "model")


def first_for(sampler: str, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The first whose process the sampler is for; if there is none the first, which will say that it is not."""
    processes = KINDS[sampler].decoders if sampler in KINDS else {}
    return next((each for each in checkpoints if each.process in processes), checkpoints[0])


def _answer_starts(tokens: Sequence[int]) -> int:
    """Where what a conversation is followed by begins, which may be nothing."""
    return next((index for index, token in enumerate(tokens) if token == OPEN), len(tokens))


def choose_loaded(checkpoints: Mapping[str, Checkpoint], model: str | None) -> Checkpoint:
    """The checkpoint called `model`, of whatever process, or else the default one. Raises ParameterError if there is none."""
    if model is None:
        return next(iter(checkpoints.values()))
    if model not in checkpoints:
        raise ParameterError("model", f"be one of the loaded checkpoints, {_named(checkpoints)}", model)
    return checkpoints[model]


def _named(checkpoints: Mapping[str, Checkpoint]) -> str:
    def kind(checkpoint: Checkpoint) -> str:
        size = checkpoint.block_size
        return checkpoint.process if size is None else f"{checkpoint.process}, block-causal in blocks of {size}"

    return ", ".join(f"{name} ({kind(checkpoint)})" for name, checkpoint in checkpoints.items())


def _check_limits(wire: SampleRequest, settings: Settings) -> None:
    check_at_most("num_samples", wire.num_samples, settings.max_num_samples)
    if wire.num_inference_steps is not None:
        check_at_most("num_inference_steps", wire.num_inference_steps, settings.max_num_inference_steps)
    if wire.stream_every < 1:
        raise ParameterError("stream_every", "be >= 1", wire.stream_every)
    if wire.keyframe_every is not None and wire.keyframe_every < 1:
        raise ParameterError("keyframe_every", "be >= 1", wire.keyframe_every)
    if wire.on_disconnect == "keep" and not wire.stream:
        raise ParameterError(
            "on_disconnect", "be 'cancel' where stream is false, as only a stream tells its id", wire.on_disconnect
        )


def _check_seq_len(seq_len: int, settings: Settings, checkpoint: Checkpoint) -> None:
    check_at_most("seq_len", seq_len, settings.max_seq_len)
    checkpoint.check_seq_len(seq_len)


def _check_work(sampler: Sampler, tokens: Sequence[int], parameters: SamplingParameters, settings: Settings) -> int:
    """The price of the request. Raises APIError, 422, with what makes it up if it is too much."""
    work = price(sampler, tokens, parameters)
    passes = work // (parameters.num_samples * len(tokens))
    named: dict[str, Any] = {
        "num_inference_steps": parameters.num_inference_steps,
        "block_size": parameters.block_size,
    }
    named |= {name: value for name, value in parameters.options.items() if type(value) is int}
    named |= {} if sampler.views == 1 else {"guidance_scale": parameters.guidance_scale}
    made_of = " and ".join(f"{name} {value}" for name, value in named.items() if value is not None)
    check_price(
        work,
        f"num_samples {parameters.num_samples} x seq_len {len(tokens)} x {passes} forward"
        f" passes, which {made_of or parameters.sampler} may need, are {work} token passes",
        settings,
    )
    return work


def check_price(work: int, made_of: str, settings: Settings) -> None:
    """Raises APIError, 422, with what makes up the price, if it is too much."""
    if work > settings.max_request_work:
        raise invalid(f"{made_of}; this server takes at most {settings.max_request_work} a request")


def check_at_most(name: str, value: float, limit: float) -> None:
    """Raises ParameterError for more than a setting allows."""
    if value > limit:
        raise ParameterError(
            name, f"be at most {limit if isinstance(limit, int) else format(limit, 'g')} on this server", value
        )


def _parameters(wire: SampleRequest, checkpoint: Checkpoint) -> SamplingParameters:
    """Blocks of the size that was asked for, or else of the checkpoint's own."""
    own = checkpoint.block_size is not None and "block_size" not in wire.model_fields_set
    asked: dict[str, Any] = {
        name: getattr(wire, name) for name in SamplingFields.model_fields if name not in NOT_SAMPLED
    }
    asked |= {
        "seq_len": wire.seq_len,
        "num_samples": wire.num_samples,
        "logprobs": wire.logprobs,
        "seed": seed_of(wire),
    }
    if isinstance(wire, BlockSampleRequest) and not own:
        asked["block_size"] = wire.block_size
    return SamplingParameters.flat(asked).for_network(checkpoint.block_size)
