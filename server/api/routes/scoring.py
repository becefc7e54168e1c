"""The endpoint that scores: texts become jobs of one request, and their values an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.engine.batch import Scores
from token_diffusion.engine.scores import Score, ranking, summarise
from token_diffusion.errors import ParameterError
from token_diffusion.samplers import Samplers, price
from token_diffusion.samplers.parameters import Estimator, ScoringParameters, check_label
from token_diffusion.samplers.scoring import estimator_of
from token_diffusion.text import Passage, encode_passage

from ...owners.owner import Owner
from ...settings import Settings
from ...work.deadline import Deadline
from ...work.group import Group
from ...work.jobs import Job, new_id
from ...work.stream import Stream
from ..admission import (
    Service,
    ServiceDep,
    belongs,
    check_at_most,
    check_price,
    choose_loaded,
    deadline_of,
    seed_of,
)
from ..answer import answer
from ..middleware.bodies import BoundedRoute
from ..middleware.owners import owner_of
from ..openapi import SCORE_RESPONSES
from ..protocol.events import Timings
from ..protocol.scoring import Scored, ScoreRequest, ScoreUsage, TextScore

router = APIRouter(route_class=BoundedRoute)


@dataclass(frozen=True)
class Admitted:
    """Texts that may be scored: a job each."""

    id: str
    checkpoint: Checkpoint
    passages: Sequence[Passage]
    jobs: Sequence[Job[ScoringParameters]]
    estimator: Estimator

    @property
    def parameters(self) -> ScoringParameters:
        """Of the first; they differ in what is given alone."""
        return self.jobs[0].parameters


@router.post("/score", tags=["scoring"], response_model=Scored, responses=SCORE_RESPONSES)
async def score(wire: ScoreRequest, request: Request, service: ServiceDep) -> Response:
    """How likely texts are, by a checkpoint of any process: an upper bound on -log p each, its error, and their ranking."""
    deadline = deadline_of(wire, service.settings)
    admitted = await _admit(service, wire, owner_of(request), deadline)
    belongs(admitted.jobs, request)
    with Group(service.engine, admitted.jobs, deadline) as group:
        return await answer(_scored(service, admitted, group, deadline), request)


async def _admit(service: Service, wire: ScoreRequest, owner: Owner, deadline: Deadline) -> Admitted:
    """The jobs that `wire` asks for, not yet submitted.

    Raises:
        APIError, ParameterError: 422; 429 if there is no room for this owner, before anything is looked at; 504 if its texts
            were not read before `deadline`.
    """
    service.engine.check_room(owner)
    settings, checkpoint = service.settings, choose_loaded(service.engine.checkpoints, wire.model)
    num_times = _check_limits(wire, settings)
    check_label(wire.label, checkpoint.num_classes)
    most = service.longest(checkpoint)
    estimator = estimator_of(checkpoint.scheduler.process, wire.estimator)

    def encode() -> list[Passage]:
        options: dict[str, Any] = {"prefix": wire.prefix, "max_tokens": most, "frame": checkpoint.facts.frame}
        return [
            encode_passage(checkpoint.tokenizer, text, name=f"texts.{index}", **options)
            for index, text in enumerate(wire.texts)
        ]

    async with deadline.bound():
        passages = await service.text.run(encode, owner)
    id, seed = new_id(settings.instance), seed_of(wire)
    samplers, jobs = Samplers(checkpoint.scheduler), []
    for index, passage in enumerate(passages):
        parameters = ScoringParameters(
            len(passage.tokens), num_times, estimator, seed, passage.given, label=wire.label
        ).for_network(checkpoint.block_size)
        work = price(samplers.of(parameters), passage.tokens, parameters)
        jobs.append(Job(checkpoint.name, passage.tokens, parameters, Stream(), owner, work, f"{id}-{index}"))
    _check_work(jobs, num_times, checkpoint.block_size, settings)
    return Admitted(id, checkpoint, passages, jobs, estimator)


def _check_limits(wire: ScoreRequest, settings: Settings) -> int:
    """The times of each text, a default brought down to what this server allows."""
    if not wire.texts:
        raise ParameterError("texts", "hold at least one text", wire.texts)
    if len(wire.texts) > settings.max_num_texts:
        rule = f"hold at most {settings.max_num_texts} texts on this server"
        raise ParameterError("texts", rule, f"{len(wire.texts)} texts")
    if "num_times" in wire.model_fields_set:
        check_at_most("num_times", wire.num_times, settings.max_num_times)
    if wire.num_times < 1:
        raise ParameterError("num_times", "be >= 1", wire.num_times)
    return min(wire.num_times, settings.max_num_times)


def _check_work(
    jobs: Sequence[Job[ScoringParameters]], num_times: int, block_size: int | None, settings: Settings
) -> None:
    """Raises APIError, 422, with what makes up the price if it is too much."""
    work, tokens = sum(job.work for job in jobs), sum(len(job.tokens) for job in jobs)
    parts = f"num_times {num_times} x {tokens} tokens of all texts, prefix and frame included"
    blocks = "" if block_size is None else f", once for each block of {block_size}"
    check_price(work, f"{parts}{blocks}, are {work} token passes", settings)


async def _scored(service: Service, admitted: Admitted, group: Group, deadline: Deadline) -> Scored:
    """The answer, once all texts have their values. Raises APIError if one fails, or the time is over."""
    results = await group.results()

    def body() -> Scored:
        scores = []
        for result, job in zip(results, admitted.jobs, strict=True):
            assert isinstance(result, Scores)
            scores.append(summarise(result, job.parameters.given))
        return _answer(admitted, scores)

    async with deadline.bound():
        return await service.text.run(body)


def _answer(admitted: Admitted, scores: Sequence[Score]) -> Scored:
    streams = [job.stream for job in admitted.jobs]
    frame = len(admitted.checkpoint.facts.frame)
    scored = sum(score.num_tokens for score in scores)
    return Scored(
        id=admitted.id,
        model=admitted.checkpoint.name,
        seed=admitted.parameters.seed,
        num_times=admitted.parameters.num_times,
        estimator=admitted.estimator,
        scores=[
            TextScore(
                index=index,
                num_unknown=passage.num_unknown,
                tokens=passage.text_tokens,
                **score.figures(passage.start, passage.end),
            )
            for index, (score, passage) in enumerate(zip(scores, admitted.passages, strict=True))
        ],
        ranking=ranking(scores),
        usage=ScoreUsage(
            prompt_tokens=sum(len(passage.tokens) - frame for passage in admitted.passages) - scored,
            completion_tokens=scored,
            nfe=sum(score.nfe for score in scores),
        ),
        timings=Timings(
            queue_ms=round(min(stream.queue_ms for stream in streams), 3),
            first_state_ms=round(min(stream.first_state_ms for stream in streams), 3),
            total_ms=round(max(stream.total_ms for stream in streams), 3),
        ),
    )
