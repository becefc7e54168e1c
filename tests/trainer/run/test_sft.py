"""Supervised fine-tuning from the command line: what it writes, that it goes on as if never stopped, and what it teaches."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from tests.tiny import save_tiny, tiny_tokenizer
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.facts import Facts, Frame
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run
from token_diffusion.text import Ending, encode, ending
from trainer.__main__ import main

TEMPLATE = (
    "{% for m in messages %}{{ 'w44' if m.role == 'assistant' else 'w43' }} {{ m.content }} [SEP]{% endfor %}"
    "{% if add_generation_prompt %}w44 {% endif %}"
)
"""Roles are words that the tokenizer has."""


def copying(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Asked with w0 the answer is the word that follows, once; asked with w1 it is that word four times."""
    generator = random.Random(seed)
    rows: list[dict[str, object]] = []
    for _ in range(count):
        length, word = generator.choice([("w0", 1), ("w1", 4)]), f"w{generator.randrange(2, 8)}"
        answer = " ".join([word] * length[1])
        rows.append({"prompt": f"{length[0]} {word}", "completion": answer})
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to start from, `rows.jsonl`, and the same as messages."""
    folder = tmp_path_factory.mktemp("sft")
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "[SEP]"
    facts = Facts(Frame((2,), (3,)), known=True)
    save_tiny(folder / "base", "absorbing", "token-diffusion", tokenizer, facts)
    rows = copying(200)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    talks = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in rows
    ]
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, talks)))
    (folder / "chat.jinja").write_text(TEMPLATE)
    return folder


def flags(place: Path, output_dir: Path, *more: str, **changes: object) -> list[str]:
    options: dict[str, object] = {
        "model_name_or_path": place / "base",
        "train_file": place / "rows.jsonl",
        "validation_split_percentage": 10,
        "output_dir": output_dir,
        "max_length": 12,
        "max_train_steps": 4,
        "checkpointing_steps": 2,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "random_length_ratio": 0.2,
        "report_to": "none",
    }
    return [*(f"--{name}={value}" for name, value in {**options, **changes}.items()), *more]


def answered(checkpoint: Checkpoint, prompt: str, seed: int = 0) -> Ending:
    canvas = encode(checkpoint.tokenizer, seq_len=12, prompt=prompt, frame=checkpoint.facts.frame)
    parameters = SamplingParameters(seq_len=12, num_samples=1, seed=seed)
    rows = run(checkpoint.denoiser, checkpoint.scheduler, parameters, canvas)
    return ending(checkpoint.tokenizer, rows.sequences[0].tolist(), canvas, facts=checkpoint.facts)


def test_a_run_goes_on_bit_for_bit_and_its_folder_says_what_ends_a_text(place: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["sft", *flags(place, whole)]) == 0
    assert (
        main(
            [
                "sft",
                *flags(place, parts, max_train_steps=2, per_device_train_batch_size=4, gradient_accumulation_steps=2),
            ]
        )
        == 0
    )
    latest = "--resume_from_checkpoint=latest"
    again = flags(place, parts, latest, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert main(["sft", *again]) == 0
    one, other = (AutoModelForMaskedLM.from_pretrained(folder / "final").state_dict() for folder in (whole, parts))
    # In other batches, so that what is learnt of an example may not depend on its batch.
    assert all(torch.allclose(other[name], tensor, atol=1e-5) for name, tensor in one.items())
    checkpoint = load_checkpoint(whole / "final")
    assert checkpoint.facts == Facts(Frame((2,)), frozenset({3}), known=True, end_tokens=frozenset({3}))
    assert 3 not in checkpoint.forbidden and 0 in checkpoint.forbidden
    card = (whole / "final" / "README.md").read_text()
    assert "180 sequences of 12 tokens, an answer behind its prompt, filled up with end tokens" in card
    assert "(prompts neither noised nor counted)" in card


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid"])
def test_each_process_learns_answers(process: str, place: Path, tmp_path: Path) -> None:
    save_tiny(tmp_path / "base", process, "bert", tiny_tokenizer())
    more = [f"--chat_template_path={place / 'chat.jinja'}", "--assistant_only_loss"]
    changes = {"model_name_or_path": tmp_path / "base", "train_file": place / "talks.jsonl", "max_length": 20}
    assert main(["sft", *flags(place, tmp_path / "out", *more, **changes)]) == 0
    checkpoint = load_checkpoint(tmp_path / "out" / "final")
    assert checkpoint.process == process and checkpoint.facts.ends(checkpoint.tokenizer) == {3}
    assert checkpoint.tokenizer.chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--train_file={0}/talks.jsonl"], "chat_template_path must be given for messages"),
        (["--packing"], "packing must be left out with sft"),
        (
            ["--streaming", "--max_train_steps=2", "--validation_split_percentage=0"],
            "streaming must be left out with sft",
        ),
        (["--text_column=prompt"], "text_column must be left out with sft"),
        (["--random_length_ratio=2"], "random_length_ratio must be less than or equal to 1"),
        (["--completion_only_loss"], "--completion_only_loss is no flag here: prompts are never learnt"),
        (["--chat_template_path={0}/none"], "chat_template_path must be a readable template"),
        (["--max_length=3"], "must hold prompts that leave room for an answer in 3 tokens"),
        (["--p_uniform=0.2"], "p_uniform must be left out where the process is absorbing"),
    ],
)
def test_what_cannot_be_learnt_is_one_line(
    more: list[str], complaint: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sft", *flags(place, tmp_path, *(each.format(place) for each in more))]) == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_answers_end_where_they_should(place: Path, tmp_path: Path) -> None:
    """After a minute of training a word is copied once or four times, and behind that the text ends."""
    learning = {
        "max_train_steps": 1500,
        "learning_rate": 3e-3,
        "per_device_train_batch_size": 32,
        "checkpointing_steps": 1500,
        "random_length_ratio": 0.01,
        "lr_warmup_steps": 50,
        "lr_scheduler": "cosine",
    }
    assert main(["sft", *flags(place, tmp_path, **learning)]) == 0
    checkpoint = load_checkpoint(tmp_path / "final")
    right = 0
    asked = [(length, count, f"w{word}") for length, count in (("w0", 1), ("w1", 4)) for word in range(2, 8)]
    for length, count, word in asked:
        found = answered(checkpoint, f"{length} {word}")
        assert found.stopped
        said = found.text.split()[2:]
        assert len(said) == count
        right += said == [word] * count
    assert right >= len(asked) - 1
