"""The training loop on a tiny corpus: what it learns and saves, and that the split into batches does not matter."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch._dynamo import OptimizedModule
from transformers import AutoModelForMaskedLM

from tests.tiny import tiny_model
from tests.workplaces import make_workplace
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.facts import Facts, Frame
from token_diffusion.text import encode
from trainer.__main__ import main, parse
from trainer.accelerator import make_accelerator
from trainer.config import TrainingConfig
from trainer.data.corpus import load_corpus
from trainer.data.feed import StoredFeed
from trainer.data.noising import Batches, Draw
from trainer.data.tokenizer import build_tokenizer
from trainer.output.checkpoints import saved_steps
from trainer.output.resume import random_state
from trainer.run.learner import freeze_unused
from trainer.run.train import Run, TrainingError, train

LINES = ["the cat sat on the mat", "a dog ran", "the dog sat on a mat", "the cat ran to the dog and sat"]
TINY = (
    "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=64,"
    "hidden_dropout_prob=0,attention_probs_dropout_prob=0"
)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `text.txt` and a `tokenizer` trained on it."""
    return make_workplace(tmp_path_factory.mktemp("trainer"), LINES * 20, vocab_size=290)


def flags(workplace: Path, output_dir: Path, **changes: object) -> list[str]:
    """The command line of a tiny run from scratch."""
    options: dict[str, object] = {
        "train_file": workplace / "text.txt",
        "tokenizer_name": workplace / "tokenizer",
        "config_name": "bert",
        "config_overrides": TINY,
        "output_dir": output_dir,
        "max_length": 16,
        "max_train_steps": 4,
        "lr_warmup_steps": 0,
        "lr_scheduler": "constant",
        "learning_rate": 3e-3,
        "report_to": "none",
    }
    return [f"--{name}={value}" for name, value in {**options, **changes}.items() if value is not None]


def configure(command: str, workplace: Path, output_dir: Path, *switches: str, **changes: object) -> TrainingConfig:
    config = parse(command, [*flags(workplace, output_dir, **changes), *switches])
    assert isinstance(config, TrainingConfig)
    return config


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForMaskedLM.from_pretrained(folder).state_dict()


LATEST = ["--resume_from_checkpoint=latest"]
PROCESSES = ["mdlm", "udlm", "hybrid"]
LOSSES: list[tuple[str, dict[str, object]]] = [("mdlm", {}), ("udlm", {})]
LOSSES += [("hybrid", {"loss_weighting": weighting}) for weighting in ("elbo", "clip", "dynamic")]


@pytest.mark.parametrize("command", PROCESSES)  # hybrid with its default, the dynamic weights
def test_training_lowers_the_validation_bound(command: str, workplace: Path, tmp_path: Path) -> None:
    changes = {"validation_split_percentage": 20, "per_device_train_batch_size": 16, "save_dtype": "bfloat16"}
    before = train(configure(command, workplace, tmp_path / "a", "--packing", **changes, learning_rate=1e-12))
    after = train(configure(command, workplace, tmp_path / "b", "--packing", **changes, max_train_steps=80))
    assert before is not None and after is not None
    # Untrained, it guesses uniformly over the 289 tokens that can be; the corpus has far less entropy.
    assert before.nelbo == pytest.approx(math.log(289), rel=0.25)
    assert after.nelbo < 0.7 * before.nelbo
    assert after.num_times == 8
    assert after.num_chars == pytest.approx(0.2 * len((workplace / "text.txt").read_text()), abs=1)
    checkpoint = load_checkpoint(tmp_path / "b" / "final")
    assert checkpoint.scheduler.config["vocab_size"] == len(checkpoint.tokenizer)
    card = (tmp_path / "b" / "final" / "README.md").read_text()
    assert f"{after.nelbo:.4f}" in card and "text.txt" in card
    assert ("`dynamic` weights" in card) == (command == "hybrid")


class Ends(Batches):
    """Draws at both ends of time."""

    def draws(self) -> Iterator[Draw]:
        for position, t in enumerate([1e-300, 1e-12, 1 - 1e-15, 1.0]):
            yield Draw(position, t, position, position)


@pytest.mark.parametrize(("command", "changes"), LOSSES)
def test_steps_at_the_ends_of_time_are_finite(
    command: str, changes: dict[str, object], workplace: Path, tmp_path: Path
) -> None:
    config = configure(command, workplace, tmp_path, **changes)
    run = Run(config, make_accelerator(config), load_corpus(config))
    assert isinstance(run.feed, StoredFeed)
    for batch in run.feed.loader(run.feed.examples(run.feed.training), Ends(batch_size=2)):
        loss, nelbo, count, *_ = run._optimize([batch])
        assert math.isfinite(loss) and math.isfinite(nelbo) and count > 0
        assert loss == nelbo or config.weighting != "elbo"
    assert all(bool(parameter.isfinite().all()) for parameter in run.model.parameters())


def test_the_weighting_changes_what_is_trained_and_not_what_is_reported(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step: logged.append(values))
    for weighting in ("elbo", "dynamic"):
        train(configure("hybrid", workplace, tmp_path / weighting, max_train_steps=1, loss_weighting=weighting))
    elbo, dynamic = logged
    assert elbo["train/nelbo"] == pytest.approx(dynamic["train/nelbo"]) and "train/loss" not in elbo
    assert 0 < dynamic["train/loss"] < 0.9 * dynamic["train/nelbo"]
    layer = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(weights(tmp_path / "elbo" / "final")[layer], weights(tmp_path / "dynamic" / "final")[layer])


def test_accumulation_equals_one_larger_batch(workplace: Path, tmp_path: Path) -> None:
    """Unpacked lines differ in length, so a mean of means would show, and padding differs between the two runs."""
    seen = []
    whole = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_train_steps": 3}
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_train_steps": 3}
    for process, times in (("mdlm", "stratified"), ("udlm", "stratified"), ("mdlm", "independent")):
        folder = tmp_path / process / times
        train(configure(process, workplace, folder / "whole", **whole, time_sampling=times))
        train(configure(process, workplace, folder / "parts", **parts, time_sampling=times))
        expected, found = weights(folder / "whole" / "final"), weights(folder / "parts" / "final")
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=2e-5)
        seen.append(expected)
    assert not all(torch.equal(seen[0][name], seen[2][name]) for name in seen[0])


def test_same_seed_same_weights_and_another_seed_others(workplace: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(configure("mdlm", workplace, tmp_path / name, seed=seed, max_train_steps=2))
    a, b, c = (weights(tmp_path / name / "final") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_moving_average_is_what_is_saved(workplace: Path, tmp_path: Path) -> None:
    """An average lies between the first and the last weights, in the same proportion for every weight."""
    common = {"max_train_steps": 2, "checkpointing_steps": 1}
    for name, decay in (("raw", 0), ("ema", 0.999)):
        train(configure("mdlm", workplace, tmp_path / name, ema_decay=decay, **common))
    raw, ema = ([weights(tmp_path / name / f"checkpoint-{step}") for step in (1, 2)] for name in ("raw", "ema"))
    weight = "bert.encoder.layer.0.output.dense.weight"
    moved = (ema[1][weight] - ema[0][weight]).abs().max()
    assert 0 < moved < (raw[1][weight] - raw[0][weight]).abs().max() * 2
    assert not torch.equal(ema[1][weight], raw[1][weight])
    start, stop = ema[0][weight], raw[1][weight]
    share = (ema[1][weight] - stop) / (start - stop)
    near = (start - stop).abs() > 1e-4
    same = torch.full_like(share[near], share[near].median().item())
    torch.testing.assert_close(share[near], same, rtol=0.05, atol=0.01)


def test_checkpoints_come_on_time_and_load(workplace: Path, tmp_path: Path) -> None:
    train(configure("hybrid", workplace, tmp_path, max_train_steps=5, checkpointing_steps=2, p_uniform=0.2))
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == ["checkpoint-2", "checkpoint-4", "checkpoint-5", "final"]
    for folder in folders:
        checkpoint = load_checkpoint(folder)
        assert checkpoint.process == "hybrid" and checkpoint.scheduler.config["p_uniform"] == 0.2
        assert (folder / "README.md").is_file()


def test_a_model_of_another_vocabulary_is_resized(workplace: Path, tmp_path: Path) -> None:
    train(configure("mdlm", workplace, tmp_path / "first", max_train_steps=1))
    build_tokenizer((workplace / "text.txt").read_text().splitlines(), 270).save_pretrained(tmp_path / "small")
    changes = {"config_name": None, "config_overrides": None, "model_name_or_path": tmp_path / "first" / "final"}
    train(configure("mdlm", workplace, tmp_path, tokenizer_name=tmp_path / "small", max_train_steps=1, **changes))
    checkpoint = load_checkpoint(tmp_path / "final")
    assert len(checkpoint.tokenizer) == 270
    assert checkpoint.model.config.vocab_size == checkpoint.scheduler.config["vocab_size"] == 270
    assert "started from `final`" in (tmp_path / "final" / "README.md").read_text()


def test_a_loss_that_is_not_finite_stops_and_names_the_step(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure("mdlm", workplace, tmp_path)
    run = Run(config, make_accelerator(config), load_corpus(config))
    with torch.no_grad():
        next(run.model.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        run.fit()
    assert not (tmp_path / "final").exists()


def test_a_gradient_that_is_not_finite_stops_and_changes_nothing(workplace: Path, tmp_path: Path) -> None:
    """Though the loss is finite: an optimizer step would spoil the weights, and checkpoints would follow."""
    config = configure("mdlm", workplace, tmp_path, ema_decay=0.9, checkpointing_steps=1, checkpoints_total_limit=1)
    run = Run(config, make_accelerator(config), load_corpus(config))
    weight = run.learner.bare.get_parameter("bert.encoder.layer.0.output.dense.weight")
    handle = weight.register_hook(lambda gradient: gradient * math.inf if run.step == 3 else None)
    with pytest.raises(TrainingError, match=r"the gradient is (inf|nan) at step 3: stopped, nothing was saved"):
        run.fit()
    handle.remove()
    saved = torch.load(tmp_path / "checkpoint-2" / "training_state.pt")
    now = run.learner.bare.state_dict()
    assert all(torch.equal(now[name], saved["model"][name]) for name in now)
    assert run.learner.lr_scheduler.last_epoch == 2 and run.learner.ema is not None
    assert run.learner.ema.optimization_step == 2
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["checkpoint-2"]


def test_parameters_without_a_part_in_the_logits_are_frozen() -> None:
    """For several processes alone, and without a trace in the model's mode or in the random generators."""
    for training in (True, False):
        model = tiny_model("esm", pad_token_id=0, mask_token_id=4).train(training)
        before = random_state()
        freeze_unused(model)
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        assert frozen == {"esm.contact_head.regression.weight", "esm.contact_head.regression.bias"}
        assert model.training == training and all(parameter.grad is None for parameter in model.parameters())
        after = random_state()
        assert torch.equal(after["torch"], before["torch"]) and torch.equal(after["numpy"][1], before["numpy"][1])
    model = tiny_model("bert")
    freeze_unused(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_one_process_freezes_nothing(workplace: Path, tmp_path: Path) -> None:
    config = configure("mdlm", workplace, tmp_path, config_name="esm")
    run = Run(config, make_accelerator(config), load_corpus(config))
    assert all(parameter.requires_grad for parameter in run.learner.bare.parameters())


def test_tensorboard_follows_by_default(workplace: Path, tmp_path: Path) -> None:
    train(configure("mdlm", workplace, tmp_path, max_train_steps=1, report_to=None))
    assert list((tmp_path / "token-diffusion").rglob("events.out.tfevents.*"))


def test_command_line_trains(workplace: Path, tmp_path: Path) -> None:
    assert main(["mdlm", *flags(workplace, tmp_path / "run", max_train_steps=1)]) == 0
    card = (tmp_path / "run" / "final" / "README.md").read_text()
    assert "python -m trainer mdlm" in card and "--max_train_steps=1" in card
    assert "Not validated" in card


def test_the_count_estimator_trains(workplace: Path, tmp_path: Path) -> None:
    changes = {"validation_split_percentage": 20, "per_device_train_batch_size": 16, "max_train_steps": 80}
    after = train(configure("mdlm", workplace, tmp_path, "--packing", **changes, estimator="count"))
    assert after is not None and after.nelbo < 0.7 * math.log(289)


def test_gradient_checkpointing_changes_no_weight(workplace: Path, tmp_path: Path) -> None:
    """With dropout, whose draws have to be the same when the activations are computed again."""
    dropout = {"config_overrides": TINY.replace("dropout_prob=0", "dropout_prob=0.1"), "max_train_steps": 3}
    train(configure("mdlm", workplace, tmp_path / "kept", **dropout))
    train(configure("mdlm", workplace, tmp_path / "again", "--gradient_checkpointing", **dropout))
    expected, found = weights(tmp_path / "kept" / "final"), weights(tmp_path / "again" / "final")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch._inductor's own imports
def test_a_compiled_model_trains_and_is_saved_as_any_other(workplace: Path, tmp_path: Path) -> None:
    common = {"max_train_steps": 3, "checkpointing_steps": 2, "ema_decay": 0.9}
    train(configure("mdlm", workplace, tmp_path / "plain", "--packing", **common))
    AcceleratorState._reset_state(True)  # otherwise the second accelerator of a process is as the first was
    run, compiled = tmp_path / "compiled", ["--packing", "--torch_compile"]
    config = configure("mdlm", workplace, run, *compiled, **common)
    run.mkdir()
    assert isinstance(Run(config, make_accelerator(config), load_corpus(config)).model, OptimizedModule)
    train(config)
    for folder in ("checkpoint-2", "final"):
        expected, found = (load_file(tmp_path / run / folder / "model.safetensors") for run in ("plain", "compiled"))
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=2e-5)
    for folder in ("checkpoint-3", "final"):
        shutil.rmtree(run / folder)
    train(configure("mdlm", workplace, run, *compiled, *LATEST, **common))
    again = load_file(run / "final" / "model.safetensors")
    assert all(torch.equal(again[name], found[name]) for name in found)
    AcceleratorState._reset_state(True)


def test_final_has_the_type_that_was_asked_for(workplace: Path, tmp_path: Path) -> None:
    train(configure("mdlm", workplace, tmp_path, max_train_steps=1, save_dtype="bfloat16", checkpointing_steps=1))
    for folder, dtype in (("checkpoint-1", torch.float32), ("final", torch.bfloat16)):
        assert AutoModelForMaskedLM.from_pretrained(tmp_path / folder, dtype="auto").dtype == dtype
        assert {tensor.dtype for tensor in load_file(tmp_path / folder / "model.safetensors").values()} == {dtype}


def test_mixed_precision_lasts_through_logs_validations_and_checkpoints(workplace: Path, tmp_path: Path) -> None:
    """Whoever looks at the bare model in between must not take the autocast off."""
    seen: list[tuple[bool, torch.dtype]] = []
    AcceleratorState._reset_state(True)
    changes: dict[str, object] = {"max_train_steps": 3, "checkpointing_steps": 1, "eval_steps": 1, "logging_steps": 1}
    changes["validation_split_percentage"] = 20
    config = configure("mdlm", workplace, tmp_path, mixed_precision="bf16", **changes)
    run = Run(config, make_accelerator(config), load_corpus(config))
    layer = run.learner.bare.get_submodule("bert.encoder.layer.0.intermediate.dense")
    layer.register_forward_hook(lambda module, arguments, output: seen.append((module.training, output.dtype)))
    run.fit()
    run.finish()
    AcceleratorState._reset_state(True)
    assert {training for training, _ in seen} == {True, False}
    assert {dtype for _, dtype in seen} == {torch.bfloat16}


@pytest.mark.parametrize("packing", [False, True])
def test_the_folder_carries_the_frame_that_was_trained(workplace: Path, tmp_path: Path, packing: bool) -> None:
    """Whoever samples from it shows the network what it was trained on."""
    options = flags(workplace, tmp_path / "run", max_train_steps=1, num_validation_samples=1)
    assert main(["mdlm", *options, "--packing" if packing else "--no-packing"]) == 0
    checkpoint = load_checkpoint(tmp_path / "run" / "final")
    tokenizer, facts = checkpoint.tokenizer, checkpoint.facts
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert facts == Facts(Frame() if packing else Frame((cls,), (sep,)), known=True)
    assert checkpoint.forbidden == tuple(sorted({tokenizer.pad_token_id, cls, sep, tokenizer.mask_token_id}))
    trained = tokenizer("the cat sat")["input_ids"]
    framed = encode(tokenizer, seq_len=None, prompt="the cat sat", frame=facts.frame)
    assert framed == (trained[1:-1] if packing else trained)


def test_the_first_examples_alone(workplace: Path, tmp_path: Path) -> None:
    """As if the text had ended there: the same run, and the same validation, characters included."""
    lines = (workplace / "text.txt").read_text().splitlines(keepends=True)
    (tmp_path / "short.txt").write_text("".join(lines[:10]))
    (tmp_path / "shorter.txt").write_text("".join(lines[:3]))
    long = configure(
        "mdlm",
        workplace,
        tmp_path / "a",
        max_train_samples=10,
        max_eval_samples=3,
        validation_file=workplace / "text.txt",
    )
    short = configure(
        "mdlm", workplace, tmp_path / "b", train_file=tmp_path / "short.txt", validation_file=tmp_path / "shorter.txt"
    )
    first, second = train(long), train(short)
    assert first == second and first is not None and first.num_sequences == 3
    a, b = (weights(tmp_path / name / "final") for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert "10 sequences" in (tmp_path / "a" / "final" / "README.md").read_text()


def test_validation_in_batches_of_their_own(workplace: Path, tmp_path: Path) -> None:
    one = train(configure("mdlm", workplace, tmp_path / "a", validation_split_percentage=20, max_train_steps=1))
    changes = {"per_device_eval_batch_size": 3, "validation_split_percentage": 20, "max_train_steps": 1}
    other = train(configure("mdlm", workplace, tmp_path / "b", **changes))
    assert one is not None and other is not None and one.nelbo == pytest.approx(other.nelbo, rel=1e-5)


def test_epochs_that_max_train_steps_overrules_are_told(
    workplace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(configure("mdlm", workplace, tmp_path, max_train_steps=2, num_train_epochs=7))
    assert "num_train_epochs has no effect: max_train_steps is given" in caplog.text
    assert saved_steps(tmp_path) == [2]


def test_epochs_and_their_steps_are_one_run(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of so many epochs goes on by its steps, and by no other number; 80 lines are 10 steps an epoch."""
    epochs = {"max_train_steps": None, "num_train_epochs": 0.5, "checkpointing_steps": 2, "lr_scheduler": "linear"}
    assert main(["mdlm", *flags(workplace, tmp_path, **epochs)]) == 0
    assert saved_steps(tmp_path) == [2, 4, 5]
    steps = epochs | {"num_train_epochs": None, "max_train_steps": 5}
    assert main(["mdlm", *flags(workplace, tmp_path, **steps), *LATEST]) == 0
    capsys.readouterr()
    assert main(["mdlm", *flags(workplace, tmp_path, **epochs | {"num_train_epochs": 1}), *LATEST]) == 2
    problem = "max_train_steps must be 5 as in the run that wrote checkpoint-5, got 10"
    assert capsys.readouterr().err.splitlines()[-1] == problem


@pytest.mark.parametrize("switches", [(), ("--gradient_checkpointing",)])
def test_bfloat16_on_a_cpu_learns_what_float32_does(
    switches: tuple[str, ...], workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With attention by products, on the way back, too."""
    if torch.accelerator.is_available():
        pytest.skip("there is a device")
    calls: list[int] = []
    softmax = torch.nn.functional.softmax

    def counted(scores: torch.Tensor, dim: int) -> torch.Tensor:
        calls.append(1)
        return softmax(scores, dim)

    monkeypatch.setattr("trainer.run.attention.F.softmax", counted)
    found = {}
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(True)
        changes = {"mixed_precision": precision, "max_train_steps": 30, "validation_split_percentage": 20}
        found[precision] = train(configure("mdlm", workplace, tmp_path / precision, "--packing", *switches, **changes))
        assert bool(calls) == (precision == "bf16")
    AcceleratorState._reset_state(True)
    assert len(calls) == 30 * (2 if switches else 1)
    assert found["no"] is not None and found["bf16"] is not None
    assert found["bf16"].nelbo == pytest.approx(found["no"].nelbo, rel=0.02)
