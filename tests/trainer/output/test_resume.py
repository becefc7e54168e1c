"""A run that is killed and resumed ends as one that never stopped; no checkpoint is ever half there."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training_runs import Result, forked
from tests.workplaces import make_workplace
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.errors import ParameterError
from trainer.__main__ import main
from trainer.output import checkpoints, resume
from trainer.output.checkpoints import saved_steps, tidy
from trainer.output.resume import random_state, read_facts, read_tensors, set_random_state

LINES = ["the cat sat on the mat", "a dog ran", "the dog sat on a mat", "the cat ran to the dog and sat"]
LATEST = "--resume_from_checkpoint=latest"
# Dropout is on, as BERT has it by default.
OPTIONS: dict[str, object] = {
    "config_name": "bert",
    "config_overrides": "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=64",
    "max_length": 16,
    "max_train_steps": 10,
    "lr_warmup_steps": 2,
    "learning_rate": 3e-3,
    "checkpointing_steps": 3,
    "ema_decay": 0.9,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "logging_steps": 4,
}
# Calls of the second checkpoint, of step 6: those of the first are one lower.
MOMENTS: dict[str, tuple[str, int, str]] = {
    "in a step": ("trainer.run.learner:Learner._move", 8, "before"),
    "before a save": ("trainer.run.saving:save_checkpoint", 2, "before"),
    "with half a state": ("torch:save", 2, "torn"),
    "before the name": ("pathlib:Path.rename", 2, "before"),
    "with the name": ("pathlib:Path.rename", 2, "after"),
    "before the first save": ("trainer.run.saving:save_checkpoint", 1, "before"),
    "before the last save": ("trainer.run.saving:save_checkpoint", 4, "before"),
    "before final": ("trainer.run.saving:save_checkpoint", 5, "before"),
}
# After the last step: while it draws samples or validates, and while it writes final/.
FINISHING: dict[signal.Signals, tuple[str, int, str]] = {
    signal.SIGTERM: ("trainer.run.train:Run._sample", 1, "before"),
    signal.SIGINT: ("pathlib:Path.rename", 5, "before"),
}
DELAYS = (0.3,)  # seconds; where in the run they fall differs from machine to machine, and must not matter


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `text.txt`, `other.txt` and a `tokenizer` trained on the first."""
    folder = make_workplace(tmp_path_factory.mktemp("resume"), LINES * 20, vocab_size=290)
    (folder / "other.txt").write_text("\n".join(reversed(LINES * 20)) + "\n")
    return folder


def arguments(
    workplace: Path, output_dir: Path, *switches: str, command: str = "mdlm", **changes: object
) -> list[str]:
    files = {"train_file": workplace / "text.txt", "tokenizer_name": workplace / "tokenizer", "output_dir": output_dir}
    options = {**OPTIONS, **files, **changes}
    return [command, *(f"--{name}={value}" for name, value in options.items() if value is not None), *switches]


@pytest.fixture(scope="module")
def killed(workplace: Path) -> dict[str, list[Result]]:
    """By the name of a folder in `workplace`, the runs into it: one cut short, then one that resumes."""
    cuts: dict[str, dict[str, Any]] = {name: {"kill_at": moment} for name, moment in MOMENTS.items()}
    cuts |= {f"{delay} s": {"kill_after": delay} for delay in DELAYS}
    for number in (signal.SIGTERM, signal.SIGINT):
        cuts[number.name] = {"kill_at": MOMENTS["in a step"], "signal": number}
        cuts[f"{number.name} at the end"] = {"kill_at": FINISHING[number], "signal": number}
    runs: dict[str, list[dict[str, Any]]] = {"whole": [{"arguments": arguments(workplace, workplace / "whole")}]}
    for name, cut in cuts.items():
        folder = workplace / name
        resumed = {"arguments": arguments(workplace, folder, LATEST)}
        runs[name] = [{"arguments": arguments(workplace, folder), **cut}, resumed]
    workers: dict[str, Any] = {"dataloader_num_workers": 2}
    kill = {"kill_at": MOMENTS["in a step"]}
    runs["workers"] = [
        {"arguments": arguments(workplace, workplace / "workers", **workers), **kill},
        {"arguments": arguments(workplace, workplace / "workers", LATEST, **workers)},
    ]
    results = iter(forked([run for each in runs.values() for run in each]))
    return {name: [next(results) for _ in each] for name, each in runs.items()}


def contents(folder: Path) -> dict[str, bytes]:
    """What matters of a saved folder; its card and its history tell speeds and command lines."""
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json", "tokenizer.json")}


@pytest.mark.parametrize("name", [*MOMENTS, *(f"{delay} s" for delay in DELAYS), "workers"])
def test_killed_and_resumed_is_never_stopped_bit_for_bit(
    name: str, workplace: Path, killed: dict[str, list[Result]]
) -> None:
    cut, resumed = killed[name]
    assert cut.exit == -signal.SIGKILL or name.endswith(" s"), cut.stderr
    assert resumed.exit == 0, resumed.stderr
    assert contents(workplace / name / "final") == contents(workplace / "whole" / "final")
    assert not [path for path in (workplace / name).iterdir() if path.name.startswith(".")]
    for step in (3, 6, 9, 10):
        here, there = (read_tensors(workplace / run / f"checkpoint-{step}") for run in (name, "whole"))
        assert here["ema_steps"] == there["ema_steps"] == step
        for part in ("model", "ema"):
            assert all(torch.equal(here[part][key], there[part][key]) for key in there[part])
        moments, expected = (state["optimizer"]["state"] for state in (here, there))
        assert all(torch.equal(moments[i]["exp_avg_sq"], expected[i]["exp_avg_sq"]) for i in expected)
        load_checkpoint(workplace / name / f"checkpoint-{step}")
    starts_anew = name == "before the first save"
    assert ("starting anew" in resumed.stderr) == starts_anew or name.endswith(" s")


def test_a_resumed_run_reports_what_an_unstopped_one_does(workplace: Path, killed: dict[str, list[Result]]) -> None:
    for step in (6, 9):
        here, there = (read_facts(workplace / run / f"checkpoint-{step}") for run in ("in a step", "whole"))
        assert here.num_tokens == there.num_tokens > 0
        for value in ("loss", "nelbo", "tokens"):
            assert here.meter[value] == there.meter[value]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_saves_after_the_step_and_ends(
    name: str, code: int, workplace: Path, killed: dict[str, list[Result]]
) -> None:
    stopped, resumed = killed[name]
    assert stopped.exit == code, stopped.stderr
    last = stopped.stderr.strip().splitlines()[-1]
    assert last == f"{name}: stopped after step 8; checkpoint-8 is saved, --resume_from_checkpoint latest goes on"
    assert "Traceback" not in stopped.stderr and not (workplace / name / "final" / ".new").exists()
    assert resumed.exit == 0 and "at step 8 of 10" in resumed.stderr
    assert saved_steps(workplace / name) == [3, 6, 8, 9, 10]
    assert contents(workplace / name / "final") == contents(workplace / "whole" / "final")


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_after_the_last_step_loses_nothing(
    name: str, code: int, workplace: Path, killed: dict[str, list[Result]]
) -> None:
    stopped, resumed = killed[f"{name} at the end"]
    assert stopped.exit == code and "Traceback" not in stopped.stderr, stopped.stderr
    last = stopped.stderr.strip().splitlines()[-1]
    assert last == f"{name}: stopped after step 10; checkpoint-10 is saved, --resume_from_checkpoint latest goes on"
    assert resumed.exit == 0 and "at step 10 of 10" in resumed.stderr
    folder = workplace / f"{name} at the end"
    assert saved_steps(folder) == [3, 6, 9, 10] and not list(folder.glob(".*"))
    assert contents(folder / "final") == contents(workplace / "whole" / "final")


@pytest.fixture
def stopped(workplace: Path, tmp_path: Path, killed: dict[str, list[Result]]) -> Path:
    """An output_dir with checkpoint-3 of ten steps."""
    shutil.copytree(workplace / "whole" / "checkpoint-3", tmp_path / "run" / "checkpoint-3")
    return tmp_path / "run"


def refused(capsys: pytest.CaptureFixture[str], flags: list[str]) -> str:
    assert main(flags) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"seed": 1}, "seed must be 0 as in the run that wrote checkpoint-3, got 1"),
        ({"per_device_train_batch_size": 8}, "per_device_train_batch_size must be 4 as in"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps must be 2 as in"),
        ({"learning_rate": 1e-3}, "learning_rate must be 0.003 as in"),
        ({"ema_decay": 0}, "ema_decay must be 0.9 as in"),
        ({"max_train_steps": 20}, "max_train_steps must be 10 as in"),
        ({"estimator": "count"}, "estimator must be 'time' as in"),
        ({"time_sampling": "independent"}, "time_sampling must be 'stratified' as in"),
        ({"alpha_schedule": "cosine"}, "alpha_schedule must be 'log_linear' as in"),
        ({"command": "udlm"}, "the process must be absorbing as in the run that wrote checkpoint-3, got 'uniform'"),
    ],
)
def test_flags_that_would_change_the_run_are_refused(
    changes: dict[str, Any], rule: str, stopped: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, arguments(workplace, stopped, LATEST, **changes)).startswith(rule)
    assert saved_steps(stopped) == [3]


def test_other_text_is_refused_and_the_same_elsewhere_is_not(
    stopped: Path, workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = arguments(workplace, stopped, LATEST, train_file=workplace / "other.txt")
    rule = "train_file must hold the same text as in the run that wrote checkpoint-3, got ['other.txt']"
    assert refused(capsys, flags) == rule
    shutil.copy(workplace / "text.txt", tmp_path / "moved.txt")
    free: dict[str, Any] = {"logging_steps": 1, "checkpointing_steps": 5, "eval_steps": 3, "dataloader_num_workers": 1}
    flags = arguments(workplace, stopped, LATEST, train_file=tmp_path / "moved.txt", **free)
    assert main([*flags, f"--validation_file={workplace / 'other.txt'}"]) == 0
    assert contents(stopped / "final") == contents(workplace / "whole" / "final")


def test_more_steps_are_possible_where_the_learning_rate_does_not_depend_on_them(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"lr_scheduler": "constant_with_warmup", "checkpointing_steps": 2}
    assert main(arguments(workplace, tmp_path / "long", max_train_steps=6, **options)) == 0
    assert main(arguments(workplace, tmp_path / "short", max_train_steps=4, **options)) == 0
    assert main(arguments(workplace, tmp_path / "short", LATEST, max_train_steps=6, **options)) == 0
    assert contents(tmp_path / "short" / "final") == contents(tmp_path / "long" / "final")
    flags = arguments(workplace, tmp_path / "short", LATEST, max_train_steps=5, **options)
    assert refused(capsys, flags) == "max_train_steps must be at least 6, the steps done, got 5"


def test_latest_without_a_checkpoint_starts_anew_and_says_so(
    workplace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(arguments(workplace, tmp_path, LATEST, max_train_steps=1)) == 0
    assert f"no checkpoint in {tmp_path}: starting anew" in caplog.text


def test_latest_does_not_replace_a_final_that_has_no_checkpoint(
    workplace: Path, tmp_path: Path, killed: dict[str, list[Result]], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(workplace / "whole" / "final", tmp_path / "final")
    line = refused(capsys, arguments(workplace, tmp_path, LATEST, max_train_steps=1))
    assert line.startswith("output_dir must hold no other run")
    assert contents(tmp_path / "final") == contents(workplace / "whole" / "final")


@pytest.mark.parametrize("asked", ["nothing", "checkpoint-3"])
def test_folders_that_are_no_checkpoints(
    asked: str, stopped: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stopped / "checkpoint-3" / resume.FACTS).write_text("{")
    flags = arguments(workplace, stopped, f"--resume_from_checkpoint={stopped / asked}")
    assert refused(capsys, flags).startswith("resume_from_checkpoint must be")


def test_a_state_with_code_in_it_is_not_run(
    stopped: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (stopped / "sprung",)

    torch.save({"model": Trap()}, stopped / "checkpoint-3" / resume.TENSORS)
    flags = arguments(workplace, stopped, LATEST)
    assert refused(capsys, flags).startswith("resume_from_checkpoint must be a checkpoint with a readable")
    assert not (stopped / "sprung").exists()


def test_another_runs_folder_is_not_mixed_with(
    stopped: Path, workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, arguments(workplace, stopped)).startswith("output_dir must hold no other run")
    elsewhere = f"--resume_from_checkpoint={workplace / 'whole' / 'checkpoint-6'}"
    assert refused(capsys, arguments(workplace, stopped, elsewhere)).startswith("output_dir must hold no other run")
    assert main(arguments(workplace, tmp_path / "fork", elsewhere)) == 0
    assert contents(tmp_path / "fork" / "final") == contents(workplace / "whole" / "final")
    assert refused(capsys, arguments(workplace, stopped, "--overwrite_output_dir", LATEST)).startswith(
        "overwrite_output_dir must be left out with resume_from_checkpoint"
    )
    overwrite = arguments(workplace, stopped, "--overwrite_output_dir", checkpointing_steps=8)
    assert main(overwrite) == 0
    assert saved_steps(stopped) == [8, 10] and (stopped / "final").is_dir()


def test_the_oldest_checkpoint_goes_when_the_new_one_is_whole(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def prune(output_dir: Path, limit: int | None, best: int | None) -> None:
        seen.append(saved_steps(output_dir))
        checkpoints.prune(output_dir, limit, best)

    monkeypatch.setattr("trainer.run.saving.prune", prune)
    limits: dict[str, Any] = {"checkpointing_steps": 1, "max_train_steps": 4, "checkpoints_total_limit": 2}
    assert main(arguments(workplace, tmp_path, **limits)) == 0
    assert seen[:4] == [[1], [1, 2], [1, 2, 3], [2, 3, 4]]
    assert saved_steps(tmp_path) == [3, 4]


def test_what_a_killed_run_left_half_done_is_tidied(tmp_path: Path) -> None:
    for name in ("checkpoint-2", ".checkpoint-4.new", ".checkpoint-6.old", ".checkpoint-2.old", ".final.new", ".mine"):
        (tmp_path / name).mkdir()
    tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine", "checkpoint-2", "checkpoint-6"]


def test_too_little_space_is_said_before_training(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage._replace(free=2_500_000))
    line = refused(capsys, arguments(workplace, tmp_path))
    # 35,548 parameters as float32, in the model to serve, that to train, two moments and the average: 0.71 MB.
    assert line.startswith("output_dir must have 4 MB free for 4 checkpoints and final of 1 MB each, and not 2 MB")
    assert list(tmp_path.glob("checkpoint*")) == []
    assert main(arguments(workplace, tmp_path, checkpoints_total_limit=1)) == 0


def test_a_full_disk_leaves_the_checkpoint_before_and_one_line(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save, calls = torch.save, 0

    def full(value: object, path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(value, path)

    monkeypatch.setattr(torch, "save", full)
    assert main(arguments(workplace, tmp_path)) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"{tmp_path / 'checkpoint-6'} could not be saved at step 6 ([Errno 28] No space left")
    assert line.endswith("checkpoint-3 is the last whole one")
    assert not list(tmp_path.glob(".*"))
    monkeypatch.undo()
    assert main(arguments(workplace, tmp_path, LATEST)) == 0
    assert saved_steps(tmp_path) == [3, 6, 9, 10]


def test_a_quota_ends_the_run_with_one_line(
    workplace: Path, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's file fits within the limit on the size of files, that of the training state does not."""
    size = (stopped / "checkpoint-3" / resume.TENSORS).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        code = main(arguments(workplace, stopped, LATEST))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "checkpoint-6 could not be saved at step 6" in line and line.endswith("checkpoint-3 is the last whole one")
    assert sorted(path.name for path in stopped.glob("*checkpoint*")) == ["checkpoint-3"]


@pytest.fixture
def generators() -> Iterator[None]:
    before = random_state()
    yield
    set_random_state(before)


def test_the_states_of_the_generators_come_back(generators: None) -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), random.gauss(0, 1), float(np.random.standard_normal())

    draw()
    state = random_state()
    drawn = draw()
    draw()
    set_random_state(state)
    assert draw() == drawn


def test_flags_that_are_not_there_yet_have_their_defaults(stopped: Path, workplace: Path) -> None:
    """A checkpoint from before a flag was invented was made with what is now its default, whatever kind of value that is."""
    path = stopped / "checkpoint-3" / resume.FACTS
    facts = json.loads(path.read_text())
    asked = {flag.removeprefix("--").partition("=")[0] for flag in arguments(workplace, stopped, LATEST)}
    facts["flags"] = {name: value for name, value in facts["flags"].items() if name in asked | resume.COUNTED}
    assert not {"estimator", "lora_target_modules"} & set(facts["flags"])
    path.write_text(json.dumps(facts))
    assert main(arguments(workplace, stopped, LATEST)) == 0


def test_space_counts_what_is_there_and_what_will_go(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.config import MDLMConfig

    usage = shutil.disk_usage(stopped)

    def needs(free: int, first_step: int = 3, **changes: Any) -> bool:
        """Whether `free` units of one checkpoint's size do."""
        monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage._replace(free=free))
        config = MDLMConfig(
            train_file=[Path("a")], output_dir=stopped, max_train_steps=10, checkpointing_steps=3, **changes
        )
        try:
            checkpoints.check_space(config, 1, first_step)
        except ParameterError:
            return False
        return True

    assert not needs(3) and needs(4)  # checkpoint-6, checkpoint-9, checkpoint-10, final
    assert not needs(0, first_step=10) and needs(1, first_step=10)  # final alone
    assert not needs(1, checkpoints_total_limit=1) and needs(2, checkpoints_total_limit=1)
