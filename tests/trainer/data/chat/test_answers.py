"""Prompts and answers as examples: which tokens they are, which of these are noised, and what each weighs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from tests.tiny import chat_tokenizer, tiny_tokenizer
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.errors import ParameterError
from token_diffusion.facts import Frame
from trainer.data.chat.answers import AnswerExamples
from trainer.data.chat.conversations import as_document
from trainer.data.chat.exchanges import Exchanges, tokenize_exchanges
from trainer.data.noising import Collate, Draw
from trainer.data.reading.documents import Documents

LENGTH, CLS, END = 24, 2, 3


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """Whole words, so that a word is a token."""
    return tiny_tokenizer()


def tokenised(tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], **options: Any) -> Exchanges:
    documents = Documents.of([as_document(row, "row") for row in rows])
    settings: dict[str, Any] = {"max_length": LENGTH, "frame": Frame((CLS,)), **options}
    return tokenize_exchanges(tokenizer, documents, flag="train_file", **settings)


def pair(prompt: int, answer: int) -> dict[str, str]:
    return {"prompt": " ".join(["w1"] * prompt), "completion": " ".join(["w2"] * answer)}


def examples(exchanges: Exchanges, process: str = "absorbing", **options: Any) -> AnswerExamples:
    scheduler = TokenDiffusionScheduler(50, 4, forward_process=process)
    return AnswerExamples(exchanges, scheduler, [0, 1, 2, 4], max_length=LENGTH, **options)


def test_an_example_is_the_prompt_the_answer_and_its_end(tokenizer: PreTrainedTokenizerBase) -> None:
    found = tokenised(tokenizer, [pair(3, 2), pair(0, 1), pair(1, 0)])
    w1, w2 = (tokenizer.get_vocab()[word] for word in ("w1", "w2"))
    assert [row.tolist() for row in found.ids] == [[CLS, w1, w1, w1, w2, w2, END], [CLS, w2, END], [CLS, w1, END]]
    assert found.starts.tolist() == [4, 1, 2]
    assert (found.end, found.learnt, found.ends) == (END, {END}, {END})


def test_an_unknown_word_is_nothing_to_learn_and_ends_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    found = tokenised(tokenizer, [{"prompt": "w1", "completion": "w2 never"}])
    assert found.ids[0].tolist()[-2:] == [tokenizer.unk_token_id, END]
    assert (found.learnt, found.ends) == ({END}, {END})


def test_what_does_not_fit_is_cut_off_or_left_out_and_counted(
    tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    found = tokenised(tokenizer, [pair(20, 10), pair(23, 1), pair(2, 2)])
    assert [len(row) for row in found.ids] == [LENGTH, 6]
    assert END not in found.ids[0] and found.num_dropped_tokens == (1 + 20 + 10 + 1 - LENGTH) + (23 + 1 + 1)
    assert "1 answers are cut off at --max_length 24, and 1 are left out" in caplog.text
    with pytest.raises(
        ParameterError, match="train_file must hold prompts that leave room for an answer in 24 tokens"
    ):
        tokenised(tokenizer, [pair(23, 1)])


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid"])
def test_the_answer_and_the_end_tokens_behind_it_are_noised_and_the_prompt_never(
    process: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    made = examples(tokenised(tokenizer, [pair(3, 2), pair(9, 5)]), process)
    batch = Collate(0)([made[Draw(index % 2, 1.0 if index < 4 else 0.5, index, index)] for index in range(200)])
    assert batch["clean"].shape == (200, LENGTH) and batch["attention_mask"].all()
    assert batch["noisable"][0].tolist() == [False] * 4 + [True] * (LENGTH - 4)
    assert batch["noisable"][1].tolist() == [False] * 10 + [True] * (LENGTH - 10)
    assert batch["clean"][0, 6:].eq(END).all() and batch["clean"][1, 15:].eq(END).all()
    changed = batch["noisy"] != batch["clean"]
    assert not (changed & ~batch["noisable"]).any()
    # Each answer's position is noised about as often as its alpha says, those of the end tokens, too.
    share = changed[4:][batch["noisable"][4:]].float().mean().item()
    expected = {"absorbing": 0.5, "uniform": 0.5 * 48 / 49, "hybrid": 0.5 + 0.05 - 0.05 / 49}[process]
    assert share == pytest.approx(expected, abs=0.05)
    last = changed[4:, -1].float().mean().item()
    assert last == pytest.approx(expected, abs=0.12)
    assert batch["weight"].eq(1).all()


def test_counted_masks_are_those_of_answers(tokenizer: PreTrainedTokenizerBase) -> None:
    made = examples(tokenised(tokenizer, [pair(3, 2)]), counted=True)
    for share in (0.05, 0.5, 1.0):
        example = made[Draw(0, share, 7, 0)]
        masked = example["noisy"] == 4
        assert masked.sum() == np.ceil(share * 20) and not masked[:4].any()


def test_a_few_have_a_random_length_which_their_draw_decides(tokenizer: PreTrainedTokenizerBase) -> None:
    exchanges = tokenised(tokenizer, [pair(3, 8)])
    made = examples(exchanges, random_length_ratio=0.25)
    lengths = [len(made[Draw(0, 0.5, seed, 0)]["clean"]) for seed in range(1000)]
    assert lengths == [len(made[Draw(0, 0.1, seed, 3)]["clean"]) for seed in range(1000)]
    short = [length for length in lengths if length < LENGTH]
    assert len(short) / 1000 == pytest.approx(0.25 * 19 / 20, abs=0.04)
    counts = np.bincount(short, minlength=LENGTH)[5:LENGTH]
    assert counts.min() > 0 and min(short) == 5, "one token of the answer is there at least"
    assert all(len(examples(exchanges)[Draw(0, 0.5, seed, 0)]["clean"]) == LENGTH for seed in range(50))
    first = made[Draw(0, 0.5, next(seed for seed in range(1000) if lengths[seed] == 7), 0)]
    assert first["clean"].tolist() == exchanges.ids[0][:7].tolist()
    assert torch.equal(first["noisable"], torch.arange(7) >= 4)


TALK = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on the mat"}]


def test_messages_are_written_by_the_chat_template_and_end_as_it_ends_them() -> None:
    tokenizer = chat_tokenizer()
    found = tokenised(tokenizer, [{"messages": TALK}], max_length=90)
    (ids,), (start,) = found.ids, found.starts
    assert tokenizer.decode(ids[1:start]) == "<|start|>user\nthe cat<|end|>\n<|start|>assistant\n"
    assert tokenizer.decode(ids[start:]) == "sat on the mat<|end|>"
    assert found.end == tokenizer.eos_token_id and found.ends == {found.end}


def test_the_end_of_a_turn_that_is_not_the_end_token_ends_an_answer_too() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.eos_token, turn = "[SEP]", tokenizer.convert_tokens_to_ids("<|end|>")
    found = tokenised(tokenizer, [{"messages": TALK}], max_length=90)
    assert found.ids[0][-2:].tolist() == [turn, END]
    assert (found.end, found.learnt, found.ends) == (END, {END, turn}, {END, turn})


def test_a_prefix_that_the_template_writes_itself_is_there_once() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = "[CLS]" + str(tokenizer.chat_template)
    found = tokenised(tokenizer, [{"messages": TALK}], max_length=90)
    assert found.ids[0].tolist().count(CLS) == 1 and found.ids[0][0] == CLS


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (None, "chat_template_path must be given for messages where the tokenizer has no chat template"),
        (
            "{{ raise_exception('no user') }}",
            r"train_file .*number 1: messages must be what the model's chat template takes \(no user",
        ),
    ],
)
def test_a_template_that_is_missing_or_refuses_is_one_line(template: str | None, complaint: str) -> None:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ParameterError, match=complaint):
        tokenised(tokenizer, [{"messages": TALK}])


def test_the_same_exchanges_have_the_same_fingerprint_and_no_others(tokenizer: PreTrainedTokenizerBase) -> None:
    one, same = (tokenised(tokenizer, [{"prompt": "w1 w1", "completion": "w1"}]) for _ in range(2))
    other = tokenised(tokenizer, [{"prompt": "w1", "completion": "w1 w1"}])
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert np.array_equal(one.ids[0], other.ids[0])


def test_a_run_of_it_can_be_read_from_a_folder(tmp_path: Path) -> None:
    """A chat template comes from a file, or with a tokenizer."""
    from trainer.run.model import read_chat_template

    (tmp_path / "a.jinja").write_text("{{ messages }}")
    chat_tokenizer().save_pretrained(tmp_path / "chat")
    tiny_tokenizer().save_pretrained(tmp_path / "none")
    assert read_chat_template(tmp_path / "a.jinja") == "{{ messages }}"
    assert read_chat_template(tmp_path / "chat") == chat_tokenizer().chat_template
    for name, complaint in (("none", "be of a tokenizer that has one"), ("nowhere", "be a readable template")):
        with pytest.raises(ParameterError, match=complaint):
            read_chat_template(tmp_path / name)
