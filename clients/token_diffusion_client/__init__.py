"""Typed access to a running server over HTTP, with httpx2 alone: neither torch nor fastapi is needed here."""

from __future__ import annotations

from .client import DEFAULT_URL, AsyncClient, Client
from .protocol.answers import (
    Chat,
    ChatChunk,
    Completion,
    CompletionChoice,
    CompletionUsage,
    Score,
    Scores,
    Tokenized,
    Vocabulary,
)
from .protocol.canvas import Canvas
from .protocol.errors import IncompleteStream, InvalidEvent, SampleError
from .protocol.events import BlockEvent, DoneEvent, Event, Sample, StartEvent, StateEvent, Timings, Usage
from .protocol.many import Result
from .protocol.requests import Endpoint, Message, Parameters, SampleRequest
from .version import __version__

__all__ = [
    "DEFAULT_URL",
    "AsyncClient",
    "BlockEvent",
    "Canvas",
    "Chat",
    "ChatChunk",
    "Client",
    "Completion",
    "CompletionChoice",
    "CompletionUsage",
    "DoneEvent",
    "Endpoint",
    "Event",
    "IncompleteStream",
    "InvalidEvent",
    "Message",
    "Parameters",
    "Result",
    "Sample",
    "SampleError",
    "SampleRequest",
    "Score",
    "Scores",
    "StartEvent",
    "StateEvent",
    "Timings",
    "Tokenized",
    "Usage",
    "Vocabulary",
    "__version__",
]
