"""From a request in OpenAI's shape to jobs of the engine, and from what becomes of these to the answer or its stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from fastapi import Request
from starlette.responses import Response

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.samplers.catalogue import decoder_of
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.samplers.presets import filled_in

from ...work.deadline import Deadline
from ...work.jobs import Job
from ..admission import Service, admit, belongs, deadline_of, seed_of, submit_together
from ..answer import answer
from ..events import SentStream
from ..middleware.owners import owner_of
from ..protocol.requests import BlockSampleRequest, SampleRequest, SamplingFields
from .reading import find
from .requests import OpenAIRequest
from .sheet import Blank, Sheet
from .telling import Shape, Telling, stream, whole

NAMES = {"num_samples": "n", "seq_len": "max_tokens", "template": "suffix"}
"""Our names for what is called otherwise here."""

Read = Callable[[Checkpoint, int], list[Blank]]
"""What is given around the answers, by a checkpoint and the most tokens of a sequence; for the text thread."""


async def serve(
    wire: OpenAIRequest, num_prompts: int, read: Read, shape: Shape, request: Request, service: Service
) -> Response:
    """Admit, submit, and answer with a stream or as a whole.

    Raises:
        APIError: 404 for a model that is not loaded, 422, 429, 504 before anything has begun.
    """
    deadline = deadline_of(wire, service.settings)
    wire, filled = wire.with_preset()
    checkpoint = find(service, wire.model, wire.sampler)
    most = service.settings.max_num_samples
    if num_prompts > most:
        raise ParameterError("prompt", f"hold at most {most} prompts on this server", f"{num_prompts} prompts")
    if num_prompts * wire.n > most:
        at_once = "" if num_prompts == 1 else f", as all answers to {num_prompts} prompts may be {most}"
        raise ParameterError("n", f"be at most {most // num_prompts} on this server{at_once}", wire.n)
    if wire.diffusing and not wire.stream:
        raise ParameterError("diffusing", "be false where stream is", wire.diffusing)
    if wire.diffusing and wire.has_logprobs:
        raise ParameterError("diffusing", "be false where logprobs are asked for", wire.diffusing)
    ends = () if wire.ignore_eos else checkpoint.facts.ends(checkpoint.tokenizer)
    try:
        with filled_in(wire.preset, wire.model_fields_set):
            sheets = await _admit(wire, filled, checkpoint, read, ends, request, service, deadline)
    except ParameterError as error:
        raise ParameterError(NAMES.get(error.name, error.name), error.rule, error.value) from None
    jobs = list(sheets)
    belongs(jobs, request)
    group = submit_together(service, jobs, deadline)
    head = {
        "id": f"{shape.prefix}-{jobs[0].id.partition('-')[2]}",
        "created": int(time.time()),
        "model": checkpoint.name,
        "seed": jobs[0].parameters.seed,
    }
    telling = Telling(group, sheets, service.text, deadline, end_alone=not (wire.stream or wire.stop or ends))
    if wire.stream:
        return SentStream(stream(telling, shape, wire.stream_options, head), group.close)
    try:
        return await answer(whole(telling, shape, head), request)
    finally:
        group.close()


async def _admit(
    wire: OpenAIRequest,
    filled: Collection[str],
    checkpoint: Checkpoint,
    read: Read,
    ends: Collection[int],
    request: Request,
    service: Service,
    deadline: Deadline,
) -> dict[Job[SamplingParameters], Sheet]:
    """The jobs, one for all prompts that are the same, none of them submitted, with their sheets.

    Args:
        filled: fields of `wire` that a preset has filled in.

    Raises:
        APIError, ParameterError: by our own names of the fields.
    """
    owner = owner_of(request)
    service.engine.check_room(owner)
    own = _sampling(wire, filled, service.settings.max_num_inference_steps)
    settles = decoder_of(wire.sampler, checkpoint.process).settles

    def prepare() -> list[Sheet]:
        same: dict[Blank, list[int]] = {}
        for index, blank in enumerate(read(checkpoint, service.longest(checkpoint))):
            same.setdefault(blank, []).append(index)
        return [
            Sheet(checkpoint, blank, prompts, wire.n, wire.stop or (), ends, wire.diffusing, settles)
            for blank, prompts in same.items()
        ]

    async with deadline.bound():
        prepared = await service.text.run(prepare, owner)
    sheets: dict[Job[SamplingParameters], Sheet] = {}
    for sheet in prepared:
        tokens = sheet.blank.tokens(checkpoint.facts.frame)
        ours = _ours(wire, own, sheet, len(tokens), checkpoint, service.settings.max_num_inference_steps)
        path = request.url.path
        sheets[await admit(service, ours, [checkpoint.process], path, owner, deadline, tokens)] = sheet
    return sheets


def _sampling(wire: OpenAIRequest, filled: Collection[str], max_steps: int) -> dict[str, Any]:
    """What was asked for in words that any request of ours knows, and a seed, as all prompts have one."""
    asked = (wire.model_fields_set | set(filled)) - {"preset"}
    own = {name: getattr(wire, name) for name in SamplingFields.model_fields if name in asked}
    if "num_inference_steps" in filled:  # as any default it gives way
        own["num_inference_steps"] = min(own["num_inference_steps"], max_steps)
    return own | {"seed": seed_of(wire)}


def _ours(
    wire: OpenAIRequest, own: Mapping[str, Any], sheet: Sheet, seq_len: int, checkpoint: Checkpoint, max_steps: int
) -> SampleRequest:
    """The request for the answers on `sheet`, as to /sample or /sample/block."""
    length, block_size = sheet.blank.length, _block_size(wire, checkpoint)
    fields = {"num_inference_steps": min(length, block_size or length, max_steps), **own, "model": wire.model}
    fields |= {
        "num_samples": sheet.num_answers,
        "seq_len": seq_len,
        "stream": wire.stream,
        "logprobs": wire.has_logprobs,
    }
    if block_size is None:
        return SampleRequest(**fields)
    return BlockSampleRequest(**fields, block_size=block_size)


def _block_size(wire: OpenAIRequest, checkpoint: Checkpoint) -> int | None:
    """Of the blocks that are filled one after the other; None: everywhere at once, which a block-causal model cannot."""
    own = checkpoint.block_size
    if own is None or ("block_size" in wire.model_fields_set and wire.block_size is not None):
        return wire.block_size
    if "block_size" in wire.model_fields_set:
        raise ParameterError("block_size", f"be {own}, as {checkpoint.name} is block-causal", None)
    return own
