"""A stream in OpenAI's shape: chunks without names, then `[DONE]`. Where its connection breaks there is no way back."""

from __future__ import annotations

from typing import Any

from .asking import Patience, ask
from .effects import Emit, Next, Open, Steps
from .errors import IncompleteStream
from .events import parse_error
from .parsing import convert, load_object
from .stream import BROKEN

LAST = "[DONE]"


def chunks(path: str, body: dict[str, Any], kind: Any, patience: Patience) -> Steps[None]:
    """The chunks of an answer, each of the dataclass `kind`. Raises SampleError where one of them is an error instead."""
    yield from ask(Open("POST", path, body), patience)
    cause: Exception | None = None
    try:
        while (message := (yield Next())) is not None:
            if message.data == LAST:
                return
            chunk = load_object("chunk", message.data)
            if "error" in chunk:
                raise parse_error(message.data)
            yield Emit(convert(chunk, kind, "chunk"))
    except BROKEN as error:
        cause = error
    raise IncompleteStream(f"the stream ended without {LAST}") from cause
