"""Whose a request is: what shares are counted by, and who may see it again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Owner:
    """A client of the server: the holder of an API key, or else an address.

    id: what shares are counted by; equal for all requests of one client. name: how logs and metrics call it.
    weight: of its share, beside the others'.
    """

    id: str
    name: str
    weight: float = 1.0

    @property
    def key_name(self) -> str | None:
        """The name, if it is that of an API key: one of few, so that metrics may have it as a label."""
        return self.name if self.id.startswith("key:") else None
