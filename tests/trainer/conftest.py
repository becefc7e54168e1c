"""Settings of the trainer's tests."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No curve is drawn, as where matplotlib is not installed: that takes longer than to train. Those of `report/` draw."""
    if "report" not in request.path.parts:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
