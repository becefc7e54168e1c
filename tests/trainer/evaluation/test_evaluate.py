"""`python -m trainer evaluate`: the trainer's own figures again, for every process, as one JSON object."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tests.tiny import PROCESSES, byte_tokenizer, save_tiny
from token_diffusion import score
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.facts import Facts, Frame
from token_diffusion.text import encode_passage
from trainer.__main__ import main, parse
from trainer.config import TrainingConfig
from trainer.data.noising import NoisyExamples
from trainer.data.tokenizer import build_tokenizer
from trainer.evaluation.quality import variety, windows
from trainer.run.train import train

TEXT = "The cat sat on the mat.\nA dog ran — far.\n\nThe dog sat.\n" * 6
SIZES = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32,max_position_embeddings=64"
COMMANDS = dict(zip(PROCESSES, ("mdlm", "udlm", "hybrid"), strict=True))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`text.txt`, its `tokenizer`, a folder of each process, and a causal LM in `judge`."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "text.txt").write_text(TEXT)
    tokenizer = build_tokenizer([TEXT], vocab_size=290)
    tokenizer.save_pretrained(folder / "tokenizer")
    for process in PROCESSES:
        save_tiny(folder / process, process, tokenizer=tokenizer)
    judge = byte_tokenizer()
    judge.add_special_tokens({"eos_token": "</s>"})
    config = GPT2Config(vocab_size=len(judge), n_positions=16, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder / "judge")
    judge.save_pretrained(folder / "judge")
    return folder


def evaluate(capsys: pytest.CaptureFixture[str], folder: Path, *flags: object) -> dict[str, Any]:
    """The last line of stdout, read as strictly as JSON allows."""
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint_path", str(folder), *map(str, flags)]) == 0

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=refuse)


@pytest.mark.parametrize("packing", ["--packing", "--no-packing"])
@pytest.mark.parametrize("process", PROCESSES)
def test_it_repeats_the_trainers_own_validation(
    process: str, packing: str, workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = workplace / "text.txt"
    flags = [f"--train_file={text}", f"--validation_file={text}", f"--tokenizer_name={workplace / 'tokenizer'}"]
    flags += ["--config_name=bert", f"--config_overrides={SIZES}", f"--output_dir={tmp_path}", "--max_train_steps=3"]
    flags += [packing, "--max_length=16", "--ema_decay=0.9"]
    config = parse(COMMANDS[process], flags)
    assert isinstance(config, TrainingConfig)
    bound = train(config)
    assert bound is not None and bound.text is not None
    found = evaluate(capsys, tmp_path / "final", "--validation_file", text, packing, "--max_length=16")
    figures = found["validation"]
    expected = bound.figures()
    assert figures["weights"] == f"as saved ({expected.pop('weights')})" == "as saved (moving average, decay 0.9)"
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    if packing == "--packing":
        assert (figures["num_chars"], figures["num_bytes"]) == (len(TEXT), len(TEXT.encode()))
    assert found["process"] == process and found["checkpoint"] == "final" and figures["files"] == ["text.txt"]
    assert figures["num_times"] == 8 and figures["packing"] == (packing == "--packing") and figures["max_length"] == 16


def test_rows_of_a_table_are_examples_as_lines_are(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(json.dumps({"words": line}) + "\n" for line in TEXT.split("\n"))
    (tmp_path / "a.jsonl").write_text(rows)
    folder, flags = workplace / "absorbing", ["--max_length=16", "--validation_file"]
    table = evaluate(capsys, folder, *flags, tmp_path / "a.jsonl", "--text_column=words")["validation"]
    text = evaluate(capsys, folder, *flags, workplace / "text.txt")["validation"]
    assert table | {"files": None} == text | {"files": None} and table["files"] == ["a.jsonl"]


def test_seed_and_times_change_the_noise_and_lines_are_examples(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (workplace / "absorbing", "--validation_file", workplace / "text.txt", "--num_times", 2)
    first, again, other = (evaluate(capsys, *common, "--seed", seed)["validation"] for seed in (0, 0, 1))
    assert first == again and first["nelbo"] != other["nelbo"]
    assert abs(first["nelbo"] - other["nelbo"]) < 5 * (first["nelbo_error"] + other["nelbo_error"])
    assert first["num_sequences"] == 18 and first["num_times"] == 2 and first["max_length"] == 96


@pytest.mark.parametrize("process", PROCESSES)
def test_samples_are_measured_beside_held_out_text(
    process: str, workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags: list[object] = ["--num_samples=3", "--seq_len=12", "--num_inference_steps=4", "--temperature=0.5"]
    flags += ["--generative_model_name_or_path", workplace / "judge", "--output_file", tmp_path / "figures.json"]
    text = ["--validation_file", workplace / "text.txt", "--packing", "--num_times=1"]
    found = evaluate(capsys, workplace / process, *flags, *text)
    samples, reference = found["samples"], found["reference"]
    assert samples["num_samples"] == 3 and samples["num_tokens"] == 36 and 0 < samples["nfe"] <= 4
    assert samples["temperature"] == 0.5 and samples["generative_model"] == "judge"
    for figures in (samples, reference):
        assert 0 < figures["distinct_1"] <= figures["distinct_2"] <= 1 and figures["generative_perplexity"] > 1
        assert 0 < figures["unigram_entropy"] <= math.log(36) and figures["num_generative_tokens"] > 0
    tokenizer = load_checkpoint(workplace / process).tokenizer
    stream = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    expected = variety(windows(stream, 12, 3))
    assert {name: reference[name] for name in expected} == pytest.approx(expected)
    assert json.loads((tmp_path / "figures.json").read_text()) == found


def test_the_folders_frame_is_around_text_and_samples(
    workplace: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not the tokenizer's, [CLS] … [SEP]: the network is shown what it was trained on, and the frame is not measured."""
    tokenizer = AutoTokenizer.from_pretrained(workplace / "tokenizer")
    facts = Facts(Frame((2,), ()), known=True)
    folder = save_tiny(tmp_path / "framed", "absorbing", tokenizer=tokenizer, facts=facts)
    text = ["--validation_file", workplace / "text.txt", "--max_length", "12"]
    shown: list[list[int]] = []

    def examples(ids: Sequence[Any], *arguments: Any, **options: Any) -> NoisyExamples:
        shown.extend(row.tolist() for row in ids)
        return NoisyExamples(ids, *arguments, **options)

    monkeypatch.setattr("trainer.evaluation.evaluate.NoisyExamples", examples)
    found = evaluate(capsys, folder, *text, "--num_samples", "2", "--num_inference_steps", "2")
    assert {row[0] for row in shown} == {2} and not any(3 in row[1:] for row in shown)
    assert found["samples"]["num_tokens"] == 2 * 11
    shown.clear()
    packed = evaluate(capsys, folder, *text, "--packing", "--num_samples", "2", "--num_inference_steps", "2")
    assert {row[0] for row in shown} == {2} and {len(row) for row in shown[:-1]} == {12}
    assert packed["reference"]["num_tokens"] == packed["samples"]["num_tokens"] == 2 * 11
    assert packed["validation"]["num_tokens"] == sum(len(row) - 1 for row in shown) - sum(
        row.count(3) for row in shown
    )


def test_samples_are_drawn_by_the_sampler_that_is_named(capsys: pytest.CaptureFixture[str], workplace: Path) -> None:
    flags = ["--num_samples=2", "--seq_len=8", "--num_inference_steps=8", "--sampler=confidence"]
    few = evaluate(capsys, workplace / "absorbing", *flags, "--sampler_options=factor=1000, ranked_by=shaped")[
        "samples"
    ]
    assert few["sampler"] == "confidence" and few["options"] == {"factor": 1000, "ranked_by": "shaped"}
    assert few["nfe"] < evaluate(capsys, workplace / "absorbing", *flags)["samples"]["nfe"] == 8


def test_samples_alone(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(capsys, workplace / "uniform", "--num_samples=2", "--seq_len=8", "--num_inference_steps=2")
    assert "validation" not in found and "reference" not in found and found["samples"]["num_tokens"] == 16


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("", "validation_file or num_samples must be given: what to measure, got None"),
        ("--num_samples 1 --checkpoint_path absent", "checkpoint_path must be an existing folder, got 'absent'"),
        ("--validation_file absent.txt", "validation_file must be a readable file"),
        ("--validation_file {text} --max_length 97", "max_length must be <= 96, the positions of the model, got 97"),
        ("--num_samples 1 --seq_len 97", "seq_len must be at most 96, the positions of absorbing, got 97"),
        ("--num_samples 1 --seq_len 8 --sampler x", "sampler must be ancestral, "),
        (
            "--num_samples 1 --seq_len 8 --sampler_options way",
            "sampler_options must be key=value,key=value, got 'way'",
        ),
        (
            "--num_samples 1 --seq_len 8 --sampler_options threshold=0.9",
            "threshold must be absent, as the sampler ancestral has no such option, got 0.9",
        ),
        (
            "--num_samples 1 --seq_len 8 --sampler margin --sampler_options quota=odd",
            "quota must be even or schedule, got",
        ),
        ("--num_samples 1 --temperature -1", "temperature must be greater than or equal to 0, got '-1'"),
        ("--num_samples 1 --num_times 0", "num_times must be greater than 0, got '0'"),
        ("--validation_file {text} --generative_model_name_or_path x", "generative_model_name_or_path must come with"),
        (
            "--num_samples 1 --generative_model_name_or_path {text}",
            "generative_model_name_or_path must hold a readable",
        ),
        ("--num_samples 1 --output_file {text}/x", "output_file must be a writable file (Not a directory)"),
    ],
)
def test_mistakes_are_one_line(flags: str, problem: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = flags.format(text=workplace / "text.txt").split()
    given = [] if "--checkpoint_path" in arguments else ["--checkpoint_path", str(workplace / "absorbing")]
    assert main(["evaluate", *given, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.splitlines()[-1].startswith(problem)


def test_a_mistake_leaves_the_output_file_as_it_was(workplace: Path, tmp_path: Path) -> None:
    for content in (None, "figures of another day"):
        if content is not None:
            (tmp_path / "figures.json").write_text(content)
        flags = ["--checkpoint_path", str(tmp_path / "absent"), "--output_file", str(tmp_path / "figures.json")]
        assert main(["evaluate", *flags, "--num_samples=1"]) == 2
        assert [path.read_text() for path in tmp_path.iterdir()] == ([] if content is None else [content])


@pytest.mark.slow
def test_two_processes_find_the_same(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An odd number of sequences, so that the last batch of one process is padded; one object is printed."""
    flags = ["--checkpoint_path", str(workplace / "uniform"), "--validation_file", str(workplace / "text.txt")]
    flags += ["--packing", "--max_length=13", "--num_samples=2", "--seq_len=8", "--num_inference_steps=2"]
    alone = evaluate(capsys, workplace / "uniform", *flags[2:])
    # What `accelerate launch` runs for several processes; itself it starts only one where there is no device.
    program = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "trainer", "evaluate"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *program, *flags],
        capture_output=True, text=True, env=environment, timeout=300, cwd=Path(__file__).parents[3], check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (line,) = [each for each in result.stdout.splitlines() if each.startswith("{")]
    found = json.loads(line)
    assert (alone["num_processes"], found["num_processes"]) == (1, 2)
    assert found["samples"] == alone["samples"]
    validation = {name: value for name, value in alone["validation"].items() if isinstance(value, float)}
    assert {name: found["validation"][name] for name in validation} == pytest.approx(validation, rel=1e-5)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_bound_is_that_of_the_scores_of_the_lines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, process: str
) -> None:
    """In the folder's frame, unknown words given; within the errors of both, with other noise."""
    frame = Frame((2,), (3,))
    folder = save_tiny(tmp_path / process, process, facts=Facts(frame, frozenset(), True))
    lines = ["w1 w7 w7 w30", "w2 nobody w40", "w11 w12 w13 w14 w15 w16"]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    flags = ("--validation_file", tmp_path / "lines.txt", "--no-packing", "--num_times", 128)
    bound = evaluate(capsys, folder, *flags)["validation"]
    checkpoint = load_checkpoint(folder)
    passages = [encode_passage(checkpoint.tokenizer, line, frame=checkpoint.facts.frame) for line in lines]
    given = [passage.given for passage in passages]
    scores = score(
        checkpoint.denoiser,
        checkpoint.scheduler,
        [passage.tokens for passage in passages],
        given=given,
        num_times=128,
        estimator="times",
    )
    num_tokens = sum(each.num_tokens for each in scores)
    assert bound["num_tokens"] == num_tokens == 12 and [passage.num_unknown for passage in passages] == [0, 1, 0]
    error = math.sqrt(sum((each.nats_error or math.nan) ** 2 for each in scores)) / num_tokens
    assert 0 < error < 0.25 * bound["nelbo"]
    # the trainer's own error is of the choice of lines, too; that of its times and noise is about ours
    assert abs(sum(each.nats for each in scores) / num_tokens - bound["nelbo"]) < 4 * math.sqrt(2) * error
