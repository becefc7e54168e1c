"""End tokens: rows that end with their text, and rows that have none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.laws import chi_square_p
from tests.tiny import PROCESSES, Labelled, byte_tokenizer
from token_diffusion import ParameterError, TokenDiffusionScheduler, sample
from token_diffusion.engine.batch import Batch, Result, Update
from token_diffusion.facts import Facts, Frame
from token_diffusion.samplers.catalogue import KINDS
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.text import ending

VOCAB, MASK, END = 7, 3, 6


class Ending(Labelled):
    """Knows an end token, which is likely."""

    ends = (END,)

    def __call__(self, tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        logits = super().__call__(tokens, t, labels) / 5
        logits[:, :, END] += 1.5
        return logits


def told(requests: list[Any], process: str = "absorbing") -> list[tuple[Result, list[Update]]]:
    """The results of requests (tokens, parameters) that share a batch, with the updates of each, which replay to its end."""
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    batch, updates, canvases = Batch(Ending(), scheduler), dict[Any, list[Update]](), dict[Any, Tensor]()
    for key, (tokens, parameters) in enumerate(requests):
        canvases[key] = torch.tensor(batch.add(key, tokens, parameters))
    while not batch.idle:
        for update in batch.step():
            updates.setdefault(update.key, []).append(update)
            assert len({change[:2] for change in update.changes}) == len(update.changes)
            for sample_, position, token in update.changes:
                canvases[update.key][sample_, position] = token
    found = []
    for key, canvas in canvases.items():
        result = updates[key][-1].result
        assert result is not None and result.tokens == canvas.tolist() and updates[key][-1].left == 0
        assert not any(MASK in row for row in result.tokens)
        found.append((result, updates[key]))
    return found


def one(tokens: list[int], **fields: Any) -> tuple[Result, list[Update]]:
    return told([(tokens, SamplingParameters(len(tokens), **fields))])[0]


CASES: dict[str, tuple[list[int], dict[str, Any]]] = {
    "grid": ([-1] * 16, {"num_inference_steps": 16}),
    "first-hitting": ([-1] * 16, {"num_inference_steps": None}),
    "blocks": ([4, *[-1] * 15], {"num_inference_steps": 4, "block_size": 4}),
    "prompt": ([END, 4, END, *[-1] * 13], {"num_inference_steps": 8}),
    "frame": ([1, *[-1] * 14, END], {"num_inference_steps": 8, "frame": (1, 1)}),
    "infill": ([1, *[-1] * 5, 2, *[-1] * 9], {"num_inference_steps": 8}),
    "guided": ([1, 2, *[-1] * 14], {"num_inference_steps": None, "guidance_scale": 1.5}),
    "label": ([-1] * 16, {"num_inference_steps": 8, "guidance_scale": 0, "label": 1}),
}


def end_of(tokens: list[int], canvas: list[int], frame: tuple[int, int]) -> int | None:
    """Where its text ends, as `text.ending` has it for a tokenizer whose end token begins texts, too."""
    inside = range(len(tokens) - frame[1])
    after = max([index + 1 for index in inside if canvas[index] >= 0], default=0)
    return next((index for index in inside if index >= max(after, 1) and tokens[index] == END), None)


@pytest.mark.parametrize("name", CASES)
def test_a_row_ends_with_its_text(name: str) -> None:
    canvas, fields = CASES[name]
    fields = {"num_samples": 12, "seed": 4, "logprobs": True} | fields
    (whole, _), (result, updates) = one(canvas, **fields), one(canvas, early_end=True, **fields)
    frame, ended, filled = fields.get("frame", (0, 0)), 0, 0
    assert result.logprobs is not None and whole.logprobs is not None
    for number, (row, other) in enumerate(zip(result.tokens, whole.tokens, strict=True)):
        end = end_of(other, canvas, frame)
        assert end_of(row, canvas, frame) == end
        last = len(row) if end is None else end + 1
        assert row[:last] == other[:last]
        steps, whole_steps = result.step_map[number], whole.step_map[number]
        decided = max(whole_steps[:last])
        for index in range(last, len(row)):
            is_filled = canvas[index] < 0 and whole_steps[index] > decided
            filled += is_filled
            assert row[index] == (END if is_filled else other[index])
            assert steps[index] == (decided if is_filled else whole_steps[index])
            assert (result.logprobs[number][index] is None) == (is_filled or canvas[index] >= 0)
        assert (steps[:last], result.logprobs[number][:last]) == (whole_steps[:last], whole.logprobs[number][:last])
        ended += end is not None
    assert ended > 6 and filled > 1
    blocks = [block.block for update in updates for block in update.blocks]
    assert updates[-1].t == 0 and blocks == list(range(4 if name == "blocks" else 1))


@pytest.mark.parametrize("name", ["grid", "first-hitting", "blocks", "guided"])
def test_a_row_alone_that_ends_early_takes_fewer_evaluations(name: str) -> None:
    canvas, fields = CASES[name]
    saved = []
    for seed in range(6):
        (whole, _), (result, updates) = (one(canvas, seed=seed, early_end=early, **fields) for early in (False, True))
        views, steps = 2 if name == "guided" else 1, fields["num_inference_steps"]
        saved.append((whole.nfe - result.nfe) // views)
        assert result.nfe == sum(1 for _ in updates) * views and saved[-1] >= 0
        assert result.forwards_skipped - whole.forwards_skipped == (saved[-1] if steps else 0)
        assert updates[-1].step == len(range(steps or 16)) * (4 if name == "blocks" else 1) - (
            canvas.count(1) + canvas.count(2) if steps is None else 0
        )
    assert max(saved) > (8 if name == "blocks" else 0), (
        "in random order a text is not decided much before the last step"
    )


def test_the_text_of_a_sample_is_the_one_that_it_would_have_had() -> None:
    tokenizer = byte_tokenizer()
    facts = Facts(Frame((2,), (3,)), frozenset({3}), known=True)

    class Network:
        ends = (3,)

        def __call__(self, tokens: Tensor, t: Tensor) -> Tensor:
            logits = torch.zeros(*tokens.shape, len(tokenizer))
            logits[:, :, :5] = -torch.inf
            logits[:, :, 3] = 2.5
            return logits

    scheduler = TokenDiffusionScheduler(len(tokenizer), 4)
    canvas = [2, 100, 101, *[-1] * 28, 3]
    options: dict[str, Any] = {"seq_len": 32, "num_samples": 16, "tokens": canvas, "num_inference_steps": 16}
    whole, early = (sample(Network(), scheduler, frame=(1, 1), early_end=each, **options) for each in (False, True))
    endings = [
        [ending(tokenizer, row, canvas, facts=facts) for row in output.sequences.tolist()] for output in (whole, early)
    ]
    assert endings[0] == endings[1] and {each.reason for each in endings[0]} == {"stop", "length"}
    assert not torch.equal(whole.sequences, early.sequences)


def test_the_first_token_of_a_sequence_ends_nothing() -> None:
    for seed in range(40):
        result, _ = one([-1] * 4, seed=seed, early_end=True, num_inference_steps=None)
        if result.tokens[0][0] == END and result.step_map[0][0] == 1:
            break
    else:
        raise AssertionError("no such sample")
    assert result.step_map[0] != [1] * 4


def test_an_end_token_that_comes_with_the_last_masks_changes_nothing() -> None:
    (whole, _), (result, _) = (
        one([2, -1, -1], seed=3, early_end=early, num_inference_steps=1) for early in (0 > 1, 1 > 0)
    )
    assert whole == result


def test_rows_that_end_early_and_others_change_nothing_for_each_other() -> None:
    requests: list[Any] = []
    for number, (tokens, fields) in enumerate(CASES.values()):
        for early in (True, False):
            requests.append((tokens, SamplingParameters(len(tokens), 2, seed=number, early_end=early, **fields)))
        if "guidance_scale" not in fields:
            requests.append((tokens, SamplingParameters(len(tokens), 2, seed=number, suppress_end=True, **fields)))
    alone = [told([each])[0][0] for each in requests]
    assert [result for result, _ in told(requests)] == alone


@pytest.mark.parametrize(("process", "sampler"), [(each, name) for name in KINDS for each in KINDS[name].decoders])
def test_no_end_token_is_drawn_where_it_is_suppressed(process: str, sampler: str) -> None:
    fields: dict[str, Any] = {"num_samples": 20, "num_inference_steps": 6, "sampler": sampler, "label": 1}
    for scale in (1, 2.0) if sampler == "ancestral" or process == "absorbing" else (1,):
        requests = [
            ([4, END, *[-1] * 8], SamplingParameters(10, guidance_scale=scale, suppress_end=suppressed, **fields))
            for suppressed in (True, False)
        ]
        (without, _), (freely, _) = told(requests, process)
        assert {row.count(END) for row in without.tokens} == {1}
        assert sum(row.count(END) for row in freely.tokens) > 30


def test_the_others_keep_their_shares() -> None:
    network, scheduler = Ending(), TokenDiffusionScheduler(VOCAB, MASK)
    options: dict[str, Any] = {"seq_len": 1, "num_samples": 2000, "num_inference_steps": 1, "suppress_end": True}
    drawn = sample(network, scheduler, logprobs=True, **options)
    logits = network(torch.tensor([[MASK]]), torch.ones(1))[0, 0]
    own = logits.index_fill(0, torch.tensor([MASK]), -torch.inf).log_softmax(0)
    allowed = logits.index_fill(0, torch.tensor([MASK, END]), -torch.inf).softmax(0)
    assert chi_square_p(torch.bincount(drawn.sequences[:, 0], minlength=VOCAB).double(), allowed) > 0.001
    assert drawn.logprobs is not None
    torch.testing.assert_close(drawn.logprobs[:, 0], own[drawn.sequences[:, 0]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("process", PROCESSES)
def test_without_learnt_ends_both_are_refused(process: str) -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    for name in ("suppress_end", "early_end") if process == "absorbing" else ("suppress_end",):
        with pytest.raises(ParameterError) as caught:
            Batch(Labelled(), scheduler).add(0, [-1] * 4, SamplingParameters(4, **{name: True}))  # type: ignore[arg-type]
        assert (
            str(caught.value) == f"{name} must be false, as the model has learnt no token that ends a text, got True"
        )


@pytest.mark.parametrize("process", ["uniform", "hybrid"])
def test_rows_whose_tokens_are_not_final_cannot_end_early(process: str) -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    with pytest.raises(ParameterError) as caught:
        Batch(Ending(), scheduler).add(0, [-1] * 4, SamplingParameters(4, early_end=True))
    rule = "be false for the sampler ancestral of the {process} process, which may rewrite tokens that it has set"
    assert str(caught.value) == f"early_end must {rule.format(process=process)}, got True"


def test_to_suppress_end_tokens_and_to_end_with_them_is_refused() -> None:
    with pytest.raises(ParameterError, match="early_end must be false where suppress_end is true"):
        SamplingParameters(early_end=True, suppress_end=True)
