"""A server's endpoints as methods: parameters are named as on the wire, answers are the events of `events.py`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Literal, Self, TypedDict, Unpack

import httpx2

from .events import DoneEvent, Event, load_object, parse_event
from .stream import Stream, raise_for_error, request_path

Endpoint = Literal["sample", "sample/block", "sample/hybrid"]

DEFAULT_URL = "http://127.0.0.1:8000"

OnDisconnect = Literal["cancel", "keep"]


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
    on_disconnect: OnDisconnect | None
    """of streams alone: what becomes of the request when they are left"""


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
        self._streams: set[Stream] = set()
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=httpx2.Timeout(timeout, connect=5.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End every connection; streams that still run are given up, and the server frees their rows."""
        for stream in list(self._streams):
            stream.leave()
        self._http.close()

    def sample(
        self, prompt: str | None = None, *, endpoint: Endpoint = "sample", **parameters: Unpack[Parameters]
    ) -> DoneEvent:
        """Finished samples of the first fitting checkpoint with an absorbing or uniform process, or of `model`."""
        response = self._http.post(endpoint, json=_body(prompt, parameters, stream=False))
        raise_for_error(response)
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

        Where the connection breaks, the stream comes back and goes on after the last event, as if nothing had been; it
        raises `IncompleteStream` if that fails, besides what every method raises. The server keeps a request that has
        lost its client for some seconds. With on_disconnect "keep" it does so too when the generator is closed (see
        `attach`), with "cancel" never, and then a broken connection ends the stream.
        """
        body = _body(prompt, parameters, stream=True)
        asked = body.setdefault("on_disconnect", "keep")
        cancels = parameters.get("on_disconnect") is None
        stream = Stream(self._http, endpoint, body, returns=asked == "keep", cancels=cancels)
        self._streams.add(stream)
        try:
            yield from stream.events()
        finally:
            self._streams.discard(stream)

    def attach(self, id: str, *, last_event_id: str | None = None) -> Generator[Event]:
        """The events of a request that was sent before, by the `id` of its `StartEvent`: all of them, or those that
        came after `last_event_id`.

        Breaks are mended as in `stream_sample`. Leaving these events ends no request that is kept.
        """
        yield from Stream(self._http, f"{request_path(id)}/events", last_event_id=last_event_id).events()

    def cancel(self, id: str) -> None:
        """End a request; its streams end with a `SampleError` of type cancelled. Raises one of code 404 if it is over."""
        raise_for_error(self._http.delete(request_path(id)))

    def status(self, id: str) -> dict[str, Any]:
        """How far a request is, and once it has ended its answer, as the server's JSON."""
        return self._get(request_path(id))

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
        raise_for_error(response)
        return load_object(f"/{path}", response.text)


def _body(prompt: str | None, parameters: Parameters, *, stream: bool) -> dict[str, Any]:
    """The request's JSON: what was given, and nothing that the server has a default for."""
    given = {"prompt": prompt, **parameters}
    steps = {"num_inference_steps"} & parameters.keys()
    return {name: value for name, value in given.items() if value is not None or name in steps} | {"stream": stream}
