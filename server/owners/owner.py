"""Whose a request is: what shares are counted by, and who may see it again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Owner:
    """A client of the server: the holder of an API key, or else an address.

    id: what shares are counted by; equal for all requests of one client. name: how logs and metrics call it.
    weight: of its share, beside the others'. work_per_s: token passes a second that it may ask for; None for no bound.
    """

    id: str
    name: str
    weight: float = 1.0
    work_per_s: float | None = None

    @property
    def key_name(self) -> str | None:
        """The name, if it is that of an API key: one of few, so that metrics may have it as a label."""
        return self.name if self.id.startswith("key:") else None
