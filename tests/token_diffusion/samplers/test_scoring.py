"""Scores against enumerable laws: with the exact denoiser a text's bound is -ln p(text), whatever the text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.laws import Law, make_law
from tests.tiny import PROCESSES, NeighbourDenoiser, tiny_model
from token_diffusion import ParameterError, TokenDiffusionScheduler, score
from token_diffusion.engine.batch import Batch, Scores, Update
from token_diffusion.engine.scores import Score, ranking, standard_error, summarise
from token_diffusion.networks.denoiser import MaskedLMDenoiser
from token_diffusion.samplers import Samplers, price
from token_diffusion.samplers.parameters import SamplingParameters, ScoringParameters
from token_diffusion.samplers.scoring import Scoring
from token_diffusion.text import OPEN

VOCAB, MASK = 7, 3
TEXTS = {"a": [1, 5, 0, 2, 6, 4, 1, 1, 0], "b": [2, 2, 0, 1], "c": [5] * 14}
KINDS = [*((process, "times") for process in PROCESSES), ("absorbing", "counts")]


def asked(text: list[int], given: tuple[int, ...] = (), **fields: Any) -> ScoringParameters:
    return ScoringParameters(len(text), given=given, **fields)


def finish(batch: Batch, everyone: bool = False) -> dict[object, Update]:
    """The last update of each request."""
    last: dict[object, Update] = {}
    while not batch.idle:
        last |= {update.key: update for update in (batch.sweep() if everyone else batch.step())}
    return last


def values_of(update: Update) -> np.ndarray:
    assert isinstance(update.result, Scores)
    return update.result.values


def exact(process: str, mask: int = 3, length: int = 3, **options: Any) -> tuple[Law, TokenDiffusionScheduler]:
    return make_law(4, length, mask), TokenDiffusionScheduler(4, mask, forward_process=process, **options)


def test_what_noise_costs_at_the_end_is_not_rounded() -> None:
    """It is added to every token's bound; in float32 it would move the eleventh digit of a score."""
    sampler = Scoring(TokenDiffusionScheduler(VOCAB, MASK, forward_process="uniform").process)
    values = sampler.rows([1, 2], asked([1, 2], given=(0,), num_times=1)).values
    assert values.tolist() == [[0.0, sampler.process.prior_divergence]]


@pytest.mark.parametrize("mask", [0, 2, 3])
@pytest.mark.parametrize(("process", "estimator"), KINDS)
def test_the_exact_denoiser_gives_each_text_its_probability(process: str, estimator: Any, mask: int) -> None:
    """An unlikely one, a likely one, and one between; in the middle of the vocabulary as at its ends."""
    law, scheduler = exact(process, mask)
    order = law.probability.argsort()
    for place in order[[0, len(order) // 2, -1]].tolist():
        text, nats = law.sequences[place].tolist(), -law.probability[place].log().item()
        (found,) = score(law.denoiser(scheduler), scheduler, [text], num_times=4000, estimator=estimator, seed=mask)
        assert found.nats_error is not None and found.nats_error < 0.25
        assert abs(found.nats - nats) < 4 * found.nats_error
        assert found.token_nats.sum() == pytest.approx(found.nats)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "geometric"])
def test_counts_know_nothing_of_the_schedule(schedule: str) -> None:
    """Where the network is not told the time: which tokens are masked, and what each weighs, is the same."""
    law, scheduler = exact("absorbing", alpha_schedule=schedule)
    text = law.sequences[4].tolist()
    found = score(law.denoiser(scheduler), scheduler, [text], num_times=8, estimator="counts")[0]
    plain = score(law.denoiser(scheduler), exact("absorbing")[1], [text], num_times=8, estimator="counts")[0]
    assert found.nats == pytest.approx(plain.nats, rel=1e-9)


@pytest.mark.parametrize("given", [(0,), (1,), (0, 2)])
@pytest.mark.parametrize("estimator", ["times", "counts"])
def test_what_is_given_is_a_condition(estimator: Any, given: tuple[int, ...]) -> None:
    law, scheduler = exact("absorbing", mask=1)
    place = 5
    text = law.sequences[place].tolist()
    fixed = [token if position in given else -1 for position, token in enumerate(text)]
    nats = -law.given(fixed)[place].log().item()
    denoiser = law.denoiser(scheduler)
    (found,) = score(denoiser, scheduler, [text], given=[given], num_times=3000, estimator=estimator)
    assert found.nats_error is not None and abs(found.nats - nats) < 4 * max(found.nats_error, 1e-9)
    assert np.isnan(found.token_nats).nonzero()[0].tolist() == list(given)
    assert found.num_tokens == 3 - len(given)


@pytest.mark.parametrize("num_times", [2, 5, 16])
@pytest.mark.parametrize(("process", "estimator"), KINDS)
def test_the_error_is_that_of_other_seeds(process: str, estimator: Any, num_times: int) -> None:
    """Rather too large than too small; of a token, too."""
    law, scheduler = exact(process)
    text = law.sequences[11].tolist()
    batch = Batch(law.denoiser(scheduler), scheduler)
    for seed in range(400):
        batch.add(seed, text, asked(text, num_times=num_times, estimator=estimator, seed=seed))
    scores = [values_of(update) for update in finish(batch, everyone=True).values()]
    for figures in (np.array([each.sum(1) for each in scores]), np.array([each[:, 1] for each in scores])):
        errors = np.array([standard_error(each) for each in figures])
        ratio = math.sqrt(np.square(errors).mean()) / figures.mean(1).std(ddof=1)
        assert 0.85 < ratio < 1.5


def test_an_error_is_that_of_pairs_and_of_the_last_three() -> None:
    assert standard_error(np.array([[1.0], [4.0]])) == pytest.approx(3 / 2)
    assert standard_error(np.array([1.0, 4.0, 2.0, 2.0])) == pytest.approx(3 / 4)
    assert standard_error(np.array([0.0, 1.0, 1.0, 4.0, 1.0])) == pytest.approx(math.sqrt(1 + 1.5 * 6) / 5)
    assert standard_error(np.array([3.0])) is None


@pytest.mark.parametrize(("process", "estimator"), KINDS)
@pytest.mark.parametrize("max_tokens", [None, 30])
def test_strangers_of_other_kinds_change_nothing(process: str, estimator: Any, max_tokens: int | None) -> None:
    """Neither a text's values nor the samples beside it, in whatever passes they meet."""
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    scoring = {key: asked(text, given=(1,), num_times=5, estimator=estimator, seed=7) for key, text in TEXTS.items()}
    sampling = {f"sample{length}": SamplingParameters(length, 2, 9, 0.8, seed=length) for length in (3, 12, 20)}
    alone: dict[object, Update] = {}
    for key, its in (scoring | sampling).items():
        batch = Batch(NeighbourDenoiser(VOCAB), scheduler)
        batch.add(key, TEXTS.get(key, [OPEN] * its.seq_len), its)
        alone |= finish(batch)
    denoiser = NeighbourDenoiser(VOCAB)
    batch = Batch(denoiser, scheduler, max_tokens=max_tokens)
    for key, its in (sampling | scoring).items():
        batch.add(key, TEXTS.get(key, [OPEN] * its.seq_len), its, client=len(key))
    together = finish(batch, everyone=max_tokens is None)
    if max_tokens is None:
        assert denoiser.shapes[0] == (21, 20), "all in one pass"
    for who, update in alone.items():
        assert together[who].result == update.result
        if isinstance(update.result, Scores):
            np.testing.assert_allclose(values_of(together[who]), update.result.values, rtol=1e-12)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_real_model_alone_and_among_others(process: str) -> None:
    """Each row in a pass of its own: what is left is the rounding of the bound's own sums."""
    scheduler, model = TokenDiffusionScheduler(50, 4, forward_process=process), tiny_model(vocab_size=50)
    found = []
    for beside in ([], [13, 30]):
        batch = Batch(model, scheduler, determinism="exact")
        for length in beside:
            batch.add(length, [OPEN] * length, SamplingParameters(length, 2, 4))
        batch.add("text", TEXTS["c"], asked(TEXTS["c"], num_times=4))
        found.append(values_of(finish(batch, everyone=True)["text"]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert found[0].any()


def test_a_seed_is_a_score_and_more_times_are_other_times() -> None:
    scheduler, denoiser = TokenDiffusionScheduler(VOCAB, MASK), NeighbourDenoiser(VOCAB)
    texts = list(TEXTS.values())
    first, again = (score(denoiser, scheduler, texts, seed=3, num_times=4) for _ in range(2))
    assert [each.nats for each in first] == [each.nats for each in again]
    assert score(denoiser, scheduler, texts[1:2], seed=3, num_times=4)[0].nats == first[1].nats
    assert score(denoiser, scheduler, texts, seed=4, num_times=4)[0].nats != first[0].nats
    assert ranking(first) == sorted(range(3), key=lambda index: first[index].nats)


def test_logits_are_asked_where_the_bound_reads_them_and_in_passes_that_are_bounded() -> None:
    asked_at: list[int] = []

    def denoiser(tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        assert tokens.numel() <= 40 and bool((tokens.view(-1)[positions] == MASK).all())
        asked_at.append(len(positions))
        return torch.zeros(len(positions), VOCAB)

    scheduler = TokenDiffusionScheduler(VOCAB, MASK)
    (found,) = score(denoiser, scheduler, [[1] * 8], num_times=16, max_batch_tokens=40)
    assert len(asked_at) == 4 and sum(asked_at) == 2 * sum(range(1, 9)), "each count twice in 16 strata"
    assert found.nats == pytest.approx(8 * math.log(VOCAB - 1)) and found.nats_error == pytest.approx(0, abs=1e-9)


def test_versions_that_nothing_has_hit_are_not_asked() -> None:
    """A third of them is hit: t = u^2."""
    calls = []

    def denoiser(tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        calls.append(len(tokens))
        return torch.zeros(len(positions), VOCAB)

    scheduler = TokenDiffusionScheduler(VOCAB, MASK)
    batch = Batch(denoiser, scheduler, max_tokens=1)
    batch.add("text", [1], asked([1], num_times=150, estimator="times"))
    result = finish(batch)["text"].result
    assert result is not None and 38 < result.nfe == len(calls) < 62 and result.forwards_skipped == 150 - result.nfe


def test_what_no_sample_may_hold_is_no_part_of_the_bound() -> None:
    """A model's own softmax is over all of its tokens."""
    model, scheduler = tiny_model(vocab_size=50), TokenDiffusionScheduler(50, 4)
    plain, forbidding = (MaskedLMDenoiser(model, forbidden) for forbidden in ((), range(5, 30)))
    (expected,), (found,) = (score(each, scheduler, [[7, 8, 40]]) for each in (plain, forbidding))
    assert found.nats == expected.nats
    sampled = Batch(forbidding, scheduler)
    sampled.add(0, [OPEN] * 20, SamplingParameters(20, 4, 5))
    result = finish(sampled)[0].result
    assert result is not None and not {token for row in result.tokens for token in row} & set(range(5, 30))


class OneBadText:
    """NaN, or +inf for one token, for a row that begins with the token 5; the token 2 has no probability."""

    device = torch.device("cpu")

    def __init__(self, wrong: float) -> None:
        self.wrong = wrong

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        logits = torch.zeros(len(positions), VOCAB)
        logits[:, 2] = -torch.inf
        bad = (tokens[:, 0] == 5)[positions // tokens.shape[1]]
        return torch.where(bad.unsqueeze(1) & (torch.arange(VOCAB) == 0), self.wrong, logits)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("process", ["absorbing", "hybrid"])
def test_a_network_without_an_answer_fails_the_text_alone(process: str, wrong: float) -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    batch = Batch(OneBadText(wrong), scheduler, max_tokens=24)
    for key, text in {"sound": [1, 4, 6], "bad": [5, 4, 6], "impossible": [1, 2, 6]}.items():
        batch.add(key, text, asked(text, given=(0,), num_times=8))
    batch.add("sample", [1, OPEN, OPEN], SamplingParameters(3, 1, 4))
    last = finish(batch)
    assert last["bad"].result is None and "NaN" in str(last["bad"].error)
    assert last["sample"].result is not None and np.isfinite(values_of(last["sound"])).all()
    impossible = last["impossible"].result
    assert isinstance(impossible, Scores)
    if process == "absorbing":
        found = summarise(impossible, [0])
        assert found.nats == math.inf and found.figures(0, 3)["nats"] is None
        json_of = found.figures(1, 3)["token_nats"]
        assert json_of[0] is None and json_of[1] is not None


@pytest.mark.parametrize("process", PROCESSES)
def test_progress_and_price_go_down_to_nothing(process: str) -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    text, parameters = TEXTS["a"], asked(TEXTS["a"], num_times=7)
    batch = Batch(NeighbourDenoiser(VOCAB), scheduler, max_tokens=20)
    assert batch.add("text", text, parameters) == [text]
    sampler = Samplers(scheduler).of(parameters)
    bound, updates = price(sampler, text, parameters), []
    assert bound == 7 * 9 and len(batch) == 7
    while not batch.idle:
        updates += batch.step()
    assert [update.left for update in updates] == [45, 27, 9, 0]
    assert [update.step for update in updates] == [2, 4, 6, 7] and updates[-1].t == 0
    assert all(not update.changes and not update.blocks for update in updates)


def test_a_text_that_is_taken_out_leaves_the_others() -> None:
    batch = Batch(NeighbourDenoiser(VOCAB), TokenDiffusionScheduler(VOCAB, MASK), max_tokens=14)
    for key, text in TEXTS.items():
        batch.add(key, text, asked(text, num_times=5))
    batch.step()
    batch.remove("c")
    assert set(finish(batch)) == {"a", "b"} and batch.idle and batch.lanes == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_times": 0}, r"num_times must be in \[1, 1048576\), got 0"),
        ({"estimator": "mean"}, "estimator must be times or counts, got 'mean'"),
        ({"seed": -1}, "seed must be in"),
        ({"given": (2,)}, r"given must be in \[0, 2\), got 2"),
        ({"given": (0, 1)}, "given must leave a token to be scored, got 2"),
    ],
)
def test_parameters_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        ScoringParameters(2, **fields)


def test_texts_that_are_none_are_refused() -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process="uniform")
    denoiser = NeighbourDenoiser(VOCAB)
    with pytest.raises(ParameterError, match="estimator must be times for the uniform process, got 'counts'"):
        score(denoiser, scheduler, [[1]], estimator="counts")
    with pytest.raises(ParameterError, match="tokens must be a text without holes, got -1"):
        score(denoiser, scheduler, [[1, OPEN]])
    with pytest.raises(ParameterError, match="not the mask token, got 3"):
        score(denoiser, scheduler, [[1, MASK]])
    with pytest.raises(ParameterError, match="tokens must be below vocab_size = 7, got 7"):
        score(denoiser, scheduler, [[1, 7]])
    with pytest.raises(ParameterError, match="seq_len must be in"):
        score(denoiser, scheduler, [[]])
    assert score(denoiser, scheduler, []) == []


def test_units_and_figures() -> None:
    found = Score(2 * math.log(2), math.log(2), np.array([math.nan, 1.0]), np.array([math.nan, 0.5]), 2, 16)
    assert (found.bits, found.bits_error) == (2.0, 1.0)
    figures = found.figures(0, 2)
    assert figures["token_nats"] == [None, 1.0] and figures["bits_per_token"] == 1.0
    assert isinstance(Samplers(TokenDiffusionScheduler(VOCAB, MASK)).of(ScoringParameters(2)), Scoring)
