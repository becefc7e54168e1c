"""Guidance: its authors' probabilities, the laws at both ends, two views of a row in one pass, alone and among strangers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.laws import Law, Laws, chi_square_p, counts, make_law
from tests.tiny import PROCESSES, Labelled, NeighbourDenoiser, tiny_model
from tests.token_diffusion.samplers.decoders import recordings
from token_diffusion import ParameterError, TokenDiffusionScheduler, sample, sample_block
from token_diffusion.engine.batch import Batch, Result, Update
from token_diffusion.networks import denoiser as denoisers
from token_diffusion.networks.masked_lm import Pieces
from token_diffusion.samplers import Samplers, price
from token_diffusion.samplers.catalogue import KINDS
from token_diffusion.samplers.decoders.guidance import Branches, log_posterior
from token_diffusion.samplers.draws import Some
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.samplers.sampler import own
from token_diffusion.sampling import run

P = 0.001
VOCAB, MASK = 7, 3
GAMMAS = (0.5, 2.0, 4.0)
RECORDED = load_file(Path(__file__).parent / "recorded" / "guidance.safetensors")


class Recorded:
    """The network of the recordings."""

    num_classes = 2

    def __call__(self, tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        weights, told = RECORDED["weights"], torch.full((len(tokens),), -1) if labels is None else labels
        logits = RECORDED["bias"] + RECORDED["told"][told]
        for position in range(tokens.shape[1]):
            logits = logits + weights[:, position, tokens[:, position]].transpose(0, 1)
        return logits


def both(conditional: Tensor, unconditional: Tensor, scale: float) -> Branches:
    """Of logits [n, V] each, as one row after the other has them."""
    logits = torch.stack([conditional, unconditional], 1).flatten(0, 1)
    is_second = torch.arange(len(logits)) % 2 == 1
    return Branches(logits, is_second, torch.full((len(conditional),), scale, dtype=torch.float64), MASK)


def in_one_batch(
    denoiser: Any, scheduler: Any, requests: list[Any], **options: Any
) -> list[tuple[Result, list[Update]]]:
    """The results of requests (tokens, parameters) that share a batch, with the updates of each."""
    batch, told = Batch(denoiser, scheduler, **options), dict[Any, list[Update]]()
    for key, (tokens, parameters) in enumerate(requests):
        batch.add(key, tokens, parameters)
    while not batch.idle:
        for update in batch.step():
            told.setdefault(update.key, []).append(update)
    results = [told[key][-1].result for key in range(len(requests))]
    return [(result, told[key]) for key, result in enumerate(results) if result is not None]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_absorbing_probabilities_are_the_authors(gamma: float) -> None:
    z, q = RECORDED[f"absorbing.{gamma:g}.z"].long(), RECORDED[f"absorbing.{gamma:g}.q"]
    network, masks, mask = Recorded(), 0, 2
    for step in range(len(q)):
        tokens, t = z[step : step + 1], torch.ones(1)
        conditional, unconditional = (network(tokens, t, torch.tensor([label]))[0] for label in (1, -1))
        logits = torch.stack([conditional, unconditional], 1).flatten(0, 1)
        is_second = torch.arange(len(logits)) % 2 == 1
        scale = torch.full((len(conditional),), gamma, dtype=torch.float64)
        theta = Branches(logits, is_second, scale, mask)[:].softmax(-1)
        is_mask = z[step] == mask
        expected = q[step].index_fill(-1, torch.tensor([mask]), 0)
        expected = expected / expected.sum(-1, keepdim=True)
        torch.testing.assert_close(theta[is_mask], expected[is_mask], rtol=1e-9, atol=1e-12)
        masks += int(is_mask.sum())
    assert masks > 20


@pytest.mark.parametrize("gamma", GAMMAS)
def test_uniform_is_the_authors_loop_token_for_token(gamma: float) -> None:
    scheduler = TokenDiffusionScheduler(6, 2, forward_process="uniform", exclude_mask_from_uniform=False)
    parameters = SamplingParameters(5, num_inference_steps=12, seed=7, label=1, guidance_scale=gamma)
    canvas, canvases = torch.tensor(Batch(Recorded(), scheduler).add(0, [-1] * 5, parameters)), list[Tensor]()

    def follow(update: Update) -> None:
        for sample_, position, token in update.changes:
            canvas[sample_, position] = token
        canvases.append(canvas[0].clone())

    first = canvas[0].clone()
    output = run(Recorded(), scheduler, parameters, callback=follow)
    recorded = RECORDED[f"uniform.{gamma:g}.z"].long()
    assert torch.equal(torch.stack([first, *canvases]), recorded)
    assert torch.equal(output.sequences[0], recorded[-1]) and output.nfe == 24 and output.forwards_skipped == 0


@pytest.mark.parametrize("name", [name for name in recordings.recordings("llada") if name.startswith("guided")])
def test_decoding_by_confidence_with_guidance_is_lladas_loop_token_for_token(name: str) -> None:
    recording = recordings.recordings("llada")[name]
    scheduler = TokenDiffusionScheduler(recordings.VOCAB_SIZE, recordings.MASK)
    output = sample_block(
        recording.network,
        scheduler,
        seq_len=len(recording.template),
        tokens=recording.template,
        sampler="confidence",
        guidance_scale=recording.parameters["cfg_scale"] + 1,
        **{field: recording.parameters[field] for field in ("block_size", "num_inference_steps", "temperature")},
    )
    assert recording.parameters["cfg_scale"] > 0
    assert output.sequences[0].tolist() == recording.end and output.step_map[0].tolist() == recording.step_map
    assert output.nfe == 2 * recording.evaluations


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("mask", [0, 1, 3])
def test_at_both_ends_it_is_sampling_with_the_label_and_without(process: str, mask: int) -> None:
    scheduler = TokenDiffusionScheduler(4, mask, forward_process=process)
    options: dict[str, Any] = {"num_samples": 5, "num_inference_steps": 6, "seed": 1, "block_size": 2}
    for scale, label in ((0, None), (1, 0)):
        guided, plain = (
            sample_block(Labelled(4), scheduler, seq_len=3, **options, **condition)
            for condition in ({"label": 0, "guidance_scale": scale}, {"label": label})
        )
        assert torch.equal(guided.sequences, plain.sequences) and torch.equal(guided.step_map, plain.step_map)
        assert (guided.nfe, guided.forwards_skipped) == (plain.nfe, plain.forwards_skipped)


@pytest.mark.parametrize("mask", [0, 1, 3])
def test_at_both_ends_the_laws_are_those_of_the_branches(mask: int) -> None:
    scheduler = TokenDiffusionScheduler(4, mask)
    laws = Laws(scheduler)
    for scale, label in ((0, None), (1, 0)):
        parameters = SamplingParameters(3, 2000, None, seed=1, label=0, guidance_scale=scale)
        drawn = counts(laws.of(label), run(laws, scheduler, parameters).sequences)
        assert chi_square_p(drawn, laws.of(label).probability) > P
        assert chi_square_p(drawn, laws.of(None if scale else 0).probability) < 1e-9


@pytest.mark.parametrize("process", ["absorbing", "hybrid"])
@pytest.mark.parametrize("mask", [0, 2, 3])
def test_without_its_prompt_a_row_has_the_law_of_all_texts(process: str, mask: int) -> None:
    law = make_law(4, 3, mask, seed=3)
    scheduler = TokenDiffusionScheduler(4, mask, forward_process=process)
    prompt = int(law.sequences[law.probability.argmin(), 0])
    tokens, steps = [prompt, -1, -1], None if process == "absorbing" else 50
    for scale in (0, 1) if process == "absorbing" else (0,):
        parameters = SamplingParameters(3, 1000, steps, seed=2, guidance_scale=scale)
        drawn = run(law.denoiser(scheduler), scheduler, parameters, tokens).sequences
        assert set(drawn[:, 0].tolist()) == {prompt}
        expected = law.given(tokens) if scale else marginal(law, prompt)
        assert chi_square_p(counts(law, drawn), expected) > P


def marginal(law: Law, prompt: int) -> Tensor:
    """The law of all but the first token, whatever that is, with `prompt` in its place; float64 [S]."""
    found = torch.zeros_like(law.probability)
    for index, tokens in enumerate(law.sequences):
        if tokens[0] == prompt:
            same = (law.sequences[:, 1:] == tokens[1:]).all(1)
            found[index] = law.probability[same].sum()
    return found


@pytest.mark.parametrize("gamma", [0.5, 3.0])
@pytest.mark.parametrize("mask", [0, 1, 3])
def test_one_token_has_the_mixture_of_its_branches(mask: int, gamma: float) -> None:
    law = make_law(4, 3, mask, seed=5)
    scheduler = TokenDiffusionScheduler(4, mask)
    first, last = law.sequences[7, 0].item(), law.sequences[7, 2].item()
    tokens = [int(first), -1, int(last)]
    one = law.denoiser(scheduler)(torch.tensor([[first, mask, last], [mask, mask, mask]]), torch.ones(2))[:, 1]
    one[:, mask] = -1e9
    expected = (gamma * one[0] + (1 - gamma) * one[1]).softmax(-1)
    probability = torch.zeros_like(law.probability)
    for index, text in enumerate(law.sequences):
        if text[0] == first and text[2] == last:
            probability[index] = expected[text[1]]
    drawn = sample(
        law.denoiser(scheduler), scheduler, seq_len=3, num_samples=2000, tokens=tokens, guidance_scale=gamma
    ).sequences
    assert chi_square_p(counts(law, drawn), probability) > P


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("mask", [0, 2, 4])
@pytest.mark.parametrize("process", ["uniform", "hybrid"])
def test_the_posterior_is_that_of_bayes(process: str, mask: int, exclude: bool) -> None:
    options = {} if process == "hybrid" else {"exclude_mask_from_uniform": exclude}
    scheduler = TokenDiffusionScheduler(5, mask, forward_process=process, **options)
    of, z = scheduler.process, torch.arange(5)
    theta = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    theta = theta.index_fill(-1, torch.tensor([mask]), -torch.inf).softmax(-1)
    for t, s in ((0.99, 0.9), (0.6, 0.5), (0.1, 0.0)):
        now, then = (of.masses(torch.full((5,), time, dtype=torch.float64)) for time in (t, s))
        landing = of.states.landing(z, then)  # on each state
        at_s = then.alpha[0] * theta + landing
        noise = of.states.landing(z, now) - now.alpha / then.alpha * landing  # from s to t, on z
        ratio = (now.alpha / then.alpha)[0] * torch.eye(5, dtype=torch.float64)
        forward = ratio + noise.unsqueeze(1)  # of z given each state
        expected = at_s * forward / (at_s * forward).sum(-1, keepdim=True)
        is_state = of.states.landing(z, now) > 0  # a uniform process that excludes the mask shows none
        found = log_posterior(of, z, theta, now, then).exp()
        torch.testing.assert_close(found[is_state], expected[is_state], rtol=1e-9, atol=1e-12)
        assert int(is_state.sum()) == (4 if process == "uniform" and exclude else 5)


@pytest.mark.parametrize("gamma", [0.25, 1.5, 1000.0])
def test_what_a_branch_finds_impossible_makes_no_nan(gamma: float) -> None:
    never = -torch.inf
    #                           both   c alone  u alone  neither, with another likely one
    conditional = torch.tensor([[0.0, never, 1.0, 5.0, never, 0.5]])
    unconditional = torch.tensor([[0.3, 2.0, never, 5.0, never, 0.1]])
    theta = both(conditional, unconditional, gamma)[:].softmax(-1)[0]
    assert not theta.isnan().any() and theta.sum() == pytest.approx(1)
    assert theta[[1, 3, 4]].tolist() == [0, 0, 0], "impossible with the condition, the mask, impossible anyway"
    assert theta[2] == (0 if gamma < 1 else 1)
    nowhere = both(torch.tensor([[1.0, never, 2.0, 0.0]]), torch.tensor([[never, 0.0, never, 0.0]]), gamma)
    expected = (gamma * torch.tensor([1.0, 2.0])).softmax(-1)
    assert nowhere[:].softmax(-1)[0, [0, 2]].tolist() == pytest.approx(expected.tolist()), "they agree on none"


@pytest.mark.parametrize("branch", [0, 1])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_branch_without_a_distribution_is_an_error(branch: int, value: float) -> None:
    class Broken(Labelled):
        def __call__(self, tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            logits = super().__call__(tokens, t, labels)
            assert labels is not None
            logits[labels == (1 if branch == 0 else -1), :, 5] = value
            return logits

    scheduler = TokenDiffusionScheduler(VOCAB, MASK)
    with pytest.raises(FloatingPointError, match="the network's logits are NaN"):
        sample(Broken(), scheduler, seq_len=4, label=1, guidance_scale=2.0)


class Shown(Labelled):
    """Keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[list[list[int]]] = []

    def __call__(self, tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.shown.append(tokens.tolist())
        return super().__call__(tokens, t, labels)


def test_the_second_view_hides_what_was_given_but_not_the_frame_nor_what_was_drawn() -> None:
    scheduler, network, tokens = TokenDiffusionScheduler(VOCAB, MASK), Shown(), [0, 5, -1, 6, -1, -1, 1]
    run(network, scheduler, SamplingParameters(7, 1, None, seed=1, guidance_scale=2.0, frame=(1, 1)), tokens)
    assert len(network.shown) == 3
    for count, (shown, hidden) in enumerate(network.shown):
        assert [hidden[0], hidden[6]] == [0, 1] and [hidden[1], hidden[3]] == [MASK, MASK]
        assert [shown[0], shown[1], shown[3], shown[6]] == [0, 5, 6, 1]
        assert [shown[index] for index in (2, 4, 5)] == [hidden[index] for index in (2, 4, 5)]
        assert shown.count(MASK) == 3 - count
    assert set(map(str, network.told)) == {"None"}


def test_a_row_with_a_label_is_guided_by_that_and_keeps_its_prompt() -> None:
    scheduler, network = TokenDiffusionScheduler(VOCAB, MASK), Shown()
    run(network, scheduler, SamplingParameters(4, 1, None, label=2, guidance_scale=2.0), [5, -1, -1, 1])
    assert all(shown == hidden for shown, hidden in network.shown)
    assert network.told == [[2, -1]] * 2
    unguided = Shown()
    run(unguided, scheduler, SamplingParameters(4, 1, None, label=2, guidance_scale=0), [5, -1, -1, 1])
    assert unguided.told == [None] * 2, "one view, which has no label"


REQUESTS: dict[str, list[Any]] = {
    "absorbing": [
        ([-1] * 8, SamplingParameters(8, 2, 6, seed=5, label=1, guidance_scale=2.5)),
        ([4, 5, -1, -1, -1, -1, -1, -1], SamplingParameters(8, 3, None, seed=6, guidance_scale=1.5, logprobs=True)),
        ([-1] * 8, SamplingParameters(8, 2, 6, seed=5, label=1)),
        ([4, -1, -1, 6, -1, 2, -1, -1, -1], SamplingParameters(9, 1, 3, seed=1, guidance_scale=0.5, block_size=3)),
        ([4, 5, -1, -1, -1, -1], SamplingParameters(6, 1, 4, seed=9, label=0, guidance_scale=0, top_p=0.8)),
        ([4, 5, -1, -1, -1, -1], SamplingParameters(6, 1, 4, seed=9, temperature=0.0, guidance_scale=3, frame=(1, 0))),
        ([-1] * 5, SamplingParameters(5, 2, 4, seed=3)),
    ],
    "uniform": [
        ([-1] * 8, SamplingParameters(8, 2, 6, seed=5, label=1, guidance_scale=2.5, logprobs=True)),
        ([-1] * 8, SamplingParameters(8, 2, 6, seed=5, label=1)),
        (
            [4, -1, -1, 6, -1, 2, -1, -1],
            SamplingParameters(8, 2, 4, seed=5, label=2, guidance_scale=0.5, block_size=2),
        ),
        ([4, 5, -1, -1, -1, -1], SamplingParameters(6, 1, 9, seed=9, label=0, guidance_scale=0, top_p=0.8)),
        ([-1] * 5, SamplingParameters(5, 2, 4, seed=3)),
    ],
}
REQUESTS["hybrid"] = [
    *REQUESTS["uniform"],
    ([4, 5, -1, -1, -1, -1, -1, 6], SamplingParameters(8, 2, 7, seed=8, guidance_scale=2.0, frame=(1, 1), top_k=3)),
]


@pytest.mark.parametrize("determinism", ["fast", "exact"])
@pytest.mark.parametrize("process", PROCESSES)
def test_alone_and_among_strangers(process: str, determinism: str) -> None:
    scheduler, requests = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process), REQUESTS[process]
    alone = [in_one_batch(Labelled(), scheduler, [each])[0] for each in requests]
    together = in_one_batch(Labelled(), scheduler, requests, determinism=determinism)
    for (tokens, parameters), (result, updates), (expected, _) in zip(requests, together, alone, strict=True):
        assert (result.tokens, result.step_map, result.nfe) == (expected.tokens, expected.step_map, expected.nfe)
        assert result.logprobs == expected.logprobs and (result.logprobs is not None) == parameters.logprobs
        canvas = torch.tensor(Batch(Labelled(), scheduler).add(0, tokens, parameters))
        for update in updates:
            for sample_, position, token in update.changes:
                canvas[sample_, position] = token
        assert canvas.tolist() == result.tokens and not any(MASK in row for row in result.tokens)
        fixed = [(index, token) for index, token in enumerate(tokens) if token >= 0]
        assert all(row[index] == token for row in result.tokens for index, token in fixed)


@pytest.mark.parametrize("process", PROCESSES)
def test_both_views_are_counted(process: str) -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    tokens, shared = [4, *[-1] * 7], {"num_samples": 2, "num_inference_steps": 6, "label": 1, "seed": 3}
    plain, guided = (SamplingParameters(8, guidance_scale=scale, **shared) for scale in (1, 2))  # type: ignore[arg-type]
    samplers = Samplers(scheduler)
    assert price(samplers.of(guided), tokens, guided) == 2 * price(samplers.of(plain), tokens, plain)
    network = Labelled()
    ((result, updates),) = in_one_batch(network, scheduler, [(tokens, guided)])
    assert [shape[0] for shape in network.shapes] == [4] * len(network.shapes)
    assert result.nfe == 2 * len(network.shapes) and result.forwards_skipped == 6 - result.nfe // 2
    left = [price(samplers.of(guided), tokens, guided), *(update.left for update in updates)]
    assert all(before - after >= 4 * 8 for before, after in pairwise(left)) and left[-1] == 0
    if process == "absorbing":
        alone = in_one_batch(Labelled(), scheduler, [(tokens, plain)])[0][0]
        assert (result.nfe, result.forwards_skipped) == (2 * alone.nfe, alone.forwards_skipped)
        assert [set(row) for row in result.step_map] == [set(row) for row in alone.step_map], "masks leave as ever"


def test_logprobs_are_the_conditional_networks_own() -> None:
    scheduler, network = TokenDiffusionScheduler(VOCAB, MASK), Labelled()
    options: dict[str, Any] = {
        "seq_len": 1,
        "num_samples": 20,
        "label": 2,
        "logprobs": True,
        "temperature": 0.7,
        "num_inference_steps": 1,
    }
    output = sample(network, scheduler, guidance_scale=3.0, **options)
    told = network(torch.full((1, 1), MASK), torch.ones(1), torch.tensor([2]))[0, 0]
    told[MASK] = -torch.inf
    assert output.logprobs is not None
    torch.testing.assert_close(
        output.logprobs[:, 0], told.log_softmax(-1)[output.sequences[:, 0]], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("sampler", ["ancestral", "confidence", "remdm"])
@pytest.mark.parametrize("size", [3, 16])
def test_in_pieces_it_is_what_it_is_at_once(sampler: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, model, options = TokenDiffusionScheduler(50, 4), tiny_model(vocab_size=50), {"sampler": sampler}
    asked = [
        ([7, 8, *[-1] * 8], SamplingParameters(10, 2, 3, seed=1, logprobs=True, guidance_scale=scale, **options))  # type: ignore[arg-type]
        for scale in (1, 2, 0.5)
    ]
    whole = in_one_batch(model, scheduler, asked)
    monkeypatch.setattr(denoisers, "PIECE_BYTES", size * 50 * 4)
    for (result, _), (expected, _) in zip(in_one_batch(model, scheduler, asked), whole, strict=True):
        assert result.tokens == expected.tokens
        for row, other in zip(result.logprobs or [], expected.logprobs or [], strict=True):
            assert row == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("process", ["uniform", "hybrid"])
def test_posteriors_read_logits_in_pieces_too(process: str) -> None:
    class InPieces:
        """Logits [n, V] of a tensor, three positions a piece."""

        device, num_classes = torch.device("cpu"), 3

        def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Any = None) -> Tensor:
            return Labelled()(tokens, t.float(), labels).flatten(0, 1)[positions]

        def in_pieces(self, *asked: Any) -> Any:
            whole = self(*asked)
            return Pieces(lambda number: whole[3 * number : 3 * number + 3], whole[:3], len(whole))

    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    parameters = SamplingParameters(8, 3, 5, seed=2, label=1, guidance_scale=2.0, logprobs=True)
    found, expected = (
        in_one_batch(each, scheduler, [([-1] * 8, parameters)])[0][0] for each in (InPieces(), Labelled())
    )
    assert found == expected


def test_a_read_of_some_positions_mixes_those_alone() -> None:
    logits = torch.randn(2, 5, VOCAB, generator=torch.Generator().manual_seed(0))
    whole, index = both(logits[0], logits[1], 3.0), torch.tensor([0, 2, 3])
    some = Some(whole, index)
    assert torch.equal(some[1:3], whole[:][[2, 3]]) and torch.equal(own(some)[:], logits[0, index])


@pytest.mark.parametrize("process", ["uniform", "hybrid"])
def test_other_samplers_of_uniform_and_hybrid_are_refused(process: str) -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    for sampler in ("psi", "gibbs", "self_correction"):
        with pytest.raises(ParameterError) as caught:
            sample_block(Labelled(), scheduler, label=1, guidance_scale=1.5, sampler=sampler)
        rule = f"be 0 or 1 for the sampler {sampler} of the {process} process: ancestral alone is guided there"
        assert str(caught.value) == f"guidance_scale must {rule}, got 1.5"


@pytest.mark.parametrize("sampler", [name for name, kind in KINDS.items() if "absorbing" in kind.decoders])
def test_any_sampler_of_absorbing_models_is_guided(sampler: str) -> None:
    scheduler, results = TokenDiffusionScheduler(VOCAB, MASK), dict[float, Result]()
    for scale in (0, 1, 3.0):
        parameters = SamplingParameters(8, 3, 6, label=1, sampler=sampler, guidance_scale=scale, logprobs=True)
        results[scale] = in_one_batch(Labelled(), scheduler, [([-1] * 8, parameters)])[0][0]
    assert len({str(result.tokens) for result in results.values()}) == 3
    assert results[3.0].nfe % 2 == 0 and results[3.0].nfe >= results[1].nfe


@pytest.mark.parametrize(
    ("process", "fields", "rule"),
    [
        ("absorbing", {}, "be 1 where there is neither a label nor a prompt to guide by"),
        ("hybrid", {}, "be 1 where there is neither a label nor a prompt to guide by"),
        ("absorbing", {"tokens": [5, -1, -1, 6], "frame": (1, 1)}, "be 1 where there is neither a label nor a prompt"),
        ("uniform", {"tokens": [5, -1, -1, 6]}, "be 1 without a label for the uniform process, which has no mask to"),
    ],
)
@pytest.mark.parametrize("scale", [0, 2.0])
def test_what_cannot_be_guided_is_refused(process: str, fields: dict[str, Any], rule: str, scale: float) -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    with pytest.raises(ParameterError) as caught:
        sample_block(NeighbourDenoiser(VOCAB), scheduler, seq_len=4, guidance_scale=scale, **fields)
    assert str(caught.value).startswith(f"guidance_scale must {rule}") and caught.value.value == scale
