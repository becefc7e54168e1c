"""The head at the asked positions only gives what the whole forward pass gives."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import ARCHITECTURES, tiny_model
from token_diffusion.networks.denoiser import CallableDenoiser, MaskedLMDenoiser, as_denoiser
from token_diffusion.networks.masked_lm import time_arguments

VOCAB = 50
POSITIONS = torch.tensor([0, 5, 8, 13])


def batch(rows: int = 2, length: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """tokens, t, valid; the same ones every time."""
    tokens = torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))
    return tokens, torch.full((rows,), 0.5, dtype=torch.float64), torch.ones(rows, length, dtype=torch.bool)


def full_logits(model: Any, tokens: Tensor, valid: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=tokens, attention_mask=valid.long()).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_head_at_some_positions_gives_their_logits(architecture: str) -> None:
    model = tiny_model(architecture, VOCAB)
    tokens, t, valid = batch()
    expected = full_logits(model, tokens, valid).flatten(0, 1)[POSITIONS]
    widths: list[int] = []
    model.get_output_embeddings().register_forward_hook(
        lambda head, arguments, output: widths.append(output.shape[:-1].numel())
    )
    denoiser = MaskedLMDenoiser(model)
    assert denoiser.gathers and denoiser.device == torch.device("cpu")
    torch.testing.assert_close(denoiser(tokens, t, valid, POSITIONS), expected)
    assert widths[-1] == len(POSITIONS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rounding_does_not_put_the_gathering_off(architecture: str) -> None:
    """Sixteen bits, and the small logits of a model before its training."""
    model: Any = tiny_model(architecture, VOCAB, initializer_range=0.02)
    for dtype in (torch.float32, torch.bfloat16):
        assert MaskedLMDenoiser(model.to(dtype)).gathers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_changes_nothing(architecture: str) -> None:
    denoiser = MaskedLMDenoiser(tiny_model(architecture, VOCAB))
    tokens, t, valid = batch()
    alone = denoiser(tokens[:1, :4], t[:1], valid[:1, :4], torch.arange(4))
    valid[0, 4:] = False
    for padding in (0, 17):
        tokens[0, 4:] = padding
        padded = denoiser(tokens, t, valid, torch.arange(4))
        torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-4)
    valid[0, 4:] = True
    assert not torch.allclose(denoiser(tokens, t, valid, torch.arange(4)), alone, rtol=1e-2, atol=1e-2)


class TinyLM(nn.Module):
    """A masked LM by its interface alone: embeddings as its body and, over them, a head that tests choose."""

    def __init__(self, head: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=VOCAB))
        self.base_model = Body()
        self.head, self.scale = head, scale
        self.decoder = nn.Linear(16, VOCAB)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        hidden = self.base_model(input_ids)[0]
        return SimpleNamespace(logits=self.decoder(self.head(hidden)) * self.scale)


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(VOCAB, 16)

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        return (self.embeddings(input_ids),)


class Mean(nn.Module):
    """Every position gets the mean of its row: gathered, of other rows' positions too."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + hidden.mean(1, keepdim=True)


class Convolution(nn.Module):
    """Every position sees its neighbours: gathered, strangers."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(16, 16, kernel_size=3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.mix(hidden.transpose(1, 2)).transpose(1, 2)


class Four(nn.Module):
    """Fails where there are fewer than four positions."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + 0 * hidden.narrow(1, 3, 1)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("head", [Mean, Convolution, Four])
def test_a_head_that_mixes_positions_gets_all_of_them(head: type[nn.Module], scale: float) -> None:
    torch.manual_seed(0)
    model = TinyLM(head(), scale)
    tokens, t, valid = batch()
    expected = full_logits(model, tokens, valid).flatten(0, 1)[POSITIONS]
    denoiser = MaskedLMDenoiser(model)
    assert not denoiser.gathers
    torch.testing.assert_close(denoiser(tokens, t, valid, POSITIONS), expected)


def test_a_plain_head_of_an_unknown_model_is_gathered() -> None:
    torch.manual_seed(0)
    model = TinyLM(nn.GELU())
    tokens, t, valid = batch()
    denoiser = MaskedLMDenoiser(model)
    assert denoiser.gathers
    expected = full_logits(model, tokens, valid).flatten(0, 1)[POSITIONS]
    torch.testing.assert_close(denoiser(tokens, t, valid, POSITIONS), expected)


def test_a_model_without_a_body_gets_all_positions() -> None:
    class Bare(nn.Module):
        config = TinyLM(nn.GELU()).config

        def __init__(self) -> None:
            super().__init__()
            self.embeddings, self.decoder = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=self.decoder(self.embeddings(input_ids)))

    model = Bare()
    tokens, t, valid = batch()
    denoiser = as_denoiser(model)
    assert isinstance(denoiser, MaskedLMDenoiser) and not denoiser.gathers
    expected = full_logits(model, tokens, valid).flatten(0, 1)[POSITIONS]
    torch.testing.assert_close(denoiser(tokens, t, valid, POSITIONS), expected)


class Told(TinyLM):
    """Its logits are shifted by the time, after the head: it cannot be asked at some positions alone."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, timesteps: Tensor | None = None) -> SimpleNamespace:
        assert timesteps is not None
        return SimpleNamespace(logits=super().forward(input_ids, attention_mask).logits + timesteps.view(-1, 1, 1))


class Wrapper(nn.Module):
    """As the wrappers of distributed training and of torch.compile are made; `forward` tells nothing."""

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__()
        setattr(self, name, model)

    def forward(self, *arguments: Any, **keywords: Any) -> None: ...


def test_whoever_takes_timesteps_is_told_t_in_float32() -> None:
    torch.manual_seed(0)
    told, t = Told(nn.GELU()), torch.tensor([0.125, 1 - 1e-9], dtype=torch.float64)
    assert time_arguments(TinyLM(nn.GELU()), t) == time_arguments(tiny_model("bert"), t) == {}
    for model in (
        told,
        Wrapper("module", told),
        Wrapper("_orig_mod", Wrapper("module", told)),
        tiny_model("token-diffusion"),
    ):
        (timesteps,) = time_arguments(model, t).values()
        assert timesteps.dtype == torch.float32 and timesteps.tolist() == [0.125, 1.0]
    assert time_arguments(Wrapper("module", TinyLM(nn.GELU())), t) == {}


def test_each_row_is_told_its_own_time() -> None:
    tokens, _, valid = batch()
    t = torch.tensor([0.1, 0.9], dtype=torch.float64)
    torch.manual_seed(0)
    timed, told = tiny_model("token-diffusion", VOCAB, time_conditioning="t"), Told(nn.GELU())
    for parameter in timed.parameters():
        if not parameter.any():  # before training the time is without effect
            nn.init.normal_(parameter, std=0.1)
    for model in (timed, told):
        with torch.inference_mode():
            expected = model(input_ids=tokens, attention_mask=valid, timesteps=t).logits.flatten(0, 1)[POSITIONS]
        denoiser = MaskedLMDenoiser(model)
        assert denoiser.gathers == (model is timed)
        torch.testing.assert_close(denoiser(tokens, t, valid, POSITIONS), expected.float(), rtol=1e-4, atol=1e-4)
        assert (denoiser(tokens, t.flip(0), valid, POSITIONS) - expected).abs().max() > 0.1


def test_the_model_stays_as_it_was_for_everyone_else() -> None:
    model = tiny_model(vocab_size=VOCAB)
    tokens, t, valid = batch()
    before = full_logits(model, tokens, valid)
    first, second = MaskedLMDenoiser(model), MaskedLMDenoiser(model)
    expected = before.flatten(0, 1)[POSITIONS]
    for denoiser in (first, second, first):
        torch.testing.assert_close(denoiser(tokens, t, valid, POSITIONS), expected)
        assert full_logits(model, tokens, valid).equal(before)
    with pytest.raises(IndexError):
        first(tokens, t, valid, torch.tensor([99]))
    assert full_logits(model, tokens, valid).equal(before)
    labels = torch.full_like(tokens, 3)
    loss = model(input_ids=tokens, labels=labels).loss
    torch.testing.assert_close(loss, nn.functional.cross_entropy(before.flatten(0, 1), labels.flatten()))


def test_a_denoiser_is_gone_once_nobody_holds_it() -> None:
    """`sample(model, ...)` makes one each time."""
    model = tiny_model(vocab_size=VOCAB)
    denoiser = MaskedLMDenoiser(model)
    gone = weakref.ref(denoiser)
    del denoiser
    gc.collect()
    assert gone() is None


def test_dropout_is_off() -> None:
    model = tiny_model(vocab_size=VOCAB, hidden_dropout_prob=0.5).train()
    tokens, t, valid = batch()
    denoiser = MaskedLMDenoiser(model)
    assert denoiser(tokens, t, valid, POSITIONS).equal(denoiser(tokens, t, valid, POSITIONS))


def test_a_callable_of_tokens_and_t_is_gathered() -> None:
    def logits(tokens: Tensor, t: Tensor) -> Tensor:
        return tokens.unsqueeze(-1) * t[:, None, None] + torch.arange(VOCAB)

    tokens, t, valid = batch()
    denoiser = as_denoiser(logits)
    assert isinstance(denoiser, CallableDenoiser) and denoiser.device == torch.device("cpu")
    expected = tokens.flatten()[POSITIONS].unsqueeze(1) * 0.5 + torch.arange(VOCAB)
    assert denoiser(tokens, t, valid, POSITIONS).equal(expected)
    assert as_denoiser(denoiser) is denoiser


def test_a_callable_that_takes_positions_is_a_denoiser_already() -> None:
    def denoiser(tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        return torch.zeros(len(positions), VOCAB)

    assert as_denoiser(denoiser) is denoiser


def test_a_model_becomes_a_denoiser_and_a_plain_module_a_callable() -> None:
    model = tiny_model(vocab_size=VOCAB)
    denoiser = as_denoiser(model)
    assert isinstance(denoiser, MaskedLMDenoiser) and denoiser.model is model
    assert as_denoiser(denoiser) is denoiser

    class Module(nn.Module):
        def forward(self, tokens: Tensor, t: Tensor) -> Tensor:
            return nn.functional.one_hot(tokens, VOCAB).double()

    tokens, t, valid = batch()
    logits = as_denoiser(Module())(tokens, t, valid, POSITIONS)
    assert logits.argmax(-1).equal(tokens.flatten()[POSITIONS])


@pytest.mark.parametrize("wrong", [None, 3, "model", [1]])
def test_anything_else_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match=f"denoiser must be a masked LM or a callable, got {type(wrong).__name__}"):
        as_denoiser(wrong)
