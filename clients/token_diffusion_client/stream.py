"""One request's events over as many connections as it takes: where one breaks, the next reads on after the last event."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Generator
from typing import Any
from urllib.parse import quote

import httpx2

from .events import DoneEvent, Event, IncompleteStream, InvalidEvent, SampleError, parse_error, parse_event

MAX_EVENT_BYTES = 64 * 2**20
"""Largest event that is read: `done` holds text, tokens and step map of all samples, and may pass httpx2's 1 MiB."""

PAUSES_S = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Before each try to come back, give or take a half; after an event they begin anew. A server keeps a request for longer."""

LONGEST_PAUSE_S = 30.0
"""Even where a server's Retry-After asks for more: by then it keeps the request no longer."""

CANCEL_S = 2.0
"""What a request that nobody reads any more may cost when it is left."""

BROKEN = (httpx2.RemoteProtocolError, httpx2.NetworkError, httpx2.ConnectTimeout)

TRANSIENT = {429, 502, 503, 504}
"""Answers after which a server, or a proxy before it, may know better soon."""


class Stream:
    """The events of a request that is sent, or come back to, when the first of them is asked for.

    Args:
        path, body: what is sent first; without `body` it is a GET.
        returns: whether to come back when a connection breaks.
        cancels: whether to end the request when the stream is left before its end.
        last_event_id: of the last event that is known already.
    """

    def __init__(
        self,
        http: httpx2.Client,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        returns: bool = True,
        cancels: bool = False,
        last_event_id: str | None = None,
    ) -> None:
        self._http, self._path, self._body = http, path, body
        self._returns, self._cancels = returns, cancels
        self._id: str | None = None
        self._last_event_id = last_event_id
        self._last: Event | None = None
        self._tries = 0
        self._over = False

    def events(self) -> Generator[Event]:
        """All of them; whoever leaves in the middle ends the request, where that is so agreed."""
        try:
            with self._connect(self._path, self._body) as source:
                _check(source)
                self._id = source.response.headers.get("X-Sample-Id")
                cause = yield from self._read(source)
            while not self._over:
                cause = yield from self._come_back(cause)
        except SampleError:
            self._over = True
            raise
        finally:
            self.leave()

    def leave(self) -> None:
        """End the request, if it is this stream's to end and may still run. Does what it can, and says nothing."""
        self._returns = False
        if self._over or not self._cancels or self._id is None:
            return
        self._cancels = False
        with contextlib.suppress(httpx2.HTTPError, RuntimeError):  # the latter: the client is closed
            self._http.delete(request_path(self._id), timeout=CANCEL_S)

    def _connect(
        self, path: str, body: dict[str, Any] | None
    ) -> contextlib.AbstractContextManager[httpx2.EventSource]:
        headers = {} if self._last_event_id is None else {"Last-Event-ID": self._last_event_id}
        method = "GET" if body is None else "POST"
        return self._http.sse(path, method=method, json=body, headers=headers, max_event_size=MAX_EVENT_BYTES)

    def _read(self, source: httpx2.EventSource) -> Generator[Event, None, Exception | None]:
        """The events of one connection up to its end, which is read, so that it can serve the next request; why it broke."""
        cause = None
        try:
            for message in source:
                event = parse_event(message.event, message.data)
                self._tries, self._last_event_id = 0, message.id or self._last_event_id
                if event is not None:
                    self._last = event
                    yield event
        except BROKEN as error:
            cause = error
        self._over = isinstance(self._last, DoneEvent)
        return cause

    def _come_back(self, cause: Exception | None) -> Generator[Event, None, Exception | None]:
        """One more try, after a pause. Raises IncompleteStream, from the last `cause`, if there is to be none."""
        if self._id is None or not self._returns or self._tries == len(PAUSES_S):
            self._over = True
            raise IncompleteStream(self._broken_off(cause)) from cause
        pause_s = PAUSES_S[self._tries] * random.uniform(0.5, 1.5)
        if isinstance(cause, SampleError) and cause.retry_after_s is not None:
            pause_s = max(pause_s, min(cause.retry_after_s, LONGEST_PAUSE_S))
        time.sleep(pause_s)
        self._tries += 1
        try:
            with self._connect(f"{request_path(self._id)}/events", None) as source:
                try:
                    _check(source)
                except SampleError as error:
                    if error.code not in TRANSIENT:
                        self._tries = len(PAUSES_S)
                    return error
                return (yield from self._read(source))
        except BROKEN as error:
            return error

    def _broken_off(self, cause: Exception | None) -> str:
        where = f"after a {self._last.event} event" if self._last else "before its first event"
        why = f"; it cannot be read on: {cause}" if isinstance(cause, SampleError) else ""
        return f"the stream ended {where}, without done or error{why}"


def request_path(id: str) -> str:
    """Where a request is found again."""
    return f"requests/{quote(id, safe='')}"


def raise_for_error(response: httpx2.Response) -> None:
    """Raises SampleError for an answer that is none."""
    if response.is_success:
        return
    response.read()
    try:
        error = parse_error(response.text)
    except InvalidEvent:
        # Not our server's words: a proxy before it, or another server altogether.
        status = f"HTTP {response.status_code} {response.reason_phrase} from {response.request.url}"
        error = SampleError(status, "http_error", code=response.status_code)
    error.code = error.code or response.status_code
    with contextlib.suppress(ValueError):  # a date, or nothing
        error.retry_after_s = float(response.headers.get("Retry-After", ""))
    raise error


def _check(source: httpx2.EventSource) -> None:
    raise_for_error(source.response)
