"""Exact: the shapes that a row is computed in do not depend on its neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_model
from token_diffusion import ParameterError, TokenDiffusionScheduler
from token_diffusion.engine.batch import Batch
from token_diffusion.networks.denoiser import MaskedLMDenoiser
from token_diffusion.networks.rowwise import Rowwise
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.text import OPEN


class Shapes:
    """Records what it is asked, and answers with logits that depend on the shape: what rounding does, only larger."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[int, ...], int]] = []

    def __call__(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        self.calls.append((tuple(tokens.shape), len(positions)))
        generator = torch.Generator().manual_seed(1000 * tokens.shape[0] + 10 * tokens.shape[1] + len(positions))
        return torch.randn(len(positions), 9, generator=generator)


def test_each_row_goes_alone_at_its_own_length_and_answers_come_in_order() -> None:
    torch.manual_seed(0)
    denoiser = MaskedLMDenoiser(tiny_model(vocab_size=50))
    tokens = torch.randint(0, 50, (4, 12))
    valid = torch.arange(12) < torch.tensor([[12], [5], [7], [9]])
    positions = torch.tensor([0, 3, 11, 13, 36, 40])  # none in the third row
    t = torch.full((4,), 0.5, dtype=torch.float64)
    together, alone = denoiser(tokens, t, valid, positions), Rowwise(denoiser)(tokens, t, valid, positions)
    torch.testing.assert_close(alone, together)
    shapes = Shapes()
    Rowwise(shapes)(tokens, t, valid, positions)
    assert shapes.calls == [((1, 12), 3), ((1, 5), 1), ((1, 9), 2)]


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid"])
def test_even_a_network_that_rounds_by_its_shape_gives_a_request_the_same_tokens(process: str) -> None:
    scheduler = TokenDiffusionScheduler(9, 3, forward_process=process)
    requests = {
        key: SamplingParameters(5 + 3 * key, 1 + key % 3, 8, seed=key, block_size=4 if key % 2 else None)
        for key in range(6)
    }

    def run(keys: list[int], determinism: str) -> dict[object, list[list[int]]]:
        batch = Batch(Shapes(), scheduler, determinism=determinism)  # type: ignore[arg-type]
        found: dict[object, list[list[int]]] = {}
        for key in keys:
            batch.add(key, [OPEN] * requests[key].seq_len, requests[key])
            found |= {update.key: update.result.tokens for update in batch.step() if update.result}
        while not batch.idle:
            found |= {update.key: update.result.tokens for update in batch.step() if update.result}
        return found

    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]):
        assert run(order, "exact") == {key: run([key], "exact")[key] for key in requests}
    assert run([0, 1, 2], "fast") != {key: run([key], "fast")[key] for key in (0, 1, 2)}, "the test can tell"


def test_another_mode_is_refused() -> None:
    with pytest.raises(ParameterError, match="determinism must be exact or fast, got 'exakt'"):
        Batch(Shapes(), TokenDiffusionScheduler(9, 3), determinism="exakt")  # type: ignore[arg-type]
