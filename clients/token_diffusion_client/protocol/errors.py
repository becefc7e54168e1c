"""What can go wrong with a request besides the way to the server, for which httpx2 has exceptions of its own."""

from __future__ import annotations


class SampleError(Exception):
    """The server's own refusal or failure, as HTTP error or as `error` event.

    Attributes:
        message: one line for people; also `str(error)`.
        type: "invalid_request", "overloaded", "timeout", ...
        param: the request's field at fault, or None.
        code: the HTTP status that stands for it, also within a stream; None if the server gave none.
        retry_after_s: seconds after which the server wants to be asked again; None if it did not say.
    """

    def __init__(self, message: str, type: str, param: str | None = None, code: int | None = None) -> None:
        super().__init__(message)
        self.message, self.type, self.param, self.code = message, type, param, code
        self.retry_after_s: float | None = None


class IncompleteStream(Exception):
    """The stream ended with neither `done` nor `error`, and could not be read on: the server, or the way to it, is gone."""


class InvalidEvent(ValueError):
    """An event, or another answer, that is not what the wire format promises."""
