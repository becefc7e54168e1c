"""One request's events over as many connections as it takes: where one breaks, the next reads on after the last event."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote

import httpx2

from .asking import Patience, ask, refusal
from .effects import Emit, Next, Open, Pause, Send, Steps, Story
from .errors import IncompleteStream, SampleError
from .events import DoneEvent, Event, parse_event
from .requests import sample_body

PAUSES_S = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Before each try to come back, give or take a half; after an event they begin anew. A server keeps a request for longer."""

LONGEST_PAUSE_S = 30.0
"""Even where a server's Retry-After asks for more: by then it keeps the request no longer."""

CANCEL_S = 2.0
"""What a request that nobody reads any more may cost when it is left."""

BROKEN = (httpx2.RemoteProtocolError, httpx2.NetworkError, httpx2.ConnectTimeout)

TRANSIENT = {429, 502, 503, 504}
"""Answers after which a server, or a proxy before it, may know better soon."""


class Stream(Story[Event]):
    """A story: the events of a request that is sent, or come back to, when the first of them is asked for.

    Args:
        path, body: what is sent first; without `body` it is a GET.
        patience: how a busy server is waited for, before the first event.
        returns: whether to come back when a connection breaks.
        cancels: whether to end the request when the stream is left before its end.
        last_event_id: of the last event that is known already.
    """

    def __init__(
        self,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        patience: Patience,
        returns: bool = True,
        cancels: bool = False,
        last_event_id: str | None = None,
    ) -> None:
        self._path, self._body, self._patience = path, body, patience
        self._returns, self._cancels = returns, cancels
        self._id: str | None = None
        self._last_event_id = last_event_id
        self._last: Event | None = None
        self._tries = 0
        self._over = False
        self._left = False

    @classmethod
    def of(cls, prompt: str | None, endpoint: str, parameters: Mapping[str, Any], patience: Patience) -> Self:
        """The stream of a request for samples: where its on_disconnect is not said, it is kept while we come back, and
        ended when we leave. Raises ValueError for what cannot be sent."""
        body = sample_body(prompt, parameters, stream=True)
        returns = body.setdefault("on_disconnect", "keep") == "keep"
        cancels = parameters.get("on_disconnect") is None
        return cls(endpoint, body, patience=patience, returns=returns, cancels=cancels)

    def events(self) -> Steps[None]:
        """All of them; whoever leaves in the middle ends the request, where that is so agreed."""
        try:
            response = yield from ask(self._request(self._path, self._body), self._patience)
            self._id = response.headers.get("X-Sample-Id")
            if self._left:  # before it was known which request that is
                yield from self._cancel()
            cause = yield from self._read()
            while not self._over:
                cause = yield from self._come_back(cause)
        except SampleError:
            self._over = True
            raise

    def leave(self) -> Steps[None]:
        """End the request, if it is this stream's to end and may still run."""
        self._returns, self._left = False, True
        yield from self._cancel()

    def _cancel(self) -> Steps[None]:
        if self._over or not self._cancels or self._id is None:
            return
        self._cancels = False
        with contextlib.suppress(httpx2.HTTPError, RuntimeError):  # the latter: the client is closed
            yield Send("DELETE", request_path(self._id), timeout_s=CANCEL_S)

    def _request(self, path: str, body: dict[str, Any] | None) -> Open:
        headers = {} if self._last_event_id is None else {"Last-Event-ID": self._last_event_id}
        return Open("GET" if body is None else "POST", path, body, headers)

    def _read(self) -> Steps[Exception | None]:
        """The events of one connection up to its end, and why it broke."""
        cause = None
        try:
            while (message := (yield Next())) is not None:
                event = parse_event(message.event, message.data)
                self._tries, self._last_event_id = 0, message.id or self._last_event_id
                if event is not None:
                    self._last = event
                    yield Emit(event)
        except BROKEN as error:
            cause = error
        self._over = isinstance(self._last, DoneEvent)
        return cause

    def _come_back(self, cause: Exception | None) -> Steps[Exception | None]:
        """One more try, after a pause. Raises IncompleteStream, from the last `cause`, if there is to be none."""
        if self._id is None or not self._returns or self._tries == len(PAUSES_S):
            self._over = True
            raise IncompleteStream(self._broken_off(cause)) from cause
        pause_s = PAUSES_S[self._tries] * random.uniform(0.5, 1.5)
        if isinstance(cause, SampleError) and cause.retry_after_s is not None:
            pause_s = max(pause_s, min(cause.retry_after_s, LONGEST_PAUSE_S))
        yield Pause(pause_s)
        self._tries += 1
        try:
            response = yield self._request(f"{request_path(self._id)}/events", None)
        except BROKEN as error:
            return error
        if not response.is_success:
            if response.status_code not in TRANSIENT:
                self._tries = len(PAUSES_S)
            return refusal(response)
        return (yield from self._read())

    def _broken_off(self, cause: Exception | None) -> str:
        where = f"after a {self._last.event} event" if self._last else "before its first event"
        why = f"; it cannot be read on: {cause}" if isinstance(cause, SampleError) else ""
        return f"the stream ended {where}, without done or error{why}"


def request_path(id: str) -> str:
    """Where a request is found again."""
    return f"requests/{quote(id, safe='')}"
