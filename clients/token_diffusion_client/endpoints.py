"""A server's endpoints as methods: parameters are named as on the wire, answers are typed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from contextlib import ExitStack
from typing import Any, Unpack
from urllib.parse import quote

from .progress import Bar
from .protocol.answers import Chat, ChatChunk, Completion, Detokenized, Models, Scores, Tokenized, Vocabulary, read
from .protocol.asking import Patience, ask
from .protocol.completions import chunks
from .protocol.effects import Emit, Plain, Send, Steps, Story
from .protocol.errors import InvalidEvent
from .protocol.events import DoneEvent, Event
from .protocol.many import Result, results
from .protocol.methods import call, stream
from .protocol.requests import (
    ChatParameters,
    CompletionParameters,
    Endpoint,
    Message,
    Parameters,
    SampleRequest,
    ScoreParameters,
    body,
    openai_body,
    sample_body,
)
from .protocol.stream import Stream, request_path

COMPLETIONS, CHAT = "v1/completions", "v1/chat/completions"

Prompts = str | list[str] | list[int] | list[list[int]]
"""One or several, as text or as token ids."""


class Endpoints:
    """What both clients can be asked.

    Every method raises `SampleError` when the server refuses or fails, `InvalidEvent` when its answer cannot be read,
    `httpx2.TransportError` when it cannot be reached, and ValueError, before anything is sent, for what JSON cannot say:
    a lone surrogate, a number that is not finite.
    """

    _patience: Patience

    @call
    def sample(
        self, prompt: str | None = None, *, endpoint: Endpoint = "sample", **parameters: Unpack[Parameters]
    ) -> Steps[DoneEvent]:
        """Finished samples of the first fitting checkpoint with an absorbing or uniform process, or of `model`."""
        return self._finished(prompt, endpoint, parameters)

    @call
    def sample_block(self, prompt: str | None = None, **parameters: Unpack[Parameters]) -> Steps[DoneEvent]:
        """Samples filled block by block, left to right."""
        return self._finished(prompt, "sample/block", parameters)

    @call
    def sample_hybrid(self, prompt: str | None = None, **parameters: Unpack[Parameters]) -> Steps[DoneEvent]:
        """Samples of a checkpoint with the hybrid process."""
        return self._finished(prompt, "sample/hybrid", parameters)

    @stream
    def stream_sample(
        self, prompt: str | None = None, *, endpoint: Endpoint = "sample", **parameters: Unpack[Parameters]
    ) -> Story[Event]:
        """The same as events while they happen: `StartEvent` first, `DoneEvent` last.

        The request is sent when the first event is asked for. Closing the generator ends the connection, and the
        server stops its work; leaving a `for` over a generator that nothing else refers to closes it. (An async one is
        closed at once by `contextlib.aclosing`, else when the event loop comes to it.)

        Where the connection breaks, the stream comes back and goes on after the last event, as if nothing had been; it
        raises `IncompleteStream` if that fails, besides what every method raises. The server keeps a request that has
        lost its client for some seconds. With on_disconnect "keep" it does so too when the generator is closed (see
        `attach`), with "cancel" never, and then a broken connection ends the stream.
        """
        return Stream.of(prompt, endpoint, parameters, self._patience)

    @stream
    def stream_block(self, prompt: str | None = None, **parameters: Unpack[Parameters]) -> Story[Event]:
        """`sample_block` as events, with a `BlockEvent` for each block."""
        return Stream.of(prompt, "sample/block", parameters, self._patience)

    @stream
    def stream_hybrid(self, prompt: str | None = None, **parameters: Unpack[Parameters]) -> Story[Event]:
        """`sample_hybrid` as events."""
        return Stream.of(prompt, "sample/hybrid", parameters, self._patience)

    @call
    def sample_many(
        self,
        requests: Iterable[SampleRequest | str],
        *,
        max_concurrency: int = 8,
        progress: bool | Callable[[Result], object] = False,
    ) -> Steps[list[Result]]:
        """A `Result` for each request, in their order; at most `max_concurrency` run at a time.

        A request is its prompt, or a mapping of the fields of `sample` with an `endpoint`, if it is another one. One
        that fails, or cannot be sent, is a result with its `error`, and the others go on. `progress` draws a bar (it
        needs rich), or is called with each result. Leaving in the middle, as by Ctrl-C, ends those that run.
        """
        _check_concurrency(max_concurrency)
        found: list[Result] = []
        with ExitStack() as drawn:
            if progress is True:
                bar = drawn.enter_context(Bar(len(requests) if isinstance(requests, Sized) else None))

                def progress(result: Result) -> None:
                    bar.show(result.error)

            def tell(result: Result) -> Steps[None]:
                found.append(result)
                if callable(progress):
                    progress(result)
                yield from ()

            yield from results(requests, max_concurrency, self._patience, tell)
        return sorted(found, key=lambda result: result.index)

    @stream
    def iter_many(self, requests: Iterable[SampleRequest | str], *, max_concurrency: int = 8) -> Story[Result]:
        """The results of `sample_many` as they come. The next request is taken from `requests` when one has ended."""
        _check_concurrency(max_concurrency)

        def tell(result: Result) -> Steps[None]:
            yield Emit(result)

        return Plain(results(requests, max_concurrency, self._patience, tell))

    @stream
    def attach(self, id: str, *, last_event_id: str | None = None) -> Story[Event]:
        """The events of a request that was sent before, by the `id` of its `StartEvent`: all of them, or those that
        came after `last_event_id`.

        Breaks are mended as in `stream_sample`. Leaving these events ends no request that is kept.
        """
        return Stream(f"{request_path(id)}/events", patience=self._patience, last_event_id=last_event_id)

    @call
    def cancel(self, id: str) -> Steps[None]:
        """End a request; its streams end with a `SampleError` of type cancelled. Raises one of code 404 if it is over."""
        yield from ask(Send("DELETE", request_path(id)), self._patience)

    @call
    def status(self, id: str) -> Steps[dict[str, Any]]:
        """How far a request is, and once it has ended its answer, as the server's JSON."""
        return self._get(request_path(id))

    @call
    def score(self, texts: str | Sequence[str], **parameters: Unpack[ScoreParameters]) -> Steps[Scores]:
        """How much information each text is to the model, at most: its NELBO, with the error that it is known to."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        return self._post("score", body({"texts": texts, **parameters}), Scores)

    @call
    def tokenize(self, prompt: str, *, model: str | None = None, add_frame: bool | None = None) -> Steps[Tokenized]:
        """The tokens of a text; with `add_frame` those of the checkpoint's frame, too."""
        return self._post("tokenize", body({"prompt": prompt, "model": model, "add_frame": add_frame}), Tokenized)

    @call
    def detokenize(self, tokens: Sequence[int], *, model: str | None = None) -> Steps[str]:
        """The text of token ids."""
        fields = body({"tokens": list(tokens), "model": model})
        found: Detokenized = yield from self._post("detokenize", fields, Detokenized)
        return found.prompt

    @call
    def tokens(self, model: str | None = None) -> Steps[Vocabulary]:
        """What each token of a checkpoint reads as; of the default one without `model`."""
        if model is None:
            loaded: Models = yield from self._get("models", Models)
            if not loaded.models:
                raise InvalidEvent("/models must name a checkpoint, got none")
            model = loaded.models[0].name
        return (yield from self._get(f"models/{quote(model, safe='')}/tokens", Vocabulary))

    @call
    def completions(self, prompt: Prompts, **parameters: Unpack[CompletionParameters]) -> Steps[Completion]:
        """OpenAI's `/v1/completions`, for who thinks in its words; the openai package does as well."""
        return self._post(COMPLETIONS, openai_body({"prompt": prompt, **parameters}, stream=False), Completion)

    @stream
    def stream_completions(self, prompt: Prompts, **parameters: Unpack[CompletionParameters]) -> Story[Completion]:
        """The same in chunks of text that is final; with `diffusing` each chunk is whole, and takes the last one's place.

        Raises `IncompleteStream` if it ends before its end: unlike those of `stream_sample`, it cannot be come back to.
        """
        fields = openai_body({"prompt": prompt, **parameters}, stream=True)
        return Plain(chunks(COMPLETIONS, fields, Completion, self._patience))

    @call
    def chat(self, messages: Sequence[Message], **parameters: Unpack[ChatParameters]) -> Steps[Chat]:
        """OpenAI's `/v1/chat/completions`: what is said next; for checkpoints whose tokenizer has a chat template."""
        return self._post(CHAT, openai_body({"messages": list(messages), **parameters}, stream=False), Chat)

    @stream
    def stream_chat(self, messages: Sequence[Message], **parameters: Unpack[ChatParameters]) -> Story[ChatChunk]:
        """The same in chunks, as `stream_completions`."""
        fields = openai_body({"messages": list(messages), **parameters}, stream=True)
        return Plain(chunks(CHAT, fields, ChatChunk, self._patience))

    @call
    def models(self) -> Steps[dict[str, Any]]:
        """The loaded checkpoints, as the server's JSON."""
        return self._get("models")

    @call
    def info(self) -> Steps[dict[str, Any]]:
        """Versions, device, limits and load, as the server's JSON."""
        return self._get("info")

    @call
    def version(self) -> Steps[str]:
        """The server's version."""
        return str((yield from self._get("version")).get("version"))

    @call
    def health(self) -> Steps[bool]:
        """Whether the server is alive."""
        return (yield Send("GET", "health")).is_success

    @call
    def ready(self) -> Steps[bool]:
        """Whether it takes work: loaded, and not about to stop."""
        return (yield Send("GET", "ready")).is_success

    def _finished(self, prompt: str | None, endpoint: Endpoint, parameters: Parameters) -> Steps[DoneEvent]:
        fields = sample_body(prompt, parameters, stream=False)
        response = yield from ask(Send("POST", endpoint, fields), self._patience)
        done: DoneEvent = read(response, DoneEvent, "done")
        return done

    def _get(self, path: str, kind: Any = dict) -> Steps[Any]:
        return read((yield from ask(Send("GET", path), self._patience)), kind, f"/{path}")

    def _post(self, path: str, fields: dict[str, Any], kind: Any) -> Steps[Any]:
        return read((yield from ask(Send("POST", path, fields), self._patience)), kind, f"/{path}")


def _check_concurrency(max_concurrency: int) -> None:
    if max_concurrency < 1:
        raise ValueError(f"max_concurrency must be >= 1, got {max_concurrency}")
