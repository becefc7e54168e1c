"""A network in OpenVINO answers as it does in torch, in shapes that it was not converted in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import ARCHITECTURES, MIXERS, mixer, tiny_model
from token_diffusion import ParameterError
from token_diffusion.networks import denoiser as denoisers
from token_diffusion.networks.backends import handed_over
from token_diffusion.networks.denoiser import MaskedLMDenoiser
from token_diffusion.networks.masked_lm import Pieces
from token_diffusion.networks.rowwise import Rowwise

VOCAB = 50


def native(**options: Any) -> Any:
    """Our own network with all its weights drawn: before training its modulations are zero."""
    model: Any = tiny_model("token-diffusion", VOCAB, cond_dim=16, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


NATIVE: dict[str, dict[str, Any]] = {
    "told t": {"time_conditioning": "t"},
    "told sigma": {"time_conditioning": "sigma"},
    "labels": {"time_conditioning": "sigma", "num_classes": 3},
    "blocks, as BD3-LM": {
        "time_conditioning": "zero",
        "causal_block_size": 8,
        "mlp": "gelu",
        "head_bias": True,
        "gate_offset": 0.0,
        "tie_word_embeddings": False,
    },
}


def network(name: str) -> Any:
    if name in NATIVE:
        return native(**NATIVE[name])
    return mixer(name) if name in MIXERS else tiny_model(name, VOCAB)


def question(lengths: list[int], every: int = 1, num_classes: int = 0) -> tuple[Tensor, ...]:
    """tokens, t, valid, positions, and labels for a network that knows some."""
    generator = torch.Generator().manual_seed(sum(lengths))
    rows, length = len(lengths), max(lengths)
    tokens = torch.randint(VOCAB, (rows, length), generator=generator)
    valid = torch.arange(length) < torch.tensor(lengths)[:, None]
    positions = valid.flatten().nonzero().squeeze(1)[::every]
    t = torch.linspace(1.0, 1e-4, rows, dtype=torch.float64)
    labels = (torch.arange(rows) - 1).clamp(max=num_classes - 1)
    return (tokens, t, valid, positions, labels) if num_classes else (tokens, t, valid, positions)


LENGTHS = ([3], [13, 13, 13, 13], [47, 8, 31, 1, 22], [96, 96], [6])


@pytest.mark.parametrize("name", [*ARCHITECTURES, *NATIVE, "bidirectional-llama", "bidirectional-gpt2", "fnet"])
def test_logits_are_those_of_torch(name: str) -> None:
    plain = MaskedLMDenoiser(network(name))
    known = plain.num_classes
    questions = [question(lengths, every, known) for lengths in LENGTHS for every in (1, 5)]
    expected = [plain(*each) for each in questions]
    ours: Any = handed_over("openvino", plain, "float32")
    assert (ours.batching, ours.num_classes, ours.block_size) == (plain.batching, known, plain.block_size)
    found = [ours(*each) for each in questions]
    for theirs, each in zip(expected, found, strict=True):
        assert each.shape == theirs.shape and each.dtype == torch.float32
        torch.testing.assert_close(each, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())
    again = [ours(*each) for each in reversed(questions)][::-1]
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))  # nor was one overwritten


@pytest.mark.parametrize("name", ["bert", "modernbert", "labels", "blocks, as BD3-LM"])
def test_bfloat16_is_no_farther_from_float32_than_that_of_torch(name: str) -> None:
    known = NATIVE.get(name, {}).get("num_classes", 0)
    exact, plain = (MaskedLMDenoiser(network(name).to(dtype)) for dtype in (torch.float32, torch.bfloat16))
    asked = [question(lengths, num_classes=known) for lengths in LENGTHS]
    expected, theirs = [exact(*each) for each in asked], [plain(*each).float() for each in asked]
    ours = handed_over("openvino", plain, "bfloat16")

    def error(answers: list[Tensor]) -> float:
        return torch.cat([one - other for one, other in zip(answers, expected, strict=True)]).square().mean().item()

    assert 0 < error([ours(*each) for each in asked]) < 4 * error(theirs)


def test_logits_may_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoisers, "PIECE_BYTES", 5 * VOCAB * 4)
    ours: Any = handed_over("openvino", MaskedLMDenoiser(tiny_model(vocab_size=VOCAB)), "float32")
    asked = question([12, 7, 9])
    whole, pieces = ours(*asked), ours.in_pieces(*asked)
    assert isinstance(pieces, Pieces) and [len(pieces[some]) for some in pieces.slices] == [5, 5, 5, 5, 5, 3]
    torch.testing.assert_close(torch.cat([pieces[some] for some in pieces.slices]), whole, rtol=1e-4, atol=1e-5)
    few = question([4])
    assert torch.equal(ours.in_pieces(*few), ours(*few))


def test_of_no_positions_there_are_no_logits() -> None:
    ours = handed_over("openvino", MaskedLMDenoiser(tiny_model(vocab_size=VOCAB)), "float32")
    tokens, t, valid, positions = question([4, 4])
    assert ours(tokens, t, valid, positions[:0]).shape == (0, VOCAB)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_alone_has_the_same_bits_whatever_was_asked_before(dtype: str) -> None:
    model: Any = tiny_model("modernbert", VOCAB)
    ours = Rowwise(handed_over("openvino", MaskedLMDenoiser(model.to(getattr(torch, dtype))), dtype))
    asked = [question([length]) for length in (1, 2, 17, 32, 33, 64)]
    alone = [ours(*each) for each in asked]
    for lengths in LENGTHS:
        ours(*question(lengths, every=2))
    for (tokens, t, valid, positions), expected in zip(asked, alone, strict=True):
        length = tokens.shape[1]
        stranger = torch.full((1, length + 3), 7)
        beside = torch.cat([torch.nn.functional.pad(tokens, (0, 3)), stranger])
        seen = torch.cat([torch.nn.functional.pad(valid, (0, 3)), torch.ones_like(stranger, dtype=torch.bool)])
        places = torch.cat([positions, torch.tensor([length + 4])])
        assert torch.equal(ours(beside, t.repeat(2), seen, places)[:length], expected)


def test_the_weights_are_given_up_and_what_is_asked_of_the_model_is_not() -> None:
    model: Any = network("labels")
    count = model.num_parameters()
    handed_over("openvino", MaskedLMDenoiser(model), "float32")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.num_parameters() == count and model.config.num_classes == 3


class Fixed(torch.nn.Module):
    """Of which one pass does not tell what others are: a number of rows is fixed in it, or a branch is taken."""

    def __init__(self, inner: Any, fixed: str) -> None:
        super().__init__()
        self.inner, self.base_model, self.fixed, self.config = inner, inner.base_model, fixed, inner.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        output = self.inner(input_ids=input_ids, attention_mask=attention_mask)
        if self.fixed == "rows":
            output.logits = output.logits + torch.zeros(len(input_ids), 1, 1)
        elif self.fixed == "branch" and bool((attention_mask == 0).any()):
            output.logits = output.logits * 1.5
        return output


@pytest.mark.parametrize(("fixed", "told"), [("rows", "cannot be converted"), ("branch", "differ by")])
def test_what_is_another_network_in_other_shapes_is_refused(fixed: str, told: str) -> None:
    model: Any = Fixed(tiny_model(vocab_size=VOCAB), fixed)
    plain = MaskedLMDenoiser(model)
    with pytest.raises(ParameterError, match=told) as raised:
        handed_over("openvino", plain, "float32")
    assert raised.value.name == "backend" and "Fixed" in str(raised.value) and "\n" not in str(raised.value)
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_what_does_not_convert_is_refused() -> None:
    with pytest.raises(
        ParameterError, match=r"^backend must be torch for FunnelForMaskedLM, which cannot be converted"
    ):
        handed_over("openvino", MaskedLMDenoiser(mixer("funnel")), "float32")


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_types_that_it_has_not_are_refused(dtype: str) -> None:
    with pytest.raises(ParameterError, match=f"be torch for {dtype}"):
        handed_over("openvino", MaskedLMDenoiser(tiny_model(vocab_size=VOCAB)), dtype)
