"""The shell: `python -m token_diffusion sample|sample-block|sample-hybrid`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import (
    MAX_POSITIONS,
    PROCESSES,
    byte_tokenizer,
    chat_tokenizer,
    save_labelled,
    save_tiny,
    tiny_model,
    tiny_tokenizer,
)
from token_diffusion import TokenDiffusionPipeline, TokenDiffusionScheduler
from token_diffusion.__main__ import build_parser, main
from token_diffusion.checkpoint import load_checkpoint, save_checkpoint
from token_diffusion.commands.sample import BLOCK_SIZE
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run
from token_diffusion.text import decode

ROOT = Path(__file__).parents[2]
MASK = 4
RUNS = [
    ("sample", "absorbing"),
    ("sample", "uniform"),
    ("sample-block", "absorbing"),
    ("sample-block", "uniform"),
    ("sample-block", "hybrid"),
    ("sample-hybrid", "hybrid"),
]
SHORT = ["--seq_len", "12", "--num_inference_steps", "6"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """process -> folder; "bytes" is an absorbing one whose tokenizer gives every text back."""
    root = tmp_path_factory.mktemp("checkpoints")
    folders = {process: save_tiny(root / process, process) for process in PROCESSES}
    return folders | {"bytes": save_tiny(root / "bytes", "absorbing", tokenizer=byte_tokenizer())}


def shell(capsys: pytest.CaptureFixture[str], command: str, folder: Path, *flags: str) -> tuple[str, str]:
    """stdout and stderr of a run that must succeed."""
    assert main([command, "--checkpoint_path", str(folder), *flags]) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def as_json(capsys: pytest.CaptureFixture[str], command: str, folder: Path, *flags: str) -> dict[str, Any]:
    out, err = shell(capsys, command, folder, "--json", *flags)
    assert err == ""
    answer: dict[str, Any] = json.loads(out)
    return answer


@pytest.mark.parametrize(("command", "process"), RUNS)
def test_samples_are_printed_one_a_line(
    capsys: pytest.CaptureFixture[str], folders: dict[str, Path], command: str, process: str
) -> None:
    out, err = shell(capsys, command, folders[process], *SHORT)
    lines = out.splitlines()
    assert [line[:4] for line in lines] == ["[0] ", "[1] ", "[2] ", "[3] "]
    assert len(set(lines)) == 4 and "[MASK]" not in out
    (summary,) = err.splitlines()
    assert "network evaluations" in summary and summary.endswith("seed 0")


@pytest.mark.parametrize(("command", "process"), RUNS)
def test_json_is_what_the_library_gives(
    capsys: pytest.CaptureFixture[str], folders: dict[str, Path], command: str, process: str
) -> None:
    flags = ["--num_samples=2", "--seed=7", "--temperature=0.8", "--top_p=0.9", "--top_k=20", "--min_p=0.1"]
    blocks = ["--block_size=5"] if command == "sample-block" else []
    answer = as_json(capsys, command, folders[process], *SHORT, *flags, *blocks)
    checkpoint = load_checkpoint(folders[process])
    parameters = SamplingParameters(12, 2, 6, 0.8, 0.9, 20, 7, 5 if blocks else None, 0.1)
    expected = run(checkpoint.denoiser, checkpoint.scheduler, parameters)
    assert [sample["tokens"] for sample in answer["samples"]] == expected.sequences.tolist()
    for sample in answer["samples"]:
        assert sample["text"] == decode(checkpoint.tokenizer, sample["tokens"])
    assert answer["seed"] == 7
    assert answer["usage"] == {"nfe": expected.nfe, "forwards_skipped": expected.forwards_skipped}
    assert answer["usage"]["nfe"] + answer["usage"]["forwards_skipped"] == 6 * (3 if blocks else 1)


def test_the_same_seed_gives_the_same_text(capsys: pytest.CaptureFixture[str], folders: dict[str, Path]) -> None:
    first, again, other = (shell(capsys, "sample", folders["uniform"], *SHORT, f"--seed={n}")[0] for n in (3, 3, 4))
    assert first == again != other


def test_a_prompt_begins_every_sample(capsys: pytest.CaptureFixture[str], folders: dict[str, Path]) -> None:
    answer = as_json(capsys, "sample", folders["absorbing"], *SHORT, "--prompt", "w3 w4", "--inject_start_token")
    tokenizer = tiny_tokenizer()
    start = [tokenizer.cls_token_id, *tokenizer("w3 w4")["input_ids"]]
    for sample in answer["samples"]:
        assert sample["tokens"][:3] == start and len(sample["tokens"]) == 12
        assert sample["text"].startswith("w3 w4")


def test_a_conversation_is_a_prompt_and_what_is_said_next_is_the_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path / "chat", "absorbing", tokenizer=chat_tokenizer())
    messages = [{"role": "user", "content": "the <|end|> cat"}]
    (tmp_path / "talk.json").write_text(json.dumps(messages), encoding="utf-8")
    for given in (json.dumps(messages), str(tmp_path / "talk.json")):
        flags = ["--seq_len=64", "--num_inference_steps=4", "--num_samples=2", "--messages", given]
        answer = as_json(capsys, "sample", folder, *flags)
        for sample in answer["samples"]:
            whole = decode(chat_tokenizer(), sample["tokens"])
            assert whole == f"user\nthe <|end|> cat\nassistant\n{sample['text']}"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ('[{"role": "user", "content": "w1"}]', "be sent to a model with a chat template, got ['user']"),
        ("[{", "be a list of messages in JSON, or a file that holds one (Expecting"),
        ("no such file", "(No such file or directory), got 'no such file'"),
        ('{"role": "user", "content": "w1"}', "be a list of messages, each with a role and a content"),
        ("[]", "hold at least one message"),
    ],
)
def test_what_is_no_conversation_is_one_line(
    capsys: pytest.CaptureFixture[str], folders: dict[str, Path], given: str, why: str
) -> None:
    assert main(["sample", "--checkpoint_path", str(folders["absorbing"]), *SHORT, "--messages", given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: messages must ") and why in line


def test_mask_in_a_prompt_is_text(capsys: pytest.CaptureFixture[str], folders: dict[str, Path]) -> None:
    flags = ["--prompt", "a [MASK] é", "--seq_len=20", "--num_inference_steps=4"]
    answer = as_json(capsys, "sample", folders["bytes"], *flags)
    assert len(answer["samples"]) == 4
    assert all(sample["text"].startswith("a [MASK] é") for sample in answer["samples"])


def test_a_template_gives_the_length_and_its_holes_are_filled(
    capsys: pytest.CaptureFixture[str], folders: dict[str, Path]
) -> None:
    flags = ["--template", "w1 [MASK] w2 [MASK] [MASK]", "--num_samples=3"]
    answer = as_json(capsys, "sample", folders["absorbing"], *flags)
    w1, w2 = tiny_tokenizer()("w1 w2")["input_ids"]
    for sample in answer["samples"]:
        assert len(sample["tokens"]) == 5 and MASK not in sample["tokens"]
        assert (sample["tokens"][0], sample["tokens"][2]) == (w1, w2)
    assert answer["usage"]["nfe"] <= 3
    longer = as_json(capsys, "sample", folders["absorbing"], *flags, "--seq_len=8")
    assert {len(sample["tokens"]) for sample in longer["samples"]} == {8}


def test_ids_and_stop_strings(capsys: pytest.CaptureFixture[str], folders: dict[str, Path]) -> None:
    whole = as_json(capsys, "sample", folders["absorbing"], *SHORT, "--prompt", "w3 w4")["samples"]
    again = as_json(capsys, "sample", folders["absorbing"], *SHORT, "--prompt_ids", "8", "9")["samples"]
    assert again == whole and {sample["finish_reason"] for sample in whole} == {"length"}
    stop = whole[0]["text"].split()[4]
    cut = as_json(capsys, "sample", folders["absorbing"], *SHORT, "--prompt", "w3 w4", "--stop", f" {stop} ", "no")
    assert cut["samples"][0]["text"] == " ".join(whole[0]["text"].split()[:4])
    assert [sample["tokens"] for sample in cut["samples"]] == [sample["tokens"] for sample in whole]
    assert cut["samples"][0]["finish_reason"] == "stop"
    holes = as_json(capsys, "sample", folders["absorbing"], "--template_ids", "6", "4", "7")["samples"]
    assert all(len(sample["tokens"]) == 3 and sample["tokens"][::2] == [6, 7] for sample in holes)


def test_first_hitting_needs_one_evaluation_a_token(
    capsys: pytest.CaptureFixture[str], folders: dict[str, Path]
) -> None:
    flags = ["--seq_len=9", "--num_inference_steps=none"]
    for command in ("sample", "sample-block"):
        answer = as_json(capsys, command, folders["absorbing"], *flags)
        assert answer["usage"] == {"nfe": 9, "forwards_skipped": 0}


def test_defaults_are_those_of_the_scripts() -> None:
    for command, steps in (("sample", 128), ("sample-block", 32), ("sample-hybrid", 64)):
        arguments = build_parser().parse_args([command, "--checkpoint_path", "x"])
        assert (arguments.num_inference_steps, arguments.num_samples, arguments.seed) == (steps, 4, 0)
        assert (arguments.temperature, arguments.top_p, arguments.top_k) == (1.0, 1.0, 0)
    assert (
        BLOCK_SIZE == 16 and build_parser().parse_args(["sample-block", "--checkpoint_path", "x"]).block_size is None
    )


def test_a_length_that_nobody_asked_for_is_one_that_the_model_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folders: dict[str, Path]
) -> None:
    short = save_tiny(tmp_path / "short", "absorbing", max_position_embeddings=20)
    for folder, length in ((short, 20), (folders["absorbing"], 64)):
        piped = TokenDiffusionPipeline.from_pretrained(str(folder))(num_inference_steps=4)
        capsys.readouterr()  # transformers' progress
        (sample,) = as_json(capsys, "sample", folder, "--num_samples=1", "--num_inference_steps=4")["samples"]
        assert len(sample["tokens"]) == piped.sequences.shape[1] == length


@pytest.mark.parametrize(
    ("command", "process", "flags", "message"),
    [
        ("sample", "nowhere", [], "checkpoint_path must be an existing folder, got "),
        ("sample", "absorbing", ["--prompt", "w1 w2 w3", "--seq_len=2"], "prompt must fit into seq_len = 2 tokens, "),
        ("sample", "absorbing", ["--template", "w1 [MASK] w2", "--seq_len=2"], "template must fit into seq_len = 2 "),
        ("sample", "absorbing", ["--template", ""], "template must hold at least one token where seq_len is not"),
        ("sample", "absorbing", [f"--seq_len={MAX_POSITIONS + 1}"], f"seq_len must be at most {MAX_POSITIONS}, the "),
        ("sample", "absorbing", ["--template", "[MASK]" * 97], f"seq_len must be at most {MAX_POSITIONS}, the "),
        ("sample", "absorbing", ["--seq_len=0"], "seq_len must be in [1, 2147483648), got 0"),
        ("sample", "absorbing", ["--top_p=1.5"], "top_p must be in (0, 1], got 1.5"),
        ("sample", "absorbing", ["--min_p=1.5"], "min_p must be in [0, 1], got 1.5"),
        ("sample", "absorbing", ["--stop", "a", ""], "stop must hold no empty string, got ['a', '']"),
        (
            "sample",
            "absorbing",
            ["--prompt_ids", "4"],
            "prompt_ids must hold no mask token, as template_ids may, got 4",
        ),
        ("sample", "absorbing", ["--template_ids", "50"], "template_ids must hold token ids in [0, 50), got 50"),
        ("sample", "absorbing", ["--temperature=-1"], "temperature must be >= 0, got -1.0"),
        ("sample", "absorbing", ["--temperature=nan"], "temperature must be a finite number, got nan"),
        ("sample", "absorbing", ["--seed=-1"], "seed must be in [0, 9223372036854775808), got -1"),
        ("sample", "absorbing", ["--num_inference_steps=0"], "num_inference_steps must be in [1, "),
        ("sample", "absorbing", ["--num_samples=0"], "num_samples must be in [1, "),
        ("sample", "absorbing", ["--device=nonsense"], "device must be available ("),
        ("sample", "uniform", ["--num_inference_steps=none"], "num_inference_steps must be an integer for the unif"),
        ("sample-block", "absorbing", ["--block_size=0"], "block_size must be in [1, 2147483648), got 0"),
        (
            "sample",
            "hybrid",
            [],
            "checkpoint_path must hold a model of the absorbing or uniform process for sample (this one is for sample-block "
            "or sample-hybrid), got 'hybrid'",
        ),
        (
            "sample-hybrid",
            "uniform",
            [],
            "checkpoint_path must hold a model of the hybrid process for sample-hybrid (this one is for sample or "
            "sample-block), got 'uniform'",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    folders: dict[str, Path],
    command: str,
    process: str,
    flags: list[str],
    message: str,
) -> None:
    folder = folders.get(process, Path("no/such/folder"))
    assert main([command, "--checkpoint_path", str(folder), *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1 and err.endswith("\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sample"],
        ["sample", "--checkpoint_path", "x", "--prompt", "a", "--template", "b"],
        ["sample", "--checkpoint_path", "x", "--block_size", "8"],
        ["sample", "--checkpoint_path", "x", "--num_inference_steps", "few"],
        ["sample", "--checkpoint_path", "x", "--dtype", "int4"],
    ],
)
def test_a_flag_that_is_wrong_by_itself_is_refused_too(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and line.endswith(" --help")


def test_as_a_process(folders: dict[str, Path]) -> None:
    """Standard output holds the answer and nothing else; what transformers likes to say stays out of both."""
    flags = ["--checkpoint_path", str(folders["bytes"]), "--seq_len=8", "--num_samples=1", "--json"]
    command = [sys.executable, "-m", "token_diffusion", "sample", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    (sample,) = json.loads(result.stdout)["samples"]
    assert len(sample["tokens"]) == 8


def test_texts_are_ranked_in_a_table(capsys: pytest.CaptureFixture[str], folders: dict[str, Path]) -> None:
    texts = ["w1 w2", "w3 nobody w4 \x1b[2J\u202e", "w5"]
    out, err = shell(capsys, "score", folders["absorbing"], "--num_times", "4", "--texts", *texts)
    head, *lines = out.splitlines()
    assert head.split() == ["rank", "index", "nats", "bits/token", "tokens", "text"] and len(lines) == 3
    nats = [float(line.split()[2]) for line in lines]
    assert nats == sorted(nats) and sorted(line.split()[1] for line in lines) == ["0", "1", "2"]
    assert out.isascii() is False and "w3 nobody w4 \\x1b[2J\\u202e" in out
    unknown, how = err.splitlines()
    assert unknown.startswith("4 tokens that the tokenizer does not know are given")
    assert how.startswith("4 noised versions of each by counts, ") and how.endswith(", seed 0")


@pytest.mark.parametrize("process", PROCESSES)
def test_lines_of_a_file_are_scored_as_texts_are(
    capsys: pytest.CaptureFixture[str], folders: dict[str, Path], tmp_path: Path, process: str
) -> None:
    (tmp_path / "lines.txt").write_bytes("\ufeffw1 w2\u2028w3\r\n\n   \nw4\x0cw5\n".encode())
    flags = ("--num_times", "4", "--seed", "3", "--prefix", "w9")
    of_file = as_json(capsys, "score", folders[process], "--file", str(tmp_path / "lines.txt"), *flags)
    of_texts = as_json(capsys, "score", folders[process], "--texts", "w1 w2\u2028w3", "w4\x0cw5", *flags)
    assert of_file["scores"] == of_texts["scores"] and of_file["ranking"] == of_texts["ranking"]
    assert of_file["estimator"] == ("counts" if process == "absorbing" else "times") and of_file["seed"] == 3
    assert [len(each["token_nats"]) for each in of_file["scores"]] == [3, 2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--file", "/nowhere/at.txt"],
            "file must be a text file that can be read (No such file or directory), got '/nowh",
        ),
        (["--file", "."], "file must be a text file that can be read (Is a directory), got '.'"),
        (["--texts", "w1", ""], "texts.1 must hold at least one token, got ''"),
        (["--texts", "w1", "--num_times", "0"], "num_times must be in [1, 1048576), got 0"),
        (["--texts", "w1", "--seed", "-1"], "seed must be in [0, "),
        (["--texts", "w1", "--estimator", "counts"], "estimator must be times for the uniform process, got 'counts'"),
        (["--texts", "w1 " * 100], "texts.0 must fit into 96 tokens, got '100 tokens'"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    capsys: pytest.CaptureFixture[str], folders: dict[str, Path], flags: list[str], message: str
) -> None:
    assert main(["score", "--checkpoint_path", str(folders["uniform"]), *flags]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_files_without_text_or_with_bytes_are_one_line(
    capsys: pytest.CaptureFixture[str], folders: dict[str, Path], tmp_path: Path
) -> None:
    for content, message in ((b"\n \n", "hold at least one text"), (b"\xff\xfe", "(it is not UTF-8)")):
        (tmp_path / "lines").write_bytes(content)
        assert main(["score", "--checkpoint_path", str(folders["uniform"]), "--file", str(tmp_path / "lines")]) == 2
        assert message in capsys.readouterr().err


def test_a_label_is_told_where_the_folder_knows_some(
    capsys: pytest.CaptureFixture[str], folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = save_labelled(tmp_path / "labelled")
    flags = [*SHORT, "--num_samples=2"]
    found = {shell(capsys, "sample", folder, *flags, *more)[0] for more in ([], ["--label=0"], ["--label=2"])}
    assert len(found) == 3
    texts = ["--texts", "w1 w2 w3"]
    scores = [as_json(capsys, "score", folder, *texts, *more)["scores"] for more in ([], ["--label=0"], ["--label=1"])]
    assert len({each[0]["nats"] for each in scores}) == 3
    for command, more in (("sample", flags), ("score", texts)):
        assert main([command, "--checkpoint_path", str(folder), *more, "--label=3"]) == 2
        assert capsys.readouterr().err == "error: label must be below 3, the model's num_classes, got 3\n"
        assert main([command, "--checkpoint_path", str(folders["uniform"]), *more, "--label=0"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == "error: label must be absent, as the model knows no labels (its num_classes is 0), got 0"


@pytest.fixture(scope="module")
def block_causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("blocks") / "blocks", tiny_tokenizer()
    model = tiny_model("token-diffusion", causal_block_size=4)
    save_checkpoint(folder, model, tokenizer, TokenDiffusionScheduler(len(tokenizer), tokenizer.mask_token_id))
    return folder


def test_a_block_causal_model_has_its_own_blocks(block_causal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--prompt", "w1 w2 w3 w4 w5", *SHORT, "--num_samples", "2")
    own = as_json(capsys, "sample-block", block_causal, *flags)
    named = as_json(capsys, "sample-block", block_causal, *flags, "--block_size", "4")
    assert own["samples"] == named["samples"] and own["usage"]["nfe"] <= 7
    assert sum(own["usage"].values()) == 2 * 6, "of two blocks: the prompt ends inside the first of them"
    out, _ = shell(capsys, "score", block_causal, "--texts", "w1 w2 w3 w4 w5", "w6 w7 w8 w9 w10")
    assert out.count("\n") == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["sample"], "checkpoint_path must hold a model that sees the whole text for sample, not a block-causal one"),
        (["sample-block", "--block_size", "16"], "block_size must be 4, as the network is block-causal, got 16"),
        (
            ["sample-block", "--template", "[MASK] w1 w2 w3 w4"],
            "template must have nothing fixed behind the block of 4",
        ),
    ],
)
def test_what_a_block_causal_model_cannot_do_is_one_line(
    flags: list[str], message: str, block_causal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([flags[0], "--checkpoint_path", str(block_causal), *flags[1:]]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}") and captured.err.count("\n") == 1 and captured.out == ""
