"""What becomes of the jobs of a request, as an answer or as the lines of a stream, in whichever shape."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from fastapi.sse import KEEPALIVE_COMMENT
from pydantic import BaseModel

from token_diffusion.samplers.parameters import SamplingParameters

from ...errors import APIError, internal
from ...work.deadline import Deadline
from ...work.group import Group
from ...work.jobs import Job
from ...work.text import TextThread
from ..events import HEARTBEAT_S
from .answers import Usage
from .requests import StreamOptions
from .sheet import Piece, Sheet

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"


class Shape(Protocol):
    """How answers look: those of completions, or of a chat."""

    prefix: str
    """what an id begins with"""

    def chunks(self, piece: Piece, *, first: bool, **head: Any) -> Sequence[BaseModel]:
        """A piece, as it is streamed; `first` of its answer or not."""

    def empty(self, **head: Any) -> BaseModel:
        """A chunk without a piece, for the usage."""

    def whole(self, pieces: Sequence[Piece], **head: Any) -> BaseModel:
        """All answers, each of one piece."""


class Telling:
    """What a group of jobs has to tell, job by job as it happens, each as its sheet has it; `usage` is that so far.

    Args:
        end_alone: only how they end.
    """

    def __init__(
        self,
        group: Group,
        sheets: Mapping[Job[SamplingParameters], Sheet],
        text: TextThread,
        deadline: Deadline,
        *,
        end_alone: bool,
    ) -> None:
        self._group, self._sheets, self._text, self._deadline = group, sheets, text, deadline
        self._end_alone = end_alone

    async def pieces(self) -> AsyncIterator[Piece | None]:
        """To the end of all answers; None for each `HEARTBEAT_S` without any news. Raises APIError if there will be none."""
        async for told in self._group.news(end_alone=self._end_alone, quiet_s=HEARTBEAT_S):
            if told is None:
                yield None
                continue
            job, news = told
            if news.error is not None:
                raise news.error
            sheet = self._sheets[job]
            if news.begins or not sheet.is_due(news):
                continue
            for piece in await self._decoded(partial(sheet.pieces, news)):
                yield piece
            if sheet.complete:  # the rest of it would be thrown away
                self._group.dismiss(job)

    @property
    def usage(self) -> Usage:
        prompts = sum(sheet.num_given for sheet in self._sheets.values())
        answers = sum(sheet.num_tokens for sheet in self._sheets.values())
        return Usage(prompt_tokens=prompts, completion_tokens=answers, total_tokens=prompts + answers)

    async def _decoded(self, work: Callable[[], list[Piece]]) -> list[Piece]:
        async with self._deadline.bound():
            return await self._text.run(work)


async def whole(telling: Telling, shape: Shape, head: Mapping[str, Any]) -> BaseModel:
    """The answer that is no stream. Raises APIError if there is none."""
    told: dict[int, list[Piece]] = {}
    async for piece in telling.pieces():
        if piece is not None:
            told.setdefault(piece.index, []).append(piece)
    pieces = [
        Piece(
            index,
            "".join(piece.text for piece in its),
            its[-1].finish_reason,
            tuple(token for piece in its for token in piece.tokens),
        )
        for index, its in sorted(told.items())
    ]
    return shape.whole(pieces, **head, usage=telling.usage)


async def stream(
    telling: Telling, shape: Shape, options: StreamOptions, head: Mapping[str, Any]
) -> AsyncIterator[bytes]:
    """The lines of a stream. Whatever breaks on the way, it ends with [DONE], after an error if it could not go on."""
    begun: set[int] = set()
    try:
        async for piece in telling.pieces():
            if piece is None:
                yield KEEPALIVE_COMMENT
                continue
            usage: dict[str, Usage | None] = {}
            if options.include_usage or options.continuous_usage_stats:
                usage["usage"] = telling.usage if options.continuous_usage_stats else None
            for chunk in shape.chunks(piece, first=piece.index not in begun, **head, **usage):
                yield _line(chunk)
            begun.add(piece.index)
        if options.include_usage:
            yield _line(shape.empty(**head, usage=telling.usage))
    except APIError as error:
        yield _line(error.event)
    except Exception:
        log.exception("a stream broke")
        yield _line(internal().event)
    yield DONE


def _line(body: BaseModel) -> bytes:
    return b"data: " + body.model_dump_json().encode() + b"\n\n"
