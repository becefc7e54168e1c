"""What a network does with padding, neighbours and masks is found by asking it; its rows then go together as that allows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import ARCHITECTURES, MIXERS, mixer, tiny_model, tiny_tokenizer
from token_diffusion import ParameterError, TokenDiffusionScheduler, sample
from token_diffusion.checkpoint import load_checkpoint, save_checkpoint
from token_diffusion.engine.batch import Batch
from token_diffusion.networks.behaviour import Behaviour, behaviour, check_masks
from token_diffusion.networks.denoiser import MaskedLMDenoiser, as_denoiser
from token_diffusion.networks.groups import SHARED
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.text import OPEN

VOCAB, MASK = 50, 4


def rows_and_padding() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Six rows, two of one length, and their padding: tokens, t, valid, all positions that are not padding."""
    lengths = torch.tensor([19, 8, 11, 8, 1, 14])
    tokens = torch.randint(5, VOCAB, (6, 19), generator=torch.Generator().manual_seed(0))
    valid = torch.arange(19) < lengths.unsqueeze(1)
    tokens[~valid] = 0
    return tokens, torch.full((6,), 0.5, dtype=torch.float64), valid, valid.flatten().nonzero().squeeze(1)


def alone(model: Any, tokens: Tensor, valid: Tensor) -> Tensor:
    """The logits of each row in a plain forward pass of its own, one row after the other; Funnel fails below 5 tokens."""
    with torch.inference_mode():
        lengths = valid.sum(1).tolist()
        rows = []
        for row, mask, n in zip(tokens, valid.long(), lengths, strict=True):
            width = max(n, 5) if model.config.model_type == "funnel" else n
            rows.append(model(input_ids=row[None, :width], attention_mask=mask[None, :width]).logits[0, :n])
    return torch.cat(rows).float()


@pytest.mark.parametrize("name", MIXERS)
def test_rows_whose_padding_is_seen_are_asked_at_their_own_length(name: str) -> None:
    model = mixer(name)
    tokens, t, valid, positions = rows_and_padding()
    expected = alone(model, tokens, valid)
    with torch.inference_mode():
        padded = model(input_ids=tokens, attention_mask=valid.long()).logits.flatten(0, 1)[positions]
    assert (padded - expected).abs().max() > 0.05 * expected.abs().max(), "the test can tell"
    denoiser = as_denoiser(model)
    assert isinstance(denoiser, MaskedLMDenoiser) and denoiser.batching == "length"
    passes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda _, arguments, keywords: passes.append(tuple(keywords["input_ids"].shape)), with_kwargs=True
    )
    torch.testing.assert_close(denoiser(tokens, t, valid, positions), expected, rtol=1e-4, atol=1e-4)
    assert passes == [(1, 19), (2, 8), (1, 11), (1, 5 if name == "funnel" else 1), (1, 14)]
    some = positions[torch.arange(len(positions)) % 3 == 0]
    chosen = torch.isin(positions, some)
    torch.testing.assert_close(denoiser(tokens, t, valid, some), expected[chosen], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("scale", [0.02, 0.5])
def test_padding_is_seen_through_the_rounding_of_sixteen_bits(name: str, scale: float) -> None:
    if name == "fnet":
        pytest.skip("PyTorch has no Fourier transform of sixteen bits on a CPU")
    for dtype in (torch.bfloat16, torch.float16):
        assert behaviour(mixer(name, scale).to(dtype)).grouping.batching == "length"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_not_taken_for_padding_that_is_seen(architecture: str, dtype: torch.dtype) -> None:
    for scale in (0.02, 0.5):
        model: Any = tiny_model(architecture, VOCAB, initializer_range=scale, num_hidden_layers=6)
        assert behaviour(model.to(dtype)) == Behaviour(SHARED)


def test_a_request_gets_the_same_tokens_among_others_of_a_network_that_sees_padding() -> None:
    """A caller's own network, whether sampled from directly or in a batch."""
    model, scheduler = mixer("fnet"), TokenDiffusionScheduler(VOCAB, MASK)
    requests = {key: SamplingParameters(5 + 2 * key, 1 + key % 2, 8, seed=key) for key in range(6)}
    batch, found = Batch(model, scheduler), dict[object, list[list[int]]]()
    for key, parameters in requests.items():
        batch.add(key, [OPEN] * parameters.seq_len, parameters)
    while not batch.idle:
        found |= {update.key: update.result.tokens for update in batch.step() if update.result}
    for key, p in requests.items():
        single = sample(
            model, scheduler, num_samples=p.num_samples, seq_len=p.seq_len, num_inference_steps=8, seed=p.seed
        )
        assert found[key] == single.sequences.tolist()


class Tiny(nn.Module):
    """A masked LM by its interface alone; what it does beside its embeddings is up to `mix`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=VOCAB), num_hashes=2)
        self.embeddings, self.decoder = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB)

    def mix(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        hidden = self.embeddings(input_ids) * attention_mask.unsqueeze(-1)
        return SimpleNamespace(logits=self.decoder(self.mix(hidden, attention_mask)))


class Scaled(Tiny):
    """As int8's scales: the largest value of all rows decides."""

    def mix(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden / hidden.abs().amax() + hidden.mean()


class LongHash(Tiny):
    """As Reformer: random planes, for rows longer than a piece."""

    def mix(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden if hidden.shape[1] <= 128 else hidden * (hidden @ torch.randn(16, 16)).sign()


class Whim(Tiny):
    """Random by a generator that nobody can seed."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def mix(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden + torch.randn(16, generator=self.generator)


class Padded(Tiny):
    """By the number of all positions, whatever they hold."""

    def mix(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden * (1 + mask.shape[1] / 100)


class Whole(Tiny):
    """Takes rows of whole pieces alone."""

    def mix(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden.unflatten(1, (-1, 2)).flatten(1, 2)


class Fixed(Tiny):
    """As Perceiver: logits for all the positions that it has."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        logits = super().forward(input_ids, attention_mask).logits
        return SimpleNamespace(logits=nn.functional.pad(logits, (0, 0, 0, max(256 - logits.shape[1], 0))))


@pytest.mark.parametrize(
    ("kind", "batching"), [(Tiny, "shared"), (Scaled, "row"), (LongHash, "row"), (Padded, "length")]
)
def test_which_rows_go_together(kind: type[Tiny], batching: str) -> None:
    model = kind()
    state = torch.get_rng_state()
    denoiser = MaskedLMDenoiser(model)
    assert denoiser.batching == batching and behaviour(model).random == (kind is LongHash)
    assert torch.get_rng_state().equal(state)
    lengths = torch.tensor([190, 150, 190, 3])
    tokens, t = torch.randint(VOCAB, (4, 190), generator=torch.Generator().manual_seed(1)), torch.full((4,), 0.5)
    valid = torch.arange(190) < lengths.unsqueeze(1)
    positions = valid.flatten().nonzero().squeeze(1)
    together = denoiser(tokens, t, valid, positions).split(lengths.tolist())
    for row, n in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        single = denoiser(tokens[one, :n], t[one], valid[one, :n], torch.arange(n))
        torch.testing.assert_close(single, together[row])
    assert torch.get_rng_state().equal(state), "what it draws is no draw of anyone else's"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Whim, "network must give the same logits for the same tokens, .* got 'Whim'"),
        (Whole, r"network must take rows of 33 tokens \(.*\), got 'Whole'"),
        (
            Fixed,
            r"network must give logits of shape \(3, 200, 50\) for tokens of shape \(3, 200\), got \(3, 256, 50\)",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(kind: type[Tiny], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        as_denoiser(kind())


def test_it_is_found_out_once() -> None:
    model, passes = tiny_model(vocab_size=VOCAB), list[int]()
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    behaviour(model)
    assert len(passes) == 6
    behaviour(model)
    assert len(passes) == 6
    model.bfloat16()
    behaviour(model)
    assert len(passes) == 12


def esm(**changes: Any) -> Any:
    return tiny_model("esm", VOCAB, mask_token_id=MASK, pad_token_id=0, **changes)


def test_a_network_that_cannot_answer_for_masks_alone_is_refused(tmp_path: Any) -> None:
    model = esm(token_dropout=True)
    with pytest.raises(ParameterError, match="network must give logits that are numbers for a row of masks alone"):
        check_masks(model, MASK)
    check_masks(esm(token_dropout=False), MASK)
    save_checkpoint(tmp_path / "esm", model, tiny_tokenizer(), TokenDiffusionScheduler(VOCAB, MASK))
    with pytest.raises(ParameterError, match=r"^checkpoint_path must hold a network .* masks alone, got '.*'.*esm'$"):
        load_checkpoint(tmp_path / "esm")


@pytest.mark.parametrize("architecture", ["roberta", "xlm-roberta", "camembert", "data2vec-text", "esm"])
def test_masks_that_are_padding_have_no_positions(architecture: str) -> None:
    check_masks(tiny_model(architecture, VOCAB, pad_token_id=0, mask_token_id=MASK, token_dropout=False), MASK)
    model = tiny_model(architecture, VOCAB, pad_token_id=MASK, mask_token_id=MASK, token_dropout=False)
    with pytest.raises(ParameterError, match="tell positions under the mask token 4 apart"):
        check_masks(model, MASK)


def test_weights_that_are_no_numbers_are_refused() -> None:
    model: Any = tiny_model(vocab_size=VOCAB)
    model.bert.embeddings.LayerNorm.weight.data.fill_(torch.nan)
    with pytest.raises(ParameterError, match="network must give logits that are numbers, got 'BertForMaskedLM'"):
        check_masks(model, MASK)


def test_a_folder_says_which_rows_share_a_pass(tmp_path: Any) -> None:
    for name, model in (("fnet", mixer("fnet")), ("bert", tiny_model(vocab_size=VOCAB))):
        save_checkpoint(tmp_path / name, model, tiny_tokenizer(), TokenDiffusionScheduler(VOCAB, MASK))
    assert load_checkpoint(tmp_path / "fnet").batching == "length"
    assert load_checkpoint(tmp_path / "bert").batching == "shared"
    assert load_checkpoint(tmp_path / "bert", dtype="int8").batching == "row"
