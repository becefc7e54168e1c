"""/v1/models, by OpenAI's client."""

from __future__ import annotations

from typing import Any

import pytest
from openai import NotFoundError

from tests.tiny import MAX_POSITIONS

pytest_plugins = ["tests.server_fixtures"]


def test_what_is_loaded_is_listed_and_found(client: Any) -> None:
    cards = client.models.list().data
    assert [card.id for card in cards] == ["absorbing", "uniform", "hybrid", "chat"]
    card = client.models.retrieve("hybrid")
    assert card in cards
    assert (card.object, card.owned_by, card.to_dict()["max_model_len"]) == ("model", "token-diffusion", MAX_POSITIONS)
    assert card.created > 1_700_000_000


@pytest.mark.parametrize("name", ["nobody", "no/body", "<b>", "\u202e"])
def test_what_is_not_is_not(client: Any, name: str) -> None:
    with pytest.raises(NotFoundError, match="model must be one of absorbing, uniform, hybrid, chat") as refused:
        client.models.retrieve(name)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    with pytest.raises(NotFoundError) as refused:
        client.completions.create(model=name, prompt="w1")
    assert refused.value.code == "model_not_found"
