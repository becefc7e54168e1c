"""Several processes, sharded or not, train what one does with as many examples a step, and go on where they stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from tests.workplaces import make_workplace
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.errors import ParameterError
from trainer.accelerator import check_launch
from trainer.output.checkpoints import saved_steps
from trainer.output.journal import read
from trainer.output.resume import read_tensors

ROOT = Path(__file__).parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
LINES = ["the cat sat on the mat", "a dog ran", "the dog sat on a mat", "the cat ran to the dog and sat"]
NO_DROPOUT = "hidden_dropout_prob=0,attention_probs_dropout_prob=0"
FNET = "hidden_size=32,num_hidden_layers=2,intermediate_size=64"
TINY = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=64"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workplace(tmp_path_factory.mktemp("distributed"), LINES * 20, vocab_size=290)


def command(launcher: list[str], workplace: Path, name: str, *switches: str, **changes: object) -> list[str]:
    options: dict[str, object] = {
        "train_file": workplace / "text.txt",
        "validation_file": workplace / "text.txt",
        "tokenizer_name": workplace / "tokenizer",
        "output_dir": workplace / name,
        "config_name": "bert",
        "config_overrides": f"{TINY},{NO_DROPOUT}",
        "max_length": 16,
        "max_train_steps": 4,
        "lr_warmup_steps": 1,
        "lr_scheduler": "constant_with_warmup",
        "learning_rate": 3e-3,
        "checkpointing_steps": 2,
        "logging_steps": 1,
        "ema_decay": 0.9,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
    }
    flags = [f"--{name}={value}" for name, value in {**options, **changes}.items()]
    return [sys.executable, *launcher, "mdlm", *flags, *switches]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}


def launch(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stderr


def losses(folder: Path) -> dict[int, float]:
    return {record["step"]: record["nelbo"] for record in read(folder / "history.jsonl") if "nelbo" in record}


@pytest.fixture(scope="module")
def alone(workplace: Path) -> Path:
    """The run of one process with twice the batch."""
    launch(command(["-m", "trainer"], workplace, "alone", per_device_train_batch_size=8))
    return workplace / "alone"


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        [*TORCHRUN, "-m", "trainer"],
        [
            "-m",
            "accelerate.commands.launch",
            "--config_file=trainer/configs/cpu.yaml",
            "--main_process_port=0",
            "-m",
            "trainer",
        ],
        [*TORCHRUN, "tests/sharded_run.py"],
    ],
    ids=["torchrun", "accelerate", "sharded"],
)
def test_two_processes_are_one_with_twice_the_batch(
    launcher: list[str], workplace: Path, alone: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    launch(command(launcher, workplace, name))
    together = workplace / name
    assert losses(together).keys() == losses(alone).keys() == {1, 2, 3, 4}
    assert losses(together) == pytest.approx(losses(alone), rel=1e-5)
    for folder in ("checkpoint-2", "final"):
        expected, found = (load_file(run / folder / "model.safetensors") for run in (alone, together))
        assert expected.keys() == found.keys()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=2e-5)
    assert load_checkpoint(together / "final").model.config.architectures == ["BertForMaskedLM"]
    first, last = (json.loads((run / "final" / "config.json").read_text()) for run in (alone, together))
    assert first == last


@pytest.mark.slow
def test_two_processes_are_told_the_labels_that_one_is(workplace: Path) -> None:
    rows = [{"text": line, "kind": number % 2} for number, line in enumerate(LINES * 5)]
    (workplace / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told: dict[str, object] = {"label_column": "kind", "label_dropout": 0.3, "config_name": "token-diffusion"}
    told |= dict.fromkeys(("train_file", "validation_file"), workplace / "rows.jsonl") | {"config_overrides": TINY}
    launch(command(["-m", "trainer"], workplace, "told", **told, per_device_train_batch_size=8))
    launch(command([*TORCHRUN, "-m", "trainer"], workplace, "told-2", **told))
    assert losses(workplace / "told-2") == pytest.approx(losses(workplace / "told"), rel=1e-5)
    one, two = (load_file(workplace / name / "final" / "model.safetensors") for name in ("told", "told-2"))
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stored", "sharded", "streamed"])
def test_two_processes_go_on_bit_for_bit(name: str, workplace: Path) -> None:
    """With dropout, for which each process has its own generator."""
    launcher = [*TORCHRUN, *(["tests/sharded_run.py"] if name == "sharded" else ["-m", "trainer"])]
    changes: dict[str, object] = {"config_overrides": TINY, "num_validation_samples": int(name != "sharded")}
    if name == "streamed":
        changes |= {"shuffle_buffer_size": 20}
    switches = ["--streaming"] if name == "streamed" else []
    name += " whole"
    launch(command(launcher, workplace, name, *switches, **changes))
    resumed = workplace / f"{name} resumed"
    shutil.copytree(workplace / name / "checkpoint-2", resumed / "checkpoint-2")
    log = launch(command(launcher, workplace, resumed.name, "--resume_from_checkpoint=latest", *switches, **changes))
    assert "at step 2 of 4" in log
    for part in ("model", "ema"):
        here, there = (read_tensors(run / "checkpoint-4")[part] for run in (resumed, workplace / name))
        assert all(torch.equal(here[key], there[key]) for key in there)
    generators = read_tensors(resumed / "checkpoint-4")["random"]
    assert len(generators) == 2 and not torch.equal(generators[0]["torch"], generators[1]["torch"])


@pytest.mark.slow
@pytest.mark.parametrize("script", [["-m", "trainer"], ["tests/sharded_run.py"]], ids=["whole", "sharded"])
def test_models_with_parameters_that_nothing_reads(script: list[str], workplace: Path) -> None:
    """ESM's contact head never gets a gradient, which the other processes would wait for."""
    changes = {"config_name": "esm", "config_overrides": f"{TINY},{NO_DROPOUT}"}
    name = f"esm {script[-1]}".replace("/", " ")
    launch(command(["-m", "trainer"], workplace, f"{name} alone", **changes, per_device_train_batch_size=8))
    log = launch(command([*TORCHRUN, *script], workplace, name, **changes))
    assert log.count("parameters of the model have no part in its logits: frozen") == 1
    assert losses(workplace / name) == pytest.approx(losses(workplace / f"{name} alone"), rel=1e-5)
    expected, found = (load_file(workplace / each / "final" / "model.safetensors") for each in (f"{name} alone", name))
    assert expected.keys() == found.keys() and "esm.contact_head.regression.weight" in found
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=2e-5)
    for folder in ("checkpoint-4", "final"):
        shutil.rmtree(workplace / name / folder)
    launch(command([*TORCHRUN, *script], workplace, name, "--resume_from_checkpoint=latest", **changes))
    again = load_file(workplace / name / "final" / "model.safetensors")
    assert all(torch.equal(again[key], found[key]) for key in found)


@pytest.mark.slow
@pytest.mark.parametrize("script", [["-m", "trainer"], ["tests/sharded_run.py"]], ids=["whole", "sharded"])
def test_rows_of_a_network_that_sees_padding_go_by_length_in_all_processes(script: list[str], workplace: Path) -> None:
    """The processes have rows of other lengths, so one would make more passes than the other, and wait for it for ever."""
    changes = {"config_name": "fnet", "config_overrides": f"{FNET},hidden_dropout_prob=0"}
    name = f"fnet {script[-1]}".replace("/", " ")
    log = launch(command(["-m", "trainer"], workplace, f"{name} alone", **changes, per_device_train_batch_size=8))
    assert "the network sees padding" in log
    launch(command([*TORCHRUN, *script], workplace, name, **changes))
    assert losses(workplace / name) == pytest.approx(losses(workplace / f"{name} alone"), rel=1e-5)
    expected, found = (load_file(workplace / each / "final" / "model.safetensors") for each in (f"{name} alone", name))
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_a_gradient_that_is_not_finite_in_one_process_stops_all(sharded: bool, workplace: Path) -> None:
    name = f"poisoned{' sharded' * sharded}"
    launched = command([*TORCHRUN, "tests/poisoned_run.py"], workplace, name)
    variables = {**environment(), **({"SHARDED": "1"} if sharded else {})}
    done = subprocess.run(launched, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode != 0
    message = "the gradient is inf at step 3: stopped, nothing was saved for this step"
    assert done.stderr.count(message) == 2, done.stderr[-5000:]
    assert saved_steps(workplace / name) == [2] and not (workplace / name / "final").exists()


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_one_checkpoint(workplace: Path) -> None:
    folder = workplace / "signalled"
    changes = {"max_train_steps": 100_000, "checkpointing_steps": 100_000}
    with (workplace / "log").open("w") as log:
        launched = command([*TORCHRUN, "-m", "trainer"], workplace, folder.name, **changes)
        run = subprocess.Popen(launched, cwd=ROOT, env=environment(), stderr=log)
        deadline = time.monotonic() + 120
        while not losses(folder) and time.monotonic() < deadline:
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=60) != 0
    (step,) = saved_steps(folder)
    assert f"SIGTERM: stopped after step {step}" in (workplace / "log").read_text()
    load_checkpoint(folder / f"checkpoint-{step}")
    assert len(read_tensors(folder / f"checkpoint-{step}")["random"]) == 2


def test_the_configurations_are_accelerates(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, fsdp = (load_config_from_file(str(ROOT / "trainer" / "configs" / f"{name}.yaml")) for name in ("cpu", "fsdp"))
    assert (cpu.distributed_type, cpu.use_cpu, cpu.num_processes) == ("MULTI_GPU", True, 2)
    assert fsdp.distributed_type == "FSDP" and fsdp.fsdp_config["fsdp_version"] == 2


@pytest.mark.parametrize(
    ("variables", "rule"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "distributed_type must be FSDP to shard"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "fsdp_version must be 2"),
    ],
)
def test_ways_of_sharding_that_are_not_known_are_refused(
    variables: dict[str, str], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_launch()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ParameterError, match=rule):
        check_launch()
