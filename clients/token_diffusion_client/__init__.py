"""Typed access to a running server over HTTP, with httpx2 alone: neither torch nor fastapi is needed here."""

from __future__ import annotations

from .client import Client
from .events import (
    BlockEvent,
    DoneEvent,
    Event,
    IncompleteStream,
    InvalidEvent,
    Sample,
    SampleError,
    StartEvent,
    StateEvent,
    Timings,
    Usage,
)
from .replay import Canvas

__version__ = "0.1.0"

__all__ = [
    "BlockEvent",
    "Canvas",
    "Client",
    "DoneEvent",
    "Event",
    "IncompleteStream",
    "InvalidEvent",
    "Sample",
    "SampleError",
    "StartEvent",
    "StateEvent",
    "Timings",
    "Usage",
]
