"""The flags by which a sampler is asked: those of the table, what was given over a preset, and that over the defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import PROCESSES, chat_tokenizer, save_tiny
from token_diffusion.__main__ import build_parser, main
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.commands.fields import fields_of
from token_diffusion.errors import ParameterError
from token_diffusion.facts import Facts, Frame
from token_diffusion.samplers.catalogue import KINDS, all_options
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.samplers.presets import PRESETS
from token_diffusion.sampling import run

FITTING = [(name, process) for name, kind in KINDS.items() for process in kind.decoders]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """process -> folder; "chat" is framed and has learnt an end token."""
    root, tokenizer = tmp_path_factory.mktemp("checkpoints"), chat_tokenizer()
    ends = frozenset([tokenizer.eos_token_id])
    facts = Facts(Frame((tokenizer.cls_token_id,), (tokenizer.sep_token_id,)), ends, True)
    found = {process: save_tiny(root / process, process) for process in PROCESSES}
    return found | {"chat": save_tiny(root / "chat", "absorbing", tokenizer=tokenizer, facts=facts)}


def asked(*flags: str, command: str = "sample") -> dict[str, Any]:
    return fields_of(build_parser().parse_args([command, "--checkpoint_path", "x", *flags]))


def test_each_option_of_the_table_is_a_flag() -> None:
    values = {int: "3", float: "0.5", bool: None}
    for name, (option, samplers) in all_options().items():
        value = option.choices[0] if option.choices else values[option.type]
        flags = [f"--{name}"] if value is None else [f"--{name}", value]
        fields = asked("--sampler", samplers[0], *flags)
        assert fields[name] == (True if value is None else option.type(value))
        assert SamplingParameters.flat(fields).options == {name: fields[name]}


def test_what_is_given_goes_over_the_preset_and_that_over_the_defaults() -> None:
    assert asked()["temperature"] == 1.0 and asked()["sampler"] == "ancestral"
    preset = asked("--preset", "dream")
    assert {name: preset[name] for name in PRESETS["dream"]} == PRESETS["dream"]
    given = asked("--preset", "dream", "--temperature", "1.0", "--num_inference_steps", "128")
    assert (given["temperature"], given["num_inference_steps"], given["top_p"]) == (1.0, 128, 0.95)
    assert asked("--preset", "fast-dllm", "--threshold", "none")["threshold"] is None
    assert asked("--preset", "fast-dllm", "--factor", "1")["factor"] == 1.0
    assert "threshold" not in asked("--preset", "fast-dllm", "--factor", "1")
    assert asked("--early_end")["early_end"] and not asked("--no-early_end")["early_end"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sampler", "x"], "sampler must be ancestral, "),
        (["--preset", "x"], "preset must be llada, dream, fast-dllm or remdm, got 'x'"),
        (["--temperature", "-1"], "temperature must be "),
        (["--guidance_scale", "-1"], "guidance_scale must be in \\[0, 1000\\], got -1.0"),
    ],
)
def test_what_no_checkpoint_can_do_is_refused_before_one_is_loaded(flags: list[str], message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}"):
        asked(*flags)


@pytest.mark.parametrize(
    ("process", "flags", "message"),
    [
        (
            "absorbing",
            ["--threshold", "0.9"],
            "threshold must be absent, as the sampler ancestral has no such option, got 0.9",
        ),
        ("absorbing", ["--sampler", "margin", "--threshold", "2"], "threshold must be in (0, 1], got 2.0"),
        ("absorbing", ["--sampler", "margin", "--quota", "odd"], "quota must be even or schedule, got 'odd'"),
        ("uniform", ["--sampler", "margin"], "sampler must be "),
        (
            "absorbing",
            ["--preset", "dream", "--sampler", "ancestral"],
            "ranked_by must be absent, as the sampler ancestral has no such option (the preset dream fills it in), got 'shaped'",
        ),
        (
            "absorbing",
            [f"--{name}=1" for name in ("entropy_bound", "alg_temp", "factor", "threshold")],
            "entropy_bound must be absent",
        ),
        (
            "absorbing",
            ["--sampler", "gibbs", f"--num_corrected={10**20}"],
            f"num_corrected must be in [1, 2147483647], got {10**20}",
        ),
        ("absorbing", ["--logprobs"], "logprobs must come with json, which has room for them, got True"),
        ("absorbing", ["--early_end"], "early_end must be false, as the model has learnt no token"),
    ],
)
def test_mistakes_are_told_in_one_line(
    capsys: pytest.CaptureFixture[str], folders: dict[str, Path], process: str, flags: list[str], message: str
) -> None:
    assert main(["sample", "--checkpoint_path", str(folders[process]), "--seq_len=6", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {message}") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["sample", "--checkpoint_path=x", "--threshold=abc"],
            "argument --threshold: must be a number or none, got 'abc'",
        ),
        (["sample", "--checkpoint_path=x", "--quota"], "argument --quota: expected one argument"),
        (["score", "--texts=a"], "the following arguments are required: --checkpoint_path"),
        ([], "the following arguments are required: command"),
    ],
)
def test_flags_that_cannot_be_read_are_told_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert err.startswith(f"error: {message}; see python -m token_diffusion") and err.count("\n") == 1


@pytest.mark.parametrize(("sampler", "process"), FITTING)
def test_the_shell_samples_as_the_library_does(
    capsys: pytest.CaptureFixture[str], folders: dict[str, Path], sampler: str, process: str
) -> None:
    command = "sample-hybrid" if process == "hybrid" else "sample"
    flags = [
        "--seq_len=7",
        "--num_inference_steps=3",
        "--num_samples=2",
        f"--sampler={sampler}",
        "--json",
        "--logprobs",
    ]
    capsys.readouterr()
    assert main([command, "--checkpoint_path", str(folders[process]), *flags]) == 0
    answer, checkpoint = json.loads(capsys.readouterr().out), load_checkpoint(folders[process])
    parameters = SamplingParameters(7, 2, 3, sampler=sampler, logprobs=True)
    expected = run(checkpoint.denoiser, checkpoint.scheduler, parameters)
    assert [sample["tokens"] for sample in answer["samples"]] == expected.sequences.tolist()
    assert answer["sampler"] == sampler and expected.logprobs is not None
    known = [[value for value in row if value is not None] for row in answer["logprobs"]]
    assert known == [[value for value in row if value == value] for row in expected.logprobs.tolist()]
    assert sum(map(len, known)) > 0


def test_the_frame_and_the_ends_are_the_folders(capsys: pytest.CaptureFixture[str], folders: dict[str, Path]) -> None:
    end = chat_tokenizer().eos_token_id
    flags = ["--seq_len=40", "--num_samples=48", "--json", "--temperature=20", "--num_inference_steps=4"]
    capsys.readouterr()
    drawn = []
    for more in ([], ["--suppress_end"]):
        assert main(["sample", "--checkpoint_path", str(folders["chat"]), *flags, *more]) == 0
        rows = [sample["tokens"] for sample in json.loads(capsys.readouterr().out)["samples"]]
        drawn.append(any(end in row for row in rows))
        assert {(row[0], row[-1]) for row in rows} == {(chat_tokenizer().cls_token_id, chat_tokenizer().sep_token_id)}
    assert drawn == [True, False]
