"""Variety against counts by hand; generative perplexity against a loop over single tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.tiny import byte_tokenizer, tiny_tokenizer, wordpiece_tokenizer
from token_diffusion.errors import ParameterError
from trainer.evaluation.bound import Estimate
from trainer.evaluation.quality import (
    Judge,
    Text,
    distinct,
    generative_perplexity,
    load_judge,
    retokenize,
    variety,
    windows,
)

MakeJudge = Callable[..., Judge]


@pytest.fixture(scope="module")
def make_judge(tmp_path_factory: pytest.TempPathFactory) -> MakeJudge:
    """A random GPT-2 in a folder; `flat` gives every token the same probability."""

    def make(tokenizer: PreTrainedTokenizerBase, context: int = 32, flat: bool = False) -> Judge:
        folder = tmp_path_factory.mktemp("judge")
        config = GPT2Config(
            vocab_size=len(tokenizer), n_positions=context, n_embd=16, n_layer=1, n_head=2,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = GPT2LMHeadModel(config)
        for parameter in model.parameters():
            parameter.data.mul_(0 if flat else 8)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return load_judge(str(folder))

    return make


def with_ends(**names: Any) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(names)
    return tokenizer


def test_variety_by_hand() -> None:
    rows = [[1, 1, 2, 1], [1, 1, 2, 2]]
    figures = variety(rows)
    assert figures["unigram_entropy"] == pytest.approx(-(5 / 8 * math.log(5 / 8) + 3 / 8 * math.log(3 / 8)))
    single = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    assert figures["sample_entropy"] == pytest.approx((single + math.log(2)) / 2)
    assert (figures["distinct_1"], figures["distinct_2"], figures["distinct_3"]) == (2 / 8, 4 / 6, 3 / 4)
    assert (figures["num_samples"], figures["num_tokens"]) == (2, 8)


def test_n_grams_do_not_cross_samples() -> None:
    assert distinct([[1, 2], [3, 4]], 2) == 1.0 and distinct([[1, 2], [1, 2]], 2) == 0.5
    assert distinct([[1], [2]], 2) is None


def test_windows_are_spread_over_the_whole() -> None:
    assert windows(range(10), 4, 3) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert windows(range(4), 4, 2) == [[0, 1, 2, 3]] * 2 and windows(range(9), 4, 1) == [[0, 1, 2, 3]]


def naive(judge: Judge, text: Text) -> tuple[float, int]:
    """Σ -log p of the scored tokens, each from a forward pass over the window that scores it, and their number."""
    total, count, stride, window = 0.0, 0, judge.context // 2, 0
    for position in range(1, len(text.ids)):
        while position >= window + judge.context:
            window += stride
        if not text.scored[position]:
            continue
        logits = judge.model(input_ids=torch.tensor([text.ids[window:position]])).logits[0, -1]
        total -= logits.log_softmax(-1)[text.ids[position]].item()
        count += 1
    return total, count


@torch.no_grad()
def test_perplexity_is_that_of_a_loop_over_tokens_and_windows(make_judge: MakeJudge) -> None:
    judge = make_judge(with_ends(bos_token="<s>", eos_token="</s>"), context=8)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(5, 50, (length,), generator=generator).tolist() for length in (1, 3, 8, 9, 13, 30)]
    texts = retokenize(judge, tiny_tokenizer(), rows)
    assert max(len(text.ids) for text in texts) > 3 * judge.context
    expected = [naive(judge, text) for text in texts]
    perplexity, count = generative_perplexity(judge, texts, batch_size=4)
    assert count == sum(each for _, each in expected) == sum(sum(text.scored) for text in texts)
    assert perplexity.value == pytest.approx(math.exp(sum(nats for nats, _ in expected) / count), rel=1e-4)
    alone, _ = generative_perplexity(judge, texts, batch_size=1)
    assert alone.value == pytest.approx(perplexity.value, rel=1e-5) and 0 < perplexity.error < perplexity.value


def test_a_judge_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large(make_judge: MakeJudge) -> None:
    judge = make_judge(with_ends(eos_token="</s>"), flat=True)
    perplexity, _ = generative_perplexity(judge, retokenize(judge, tiny_tokenizer(), [[7, 8, 9], [10, 11]]))
    assert perplexity.value == pytest.approx(judge.model.config.vocab_size, rel=1e-5)
    assert perplexity.error == pytest.approx(0, abs=1e-3)


def test_text_between_ends_is_retokenised_and_the_first_end_is_scored(make_judge: MakeJudge) -> None:
    """[CLS] the cat [SEP] sat [SEP] [PAD]: the judge reads `the cat`, its EOS, `sat`, its EOS; only the first is scored."""
    source = wordpiece_tokenizer()
    cls, sep, pad = (source.get_vocab()[token] for token in ("[CLS]", "[SEP]", "[PAD]"))
    row = [cls, *source("the cat", add_special_tokens=False)["input_ids"], sep]
    row += [*source("sat", add_special_tokens=False)["input_ids"], sep, pad]
    judge = make_judge(with_ends(eos_token="</s>"))
    (text,) = retokenize(judge, source, [row])
    eos = judge.tokenizer.eos_token_id
    parts = [judge.tokenizer(part, add_special_tokens=False)["input_ids"] for part in ("the cat", "sat")]
    assert text.ids == [eos, *parts[0], eos, *parts[1], eos]  # without a BOS the EOS is what is given first
    assert text.scored == [False] + [True] * (len(parts[0]) + 1 + len(parts[1])) + [False]


def test_a_judge_without_bos_and_eos_reads_the_text_alone(make_judge: MakeJudge) -> None:
    judge = make_judge(tiny_tokenizer())
    (text,) = retokenize(judge, tiny_tokenizer(), [[7, 8, 3, 9]])
    assert text.ids == [7, 8, 9]
    _, count = generative_perplexity(judge, [text])
    assert count == 2  # nothing says how likely the first token is
    nothing, count = generative_perplexity(judge, retokenize(judge, tiny_tokenizer(), [[3, 0]]))
    assert count == 0 and math.isnan(nothing.value)


def test_what_is_no_causal_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="generative_model_name_or_path must hold a readable tokenizer"):
        load_judge(str(tmp_path))


@pytest.mark.parametrize(
    ("layers", "value", "rule"),
    [
        (2, 1.0, "hold all weights of its model (transformer.h.1."),
        (0, 1.0, "hold no part of a network that its config.json does not know (transformer.h.0."),
        (1, math.nan, "hold weights that are finite in float32 (transformer.h.0.mlp.c_fc.bias is not)"),
    ],
)
def test_a_judge_that_is_not_whole_is_refused(layers: int, value: float, rule: str, tmp_path: Path) -> None:
    """Its figures would be those of another model, and nobody would be told."""
    tokenizer = with_ends(eos_token="</s>")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=16, n_embd=16, n_layer=1, n_head=2))
    model.get_parameter("transformer.h.0.mlp.c_fc.bias").data[0] = value
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"n_layer": layers}))
    with pytest.raises(ParameterError) as caught:
        load_judge(str(tmp_path))
    assert str(caught.value).startswith(f"generative_model_name_or_path must {rule}")


@pytest.mark.parametrize("estimate", [Estimate(1.5, 0.25), Estimate(2.0, math.nan), Estimate(math.nan, math.nan)])
def test_an_estimate_is_read_as_it_was_written(estimate: Estimate) -> None:
    again = Estimate.read(json.loads(json.dumps(estimate.figures("nelbo"))), "nelbo")
    assert (again.value, again.error) == pytest.approx((estimate.value, estimate.error), nan_ok=True)
