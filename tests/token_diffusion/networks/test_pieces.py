"""Logits in pieces: what they are at once, while no more than a piece of them is there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import ARCHITECTURES, PROCESSES, tiny_model
from token_diffusion import TokenDiffusionScheduler, sample, sample_hybrid, score
from token_diffusion.networks import denoiser as denoisers
from token_diffusion.networks.denoiser import MaskedLMDenoiser
from token_diffusion.networks.masked_lm import Pieces
from token_diffusion.networks.rowwise import Rowwise

VOCAB_SIZE, SIZE = 50, 5


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of `SIZE` positions."""
    monkeypatch.setattr(denoisers, "PIECE_BYTES", SIZE * VOCAB_SIZE * 4)


def question(rows: int = 3) -> tuple[Tensor, ...]:
    tokens = torch.arange(rows * 12).view(rows, 12) % VOCAB_SIZE
    valid = torch.arange(12) < torch.tensor([12, 7, 9])[:rows, None]
    positions = valid.flatten().nonzero().squeeze(1)
    return tokens, torch.linspace(0.2, 0.9, rows), valid, positions


class Watch:
    """How often the body embeds tokens, which is once a pass, and how many rows the head is given at most."""

    def __init__(self, model: Any) -> None:
        self.bodies, self.most = 0, 0
        self.head = [layer for layer in model.modules() if getattr(layer, "out_features", 0) == VOCAB_SIZE][-1]
        self.head.register_forward_hook(self._head)
        model.get_input_embeddings().register_forward_hook(self._body)

    def _head(self, layer: nn.Module, arguments: Any, output: Tensor) -> None:
        self.most = max(self.most, output.flatten(0, -2).shape[0])

    def _body(self, *_: Any) -> None:
        self.bodies += 1


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "bidirectional-llama", "bidirectional-gpt2"])
def test_the_body_runs_once_and_the_head_on_a_piece_at_a_time(architecture: str, small: None) -> None:
    model: Any = tiny_model(architecture, VOCAB_SIZE)
    denoiser = MaskedLMDenoiser(model)
    whole, watch = denoiser(*question()), Watch(model)
    pieces = denoiser.in_pieces(*question())
    assert isinstance(pieces, Pieces) and pieces.shape == tuple(whole.shape) == (28, VOCAB_SIZE)
    assert [len(pieces[some]) for some in pieces.slices] == [5, 5, 5, 5, 5, 3]
    assert watch.bodies == 1 and watch.most == SIZE
    torch.testing.assert_close(torch.cat([pieces[some] for some in pieces.slices]), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pieces[3:17], whole[3:17], rtol=1e-4, atol=1e-5)
    assert pieces[5:5].shape == (0, VOCAB_SIZE)
    first, empty, last = pieces.split([7, 0, 21])
    assert [(each.start, each.stop) for each in first.slices] == [(0, 5), (5, 7)] and last.shape == (21, VOCAB_SIZE)
    for part, expected in ((first, whole[:7]), (last, whole[7:])):
        torch.testing.assert_close(torch.cat([part[some] for some in part.slices]), expected, rtol=1e-4, atol=1e-5)
    assert empty.shape[0] == 0
    torch.testing.assert_close(denoiser(*question()), whole, rtol=0, atol=0)


def test_what_fits_into_a_piece_is_a_tensor_as_ever(small: None) -> None:
    denoiser = MaskedLMDenoiser(tiny_model(vocab_size=VOCAB_SIZE))
    tokens, t, valid, positions = question()
    few = denoiser.in_pieces(tokens, t, valid, positions[:SIZE])
    assert torch.equal(few, denoiser(tokens, t, valid, positions[:SIZE]))


def test_one_row_alone_comes_in_pieces_too(small: None) -> None:
    denoiser = Rowwise(MaskedLMDenoiser(tiny_model(vocab_size=VOCAB_SIZE)))
    pieces = denoiser.in_pieces(*question(rows=1))
    torch.testing.assert_close(pieces[:], denoiser(*question(rows=1)), rtol=1e-4, atol=1e-5)
    assert len(pieces.slices) == 3
    assert torch.equal(denoiser.in_pieces(*question())[:5], denoiser(*question())[:5])


@pytest.mark.parametrize("process", PROCESSES)
def test_samples_and_scores_are_those_of_logits_at_once(process: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("bert", VOCAB_SIZE)
    scheduler = TokenDiffusionScheduler(VOCAB_SIZE, 4, forward_process=process)
    found = []
    for size in (10**6, SIZE):
        monkeypatch.setattr(denoisers, "PIECE_BYTES", size * VOCAB_SIZE * 4)
        watch = Watch(model)
        drawn = sample_hybrid if process == "hybrid" else sample
        samples = drawn(model, scheduler, num_samples=3, seq_len=24, num_inference_steps=2, seed=7)
        scored = score(model, scheduler, [list(range(5, 25))], num_times=4, seed=3)
        found.append((samples.sequences, scored[0].nats, watch.most))
    assert torch.equal(found[0][0], found[1][0])
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-5)
    assert found[0][2] > 20 and found[1][2] <= 14, "14 positions are asked once, to find out what the network does"


def test_what_stands_before_a_denoiser_is_asked_itself(small: None) -> None:
    class Before:
        def __init__(self) -> None:
            self.denoiser, self.calls = MaskedLMDenoiser(tiny_model(vocab_size=VOCAB_SIZE)), 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.denoiser, name)

        def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
            self.calls += 1
            return self.denoiser(tokens, t, valid, positions)

    before = Before()
    scheduler = TokenDiffusionScheduler(VOCAB_SIZE, 4)
    assert sample(before, scheduler, num_samples=3, seq_len=24, num_inference_steps=1).nfe == before.calls > 0
