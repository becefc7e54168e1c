"""Labels: a row has one or none, rows of any share their forward passes, and what is drawn follows the law of its label."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.batches import together
from tests.laws import Laws, chi_square_p, counts
from tests.tiny import PROCESSES, Labelled, NeighbourDenoiser, save_labelled
from token_diffusion import ParameterError, TokenDiffusionScheduler, sample, sample_block, sample_hybrid
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.engine.batch import Batch
from token_diffusion.samplers.parameters import SamplingParameters, ScoringParameters
from token_diffusion.sampling import run, score

P = 0.001
VOCAB, MASK = 7, 3
LABELS = (None, 0, 2, None, 1, 2)


def asked(label: int | None, length: int = 8, **fields: Any) -> SamplingParameters:
    return SamplingParameters(length, 2, 6, seed=5, label=label, **fields)


@pytest.mark.parametrize("label", [None, 0, 1])
@pytest.mark.parametrize("process", PROCESSES)
def test_samples_follow_the_law_of_their_label(process: str, label: int | None) -> None:
    scheduler = TokenDiffusionScheduler(4, 3, forward_process=process)
    laws = Laws(scheduler)
    ask, steps = sample_hybrid if process == "hybrid" else sample, 50
    output = ask(laws, scheduler, num_samples=1000, seq_len=3, num_inference_steps=steps, seed=1, label=label)
    of = {
        other: chi_square_p(counts(laws.of(other), output.sequences), laws.of(other).probability)
        for other in (0, 1, None)
    }
    assert of.pop(label) > P and max(of.values()) < 1e-9


@pytest.mark.parametrize("process", PROCESSES)
def test_a_score_is_conditional_on_the_label(process: str) -> None:
    scheduler = TokenDiffusionScheduler(4, 3, forward_process=process)
    laws = Laws(scheduler)
    text = laws.laws[0].sequences[5].tolist()
    scores = score(laws, scheduler, [text] * 3, labels=[None, 0, 1], num_times=2000)
    for found, label in zip(scores, (None, 0, 1), strict=True):
        assert found.nats_error is not None and found.nats_error < 0.3
        assert abs(found.nats + laws.of(label).probability[5].log().item()) < 4 * found.nats_error
    assert score(laws, scheduler, [text], num_times=2000)[0].nats == scores[0].nats


@pytest.mark.parametrize("process", PROCESSES)
def test_rows_of_all_labels_share_a_pass_and_change_nothing(process: str) -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    alone = [run(Labelled(), scheduler, asked(label)).sequences.tolist() for label in LABELS]
    denoiser = Labelled()
    assert together(denoiser, scheduler, [asked(label) for label in LABELS]) == alone
    assert alone[0] == alone[3] and alone[2] == alone[5]
    assert len({str(tokens) for tokens in alone}) == 4, "the label decides the tokens, too"
    told = [set(labels) for labels in denoiser.told if labels is not None]
    assert {-1, 0, 1, 2} in told, "rows with and without a label in one pass"


def test_blocks_and_scores_are_told_labels_beside_samples() -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK)
    text = [1, 2, 4, 5, 6, 0, 1, 2]
    alone = sample_block(Labelled(), scheduler, seq_len=8, block_size=2, num_inference_steps=2, seed=5, label=1)
    (bound,) = score(Labelled(), scheduler, [text], labels=[2])
    batch, results = Batch(Labelled(), scheduler), dict[Any, Any]()
    batch.add("score", text, ScoringParameters(8, label=2))
    batch.add("block", [-1] * 8, SamplingParameters(8, 1, 2, seed=5, block_size=2, label=1))
    batch.add("plain", [-1] * 8, asked(None))
    while not batch.idle:
        results |= {update.key: update.result for update in batch.step() if update.result is not None}
    assert results["block"].tokens == alone.sequences.tolist()
    assert results["score"].values.mean(0).sum() == pytest.approx(bound.nats)
    assert bound.nats != score(Labelled(), scheduler, [text], labels=[0])[0].nats


def test_without_labels_nobody_is_told_any() -> None:
    scheduler, denoiser = TokenDiffusionScheduler(VOCAB, MASK), Labelled()
    together(denoiser, scheduler, [asked(None), asked(None)])
    assert set(map(str, denoiser.told)) == {"None"}
    plain = NeighbourDenoiser(VOCAB)  # takes none
    together(plain, scheduler, [asked(None)])
    with pytest.raises(ParameterError, match="label must be absent, as the model knows no labels"):
        together(plain, scheduler, [asked(0)])


def test_a_callable_that_does_not_say_how_many_it_knows_takes_any() -> None:
    def network(tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        wanted = torch.zeros(len(tokens), dtype=torch.int64) if labels is None else labels.clamp(min=0) % VOCAB
        return torch.nn.functional.one_hot(wanted, VOCAB).double().unsqueeze(1).repeat(1, tokens.shape[1], 1) * 1e4

    output = sample(network, TokenDiffusionScheduler(VOCAB, MASK), seq_len=4, label=1000)
    assert output.sequences.tolist() == [[1000 % VOCAB] * 4]


@pytest.mark.parametrize("label", [3, 2**31 - 1])
def test_a_label_that_the_network_does_not_know_is_refused(label: int) -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK)
    with pytest.raises(ParameterError, match=rf"^label must be below 3, the model's num_classes, got {label}$"):
        sample(Labelled(), scheduler, label=label)
    with pytest.raises(ParameterError, match="label must be below 3"):
        score(Labelled(), scheduler, [[1, 2]], labels=[label])


@pytest.mark.parametrize("label", [-1, 2**31, True, 1.0, "1"])
def test_what_is_no_label_is_refused(label: Any) -> None:
    for parameters in (SamplingParameters, ScoringParameters):
        with pytest.raises(ParameterError, match="label must be "):
            parameters(4, label=label)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = save_labelled(tmp_path_factory.mktemp("labelled") / "m")
    return {dtype: load_checkpoint(folder, dtype=dtype) for dtype in ("float32", "int8")}


@pytest.mark.parametrize(("dtype", "determinism"), [("float32", "fast"), ("float32", "exact"), ("int8", "fast")])
def test_networks_are_told_theirs_whichever_way_they_are_asked(
    checkpoints: dict[str, Checkpoint], dtype: str, determinism: Any
) -> None:
    checkpoint = checkpoints[dtype]
    requests = [asked(label, length) for label in LABELS for length in (8, 12)]
    options = {"determinism": determinism}
    alone = [together(checkpoint.denoiser, checkpoint.scheduler, [each], **options)[0] for each in requests]
    assert together(checkpoint.denoiser, checkpoint.scheduler, requests, **options) == alone
    assert len({str(tokens) for tokens in alone}) == 8
    with pytest.raises(ParameterError, match="label must be below 3"):
        together(checkpoint.denoiser, checkpoint.scheduler, [asked(3)], **options)


def test_a_row_without_a_label_among_others_is_the_row_that_is_told_none(checkpoints: dict[str, Checkpoint]) -> None:
    tokens, t, valid = torch.tensor([[5, 6, 7, 8]]), torch.tensor([0.5], dtype=torch.float64), torch.ones(1, 4).bool()
    denoiser = checkpoints["float32"].denoiser
    ask = (tokens, t, valid, torch.arange(4))
    logits = [
        denoiser(*ask, *told) for told in ((), (torch.tensor([-1]),), (torch.tensor([0]),), (torch.tensor([2]),))
    ]
    assert torch.equal(logits[0], logits[1])
    assert all((one - other).abs().max() > 0.1 for one, other in pairwise(logits[1:]))


def test_a_folder_says_how_many_labels_it_knows(checkpoints: dict[str, Checkpoint]) -> None:
    assert {name: checkpoint.num_classes for name, checkpoint in checkpoints.items()} == {"float32": 3, "int8": 3}
