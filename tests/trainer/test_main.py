"""The command line: mistakes are one line each and exit code 2; the environment is never read."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from token_diffusion.diffusion.scheduler import TokenDiffusionScheduler
from trainer.__main__ import COMMANDS, main, parse
from trainer.config import HybridConfig, MDLMConfig, TrainingConfig, UDLMConfig
from trainer.data.tokenizer import build_tokenizer

OWN = [(MDLMConfig, "mdlm-output"), (UDLMConfig, "udlm-output"), (HybridConfig, "hybrid-output")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("main")
    (folder / "text.txt").write_text("a line\nanother line\n" * 10)
    (folder / "empty.txt").write_text("")
    (folder / "file").write_text("")
    for name, config in (("unknown", {"model_type": "foo"}), ("wrong", {"model_type": "bert", "hidden_size": "x"})):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    build_tokenizer(["a line another line"], vocab_size=270).save_pretrained(folder / "tokenizer")
    return folder


def errors(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> list[str]:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


@pytest.mark.parametrize(
    ("flags", "problems"),
    [
        ("", ["dataset_name or train_file must be given: the text to train on, got None"]),
        ("--train_file a --max_train_steps 0", ["max_train_steps must be greater than 0, got '0'"]),
        (
            "--train_file a --learning_rate -1 --seed x",
            [
                "seed must be a valid integer, unable to parse string as an integer, got 'x'",
                "learning_rate must be greater than 0, got '-1'",
            ],
        ),
        ("--train_file a --seed 5000000000", ["seed must be less than or equal to 4294901760, got '5000000000'"]),
        (
            "--train_file a --max_train_step 5",
            ["--max_train_step is no flag of this command; did you mean --max_train_steps?"],
        ),
        ("--train_file a --dataset_name b", ["dataset_name must be left out when train_file is given, got 'b'"]),
        ("--train_file a --config_name bert", ["tokenizer_name must be given with config_name, got None"]),
        ("--train_file a --config_overrides x=1", ["config_overrides must come with config_name, got 'x=1'"]),
        (
            "--train_file a --validation_file b --validation_split_percentage=10",
            ["validation_split_percentage must be left out when validation_file is given, got 10.0"],
        ),
        ("--train_file a --gamma 1", ["--gamma is no flag of this command"]),
    ],
)
def test_mistakes_in_flags(flags: str, problems: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert errors(capsys, ["mdlm", *flags.split()]) == problems


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"train_file": "absent.txt"}, "train_file must be a readable file"),
        ({"train_file": "empty.txt"}, "train_file must hold text, and not be empty"),
        ({"output_dir": "file/out"}, "output_dir must be a writable folder"),
        ({"tokenizer_name": "absent"}, "tokenizer_name must be an existing folder, got '"),
        ({"config_name": "absent"}, "config_name must be a model type or a folder with config.json"),
        (
            {"config_name": "{folder}/unknown"},
            "config_name must be a folder with the config.json of a model that is known",
        ),
        (
            {"config_name": "{folder}/wrong"},
            "config_name must be a folder with the config.json of a model that is known",
        ),
        (
            {"config_name": "gpt2", "config_overrides": "n_layer=1"},
            "config_name, config_overrides must make a masked LM",
        ),
        ({"config_overrides": "hidden_sise=8"}, "config_overrides must name keys of BertConfig, got 'hidden_sise'"),
        ({"config_overrides": "hidden_act=foo"}, "config_overrides must make a masked LM (no 'foo' is known)"),
        ({"config_overrides": "hidden_size=x"}, "config_overrides must hold values of the right type"),
        ({"config_overrides": "hidden_size"}, "config_overrides must be key=value,key=value, got 'hidden_size'"),
        ({"config_overrides": "vocab_size=9"}, "config_overrides must leave vocab_size to the tokenizer"),
        ({"config_overrides": "hidden_size=7,num_attention_heads=2"}, "config_overrides must make a masked LM"),
        ({"max_length": "513"}, "max_length must be <= 512, the positions of the model, got 513"),
        ({"sigma_min": "30"}, "sigma_min, sigma_max must satisfy 0 < sigma_min < sigma_max, got (30.0, 20.0)"),
        ({"report_to": "nosuchtracker"}, "report_to must"),
    ],
)
def test_mistakes_found_before_training(
    changes: dict[str, str], problem: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "train_file": "text.txt",
        "tokenizer_name": "tokenizer",
        "output_dir": "out",
        "config_name": "bert",
        "config_overrides": "hidden_size=8,num_hidden_layers=1,num_attention_heads=2,intermediate_size=8",
    }
    options.update({name: value.format(folder=workplace) for name, value in changes.items()})
    for name in ("train_file", "tokenizer_name", "output_dir"):
        options[name] = str(workplace / options[name])
    (line,) = errors(capsys, ["mdlm", *(f"--{name}={value}" for name, value in options.items())])
    assert problem in line
    # No tracker has begun a run either.
    assert "output_dir" in changes or not list(Path(options["output_dir"]).iterdir())


def test_a_missing_model_folder(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--train_file={workplace / 'text.txt'}", f"--model_name_or_path={workplace / 'none'}"]
    flags.append(f"--output_dir={workplace / 'out'}")
    (line,) = errors(capsys, ["hybrid", *flags, f"--tokenizer_name={workplace / 'tokenizer'}"])
    assert line == f"model_name_or_path must be an existing folder, got {str(workplace / 'none')!r}"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    summary = capsys.readouterr().out
    assert all(f"  {command} " in summary for command in COMMANDS)
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert "--output_" in capsys.readouterr().out
    (line,) = errors(capsys, ["mldm"])
    assert line == "command must be one of mdlm, udlm, hybrid, sft, tokenizer, evaluate, got 'mldm'"


def test_loss_weighting_is_hybrids_alone(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--train_file", "a", "--loss_weighting"]
    for given, weighting in ((flags[:2], "dynamic"), ([*flags, "clip"], "clip")):
        config = parse("hybrid", given)
        assert isinstance(config, HybridConfig) and config.weighting == weighting
    (line,) = errors(capsys, ["hybrid", *flags, "raw"])
    assert line == "loss_weighting must be 'elbo', 'clip' or 'dynamic', got 'raw'"
    assert errors(capsys, ["mdlm", *flags, "elbo"]) == ["--loss_weighting is no flag of this command"]


def test_every_flag_is_explained() -> None:
    for settings in COMMANDS.values():
        assert all(field.description for field in settings.model_fields.values())


def test_both_spellings_and_switches() -> None:
    spaced = parse("udlm", ["--train_file", "a", "b", "--eps", "0.5", "--packing", "--exclude_mask_from_uniform"])
    joined = parse("udlm", ["--train_file=a", "--train_file=b", "--eps=0.5", "--packing"])
    assert isinstance(spaced, UDLMConfig) and spaced == joined
    assert spaced.train_file == [Path("a"), Path("b")] and spaced.exclude_mask_from_uniform
    plain = parse("udlm", ["--train_file=a", "--no-exclude_mask_from_uniform"])
    assert isinstance(plain, UDLMConfig) and not plain.exclude_mask_from_uniform and not plain.packing


def test_the_environment_is_never_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_LENGTH=9\n")
    monkeypatch.chdir(tmp_path)
    for name, value in (("SEED", "3"), ("seed", "3"), ("OUTPUT_DIR", "elsewhere"), ("PACKING", "true")):
        monkeypatch.setenv(name, value)
    config = parse("mdlm", ["--train_file", "a"])
    assert config.model_fields_set == {"train_file"}


@pytest.mark.parametrize(("settings", "output_dir"), OWN)
def test_defaults_are_the_schedulers(settings: type[TrainingConfig], output_dir: str) -> None:
    config = settings(train_file=[Path("a")])  # type: ignore[call-arg]
    assert config.output_dir == Path(output_dir)
    parameters = inspect.signature(TokenDiffusionScheduler.__init__).parameters
    options = config.scheduler_options()
    assert options.pop("forward_process") == config.process
    assert options and options == {name: parameters[name].default for name in options}
