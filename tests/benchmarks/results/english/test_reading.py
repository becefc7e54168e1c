"""What is read of samples: figures that can be counted by hand, places that were given, and the command as it is typed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.results.english.reading import Reader, Reading, Source, after, apportioned, main
from tests.tiny import save_tiny
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run
from trainer.evaluation.bound import Estimate
from trainer.evaluation.quality import Text, load_judge

LENGTH = 16


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `model` of each process, a `judge` to which all 50 tokens are alike, and texts: `tales` learnt thrice what `talk` is."""
    folder = tmp_path_factory.mktemp("reading")
    for process in ("absorbing", "uniform"):
        save_tiny(folder / process, process)
    tokenizer: Any = load_checkpoint(folder / "absorbing").tokenizer
    judge = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=LENGTH, n_embd=8, n_layer=1, n_head=1))
    with torch.no_grad():
        judge.transformer.wte.weight.zero_()  # which is the head's, too
    judge.save_pretrained(folder / "judge")
    tokenizer.save_pretrained(folder / "judge")
    (folder / "judge" / "judge.json").write_text('{"perplexity": 50.0, "name": "an older one"}', encoding="utf-8")
    for name, count in (("tales", 300), ("talk", 100)):
        (folder / name).mkdir()
        line = " ".join(f"w{index % 9}" for index in range(20))
        (folder / name / "train.txt").write_text(f"{line}\n" * (count // 20), encoding="utf-8")
        held_out = " ".join(f"w{7 * number * number % 11}" for number in range(200))
        (folder / name / "valid.txt").write_text(f"{held_out}\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def reader(place: Path) -> Reader:
    sources = [Source(place / name / "train.txt", [place / name / "valid.txt"]) for name in ("tales", "talk")]
    return Reader(load_checkpoint(place / "absorbing"), load_judge(str(place / "judge")), sources, 8, LENGTH)


def ids(reader: Reader, text: str) -> list[int]:
    found: list[int] = reader.checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def test_things_are_shared_by_largest_remainders() -> None:
    assert apportioned(8, [3, 1]) == [6, 2]
    assert apportioned(3, [10, 10, 1]) == [2, 1, 0]
    assert apportioned(64, [9_802_959, 1_202_873, 8_950_745]) == [31, 4, 29]


def test_figures_of_rows_that_can_be_counted(reader: Reader) -> None:
    # The learnt text goes w0 ... w8 w0 ... w8 w0 w1 and begins again.
    known = ids(reader, " ".join(f"w{index % 9}" for index in range(LENGTH)))
    odd = ids(reader, "w20 w21 " * (LENGTH // 2))
    found = reader.read([known, odd], "free")
    assert found.num_words == 2 * LENGTH
    assert found.known.value == 0.5
    assert found.copied.value == 0.5
    assert found.perplexity.value == pytest.approx(50) and found.perplexity.error == pytest.approx(0, abs=1e-3)
    counts = [2] * 7 + [1] * 2
    own = -sum(count / LENGTH * math.log(count / LENGTH) for count in counts)
    assert found.sample_entropy.value == pytest.approx((own + math.log(2)) / 2)
    assert found.unigram_entropy == pytest.approx((own + math.log(2)) / 2 + math.log(2))
    assert found.distinct_2 == (9 + 2) / 30
    whole = reader.read([known], "free")
    assert whole.copied.value == whole.known.value == 1


def test_of_what_is_given_nothing_counts(reader: Reader) -> None:
    row = ids(reader, "w30 " * 4 + "w0 w1 w2 w3 w4 w5 w6 w7 " + "w31 " * 4)
    assert reader.read([row], "infilled").known.value == 1
    assert reader.read([row], "prompted").known.value == 8 / 12
    assert reader.read([row], "free").known.value == 0.5


def test_the_judge_scores_from_where_a_text_parts_from_what_was_given() -> None:
    text = Text([1, 10, 11, 12, 13], [False, True, True, True, True])
    assert after(text, [1]).scored == [False, True, True, True, True]
    assert after(text, [1, 10, 11]).scored == [False, False, False, True, True]
    assert after(text, [1, 10, 20]).scored == [False, False, True, True, True]  # its end was half a word
    assert after(text, text.ids).scored == [False] * 5


def test_windows_are_held_out_text_in_the_mixture_that_was_learnt(reader: Reader, place: Path) -> None:
    text = ids(reader, (place / "tales" / "valid.txt").read_text(encoding="utf-8"))
    starts = [184 * index // 5 for index in range(6)] + [0, 184]
    assert reader.windows == [text[start : start + LENGTH] for start in starts]


@pytest.mark.parametrize(("kind", "drawn"), [("free", (0, 16)), ("prompted", (4, 16)), ("infilled", (4, 12))])
def test_a_sample_keeps_what_its_window_gives(reader: Reader, kind: str, drawn: tuple[int, int]) -> None:
    rows = reader.draw(kind, seed=3, num_inference_steps=4)
    start, stop = drawn
    for row, window in zip(rows, reader.windows, strict=True):
        assert row[:start] == window[:start] and row[stop:] == window[stop:]
    assert [row[start:stop] for row in rows] != [window[start:stop] for window in reader.windows]
    before, middle, behind = reader.examples(rows, kind)[0]
    assert [len(part.split()) for part in (before, middle, behind)] == [start, stop - start, LENGTH - stop]


def test_a_free_sample_is_the_one_that_its_seed_gives_alone(reader: Reader) -> None:
    rows = reader.draw("free", seed=3, num_inference_steps=None)
    alone = run(reader.checkpoint.denoiser, reader.checkpoint.scheduler, SamplingParameters(LENGTH, 1, None, seed=5))
    assert rows[2] == alone.sequences[0].tolist()


def test_figures_beside_those_of_text() -> None:
    def reading(perplexity: Estimate, entropy: float, own: float) -> Reading:
        return Reading(10, Estimate(0.9, 0.1), perplexity, entropy, Estimate(own, 0.1), 0.5, Estimate(0, 0))

    samples, text = reading(Estimate(90, 9), 5.5, 3.6), reading(Estimate(30, 1.5), 5, 4)
    found = samples.beside(text)
    assert found["perplexity_ratio"] == pytest.approx(3)
    assert found["perplexity_ratio_error"] == pytest.approx(3 * math.hypot(0.1, 0.05))
    assert found["unigram_entropy_off"] == pytest.approx(0.1)
    assert found["sample_entropy_off"] == pytest.approx(-0.1)
    assert samples.figures()["known_error"] == 0.1


def flags(place: Path, process: str, *more: object) -> list[str]:
    texts = [f"--text {place / name / 'train.txt'} {place / name / 'valid.txt'}" for name in ("tales", "talk")]
    given = f"--checkpoint_path {place / process} --judge {place / 'judge'} {' '.join(texts)} --num_samples 4"
    return [*f"{given} --seq_len 16 --num_inference_steps 4".split(), *map(str, more)]


def test_the_command_says_it_in_json(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.results.english.reading.set_threads", lambda threads: None)
    assert main(flags(place, "absorbing", "--output", tmp_path / "reading.json")) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed)
    assert json.loads((tmp_path / "reading.json").read_text(encoding="utf-8")) == found
    assert str(place) not in printed
    assert [(each["kind"], each["num_inference_steps"]) for each in found["measured"]] == (
        [("free", 4), ("free", None), ("prompted", 4), ("infilled", 4)]
    )
    assert found["judge"]["perplexity"] == 50 and found["judge"]["name"] == "judge"
    assert found["texts"][0] == ["tales/train.txt", "tales/valid.txt"]
    for each in found["measured"]:
        assert each["perplexity_ratio"] == pytest.approx(1, abs=1e-3)
        assert len(each["examples"]) == 4
    assert main(flags(place, "uniform", "--kinds", "free", "--sampler", "ancestral")) == 0
    (only,) = json.loads(capsys.readouterr().out)["measured"]  # it has no first-hitting
    assert only["num_inference_steps"] == 4


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--text", "a.txt"], "text must name a learnt file and at least one that was held out of it"),
        (["--num_samples", "400"], r"text must hold at least 4800 tokens of absorbing, got '200 in valid\.txt"),
        (["--seq_len", "3"], "seq_len must be in"),
        (["--judge", "nowhere"], "generative_model_name_or_path must"),
        (["--sampler", "magic"], "sampler must"),
    ],
)
def test_a_mistake_is_said_in_a_line(
    place: Path, more: list[str], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.results.english.reading.set_threads", lambda threads: None)
    with pytest.raises(ValueError, match=f"^{error}"):
        main(flags(place, "absorbing", *more))
