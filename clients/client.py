"""A server's endpoints as methods: parameters are named as on the wire, answers are the events of `events.py`."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, Literal, Self, TypedDict, Unpack

import httpx2

from .events import (
    DoneEvent,
    Event,
    IncompleteStream,
    InvalidEvent,
    SampleError,
    load_object,
    parse_error,
    parse_event,
)

Endpoint = Literal["sample", "sample/block", "sample/hybrid"]

DEFAULT_URL = "http://127.0.0.1:8000"

MAX_EVENT_BYTES = 64 * 2**20
"""Largest event that is read: `done` holds text, tokens and step map of all samples, and may pass httpx2's 1 MiB."""


class Parameters(TypedDict, total=False):
    """What a request may ask for besides its prompt. What is not given, or None, is left to the server."""

    template: str | None
    """text with [MASK] holes, everything else fixed"""
    num_samples: int | None
    seq_len: int | None
    """tokens of a sample, prompt included"""
    num_inference_steps: int | None
    """the one None with a meaning of its own: given, it is sent, and asks for the continuous-time limit"""
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    block_size: int | None
    """of sample_block and stream_block alone"""
    model: str | None
    """name of a loaded checkpoint"""
    stream_every: int | None
    """updates merged into one state event"""
    include_text: bool | None
    """state events carry text"""
    keyframe_every: int | None
    """state events from one that carries all tokens to the next"""
    timeout_s: float | None
    """seconds after which the server gives up"""


class Client:
    """A connection to one server, to be closed or used in a `with`; threads may share it.

    Args:
        url: where the server is, a path before its endpoints included.
        api_key: sent as `Authorization: Bearer KEY`.
        timeout: seconds without a byte from the server before `httpx2.ReadTimeout` is raised, None for no limit. The
            server's heartbeat keeps a stream alive; an answer that is not streamed needs more than its timeout_s.

    Every method raises `SampleError` when the server refuses or fails, `InvalidEvent` when its answer cannot be read,
    and `httpx2.TransportError` when it cannot be reached.
    """

    def __init__(self, url: str = DEFAULT_URL, *, api_key: str | None = None, timeout: float | None = 90.0) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=httpx2.Timeout(timeout, connect=5.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End every connection; streams that still run are given up, and the server frees their rows."""
        self._http.close()

    def sample(
        self, prompt: str | None = None, *, endpoint: Endpoint = "sample", **parameters: Unpack[Parameters]
    ) -> DoneEvent:
        """Finished samples of the first fitting checkpoint with an absorbing or uniform process, or of `model`."""
        response = self._http.post(endpoint, json=_body(prompt, parameters, stream=False))
        _raise_for_error(response)
        done = parse_event("done", response.text)
        assert isinstance(done, DoneEvent)
        return done

    def sample_block(self, prompt: str | None = None, **parameters: Unpack[Parameters]) -> DoneEvent:
        """Samples filled block by block, left to right."""
        return self.sample(prompt, endpoint="sample/block", **parameters)

    def sample_hybrid(self, prompt: str | None = None, **parameters: Unpack[Parameters]) -> DoneEvent:
        """Samples of a checkpoint with the hybrid process."""
        return self.sample(prompt, endpoint="sample/hybrid", **parameters)

    def stream_sample(
        self, prompt: str | None = None, *, endpoint: Endpoint = "sample", **parameters: Unpack[Parameters]
    ) -> Generator[Event]:
        """The same as events while they happen: `StartEvent` first, `DoneEvent` last.

        The request is sent when the first event is asked for. Closing the generator ends the connection, and the
        server stops its work; leaving a `for` over a generator that nothing else refers to closes it.

        Raises `IncompleteStream` if the connection ends before `done`, besides what every method raises.
        """
        body = _body(prompt, parameters, stream=True)
        with self._http.sse(endpoint, method="POST", json=body, max_event_size=MAX_EVENT_BYTES) as source:
            _raise_for_error(source.response)
            yield from _events(source)

    def stream_block(self, prompt: str | None = None, **parameters: Unpack[Parameters]) -> Generator[Event]:
        """`sample_block` as events, with a `BlockEvent` for each block."""
        return self.stream_sample(prompt, endpoint="sample/block", **parameters)

    def stream_hybrid(self, prompt: str | None = None, **parameters: Unpack[Parameters]) -> Generator[Event]:
        """`sample_hybrid` as events."""
        return self.stream_sample(prompt, endpoint="sample/hybrid", **parameters)

    def models(self) -> dict[str, Any]:
        """The loaded checkpoints, as the server's JSON."""
        return self._get("models")

    def info(self) -> dict[str, Any]:
        """Versions, device, limits and load, as the server's JSON."""
        return self._get("info")

    def health(self) -> bool:
        """Whether the server is alive."""
        return self._http.get("health").is_success

    def ready(self) -> bool:
        """Whether it takes work: loaded, and not about to stop."""
        return self._http.get("ready").is_success

    def _get(self, path: str) -> dict[str, Any]:
        response = self._http.get(path)
        _raise_for_error(response)
        return load_object(f"/{path}", response.text)


def _body(prompt: str | None, parameters: Parameters, *, stream: bool) -> dict[str, Any]:
    """The request's JSON: what was given, and nothing that the server has a default for."""
    given = {"prompt": prompt, **parameters}
    steps = {"num_inference_steps"} & parameters.keys()
    return {name: value for name, value in given.items() if value is not None or name in steps} | {"stream": stream}


def _raise_for_error(response: httpx2.Response) -> None:
    if response.is_success:
        return
    response.read()
    try:
        error = parse_error(response.text)
    except InvalidEvent:
        # Not our server's words: a proxy before it, or another server altogether.
        status = f"HTTP {response.status_code} {response.reason_phrase} from {response.request.url}"
        raise SampleError(status, "http_error", code=response.status_code) from None
    error.code = error.code or response.status_code
    raise error


def _events(messages: Iterable[httpx2.ServerSentEvent]) -> Generator[Event]:
    """Typed events up to the end of the connection, which is read, so that it can serve the next request."""
    last: Event | None = None
    try:
        for message in messages:
            event = parse_event(message.event, message.data)
            if event is not None:
                last = event
                yield event
    except (httpx2.RemoteProtocolError, httpx2.ReadError) as error:
        if not isinstance(last, DoneEvent):
            raise IncompleteStream(_broken_off(last)) from error
    if not isinstance(last, DoneEvent):
        raise IncompleteStream(_broken_off(last))


def _broken_off(last: Event | None) -> str:
    where = f"after a {last.event} event" if last else "before its first event"
    return f"the stream ended {where}, without done or error"
