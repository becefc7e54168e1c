"""Folders: written whole, read back by us and by plain transformers and diffusers, and refused in words when broken."""

from __future__ import annotations

import builtins
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerBase

from tests.tiny import ARCHITECTURES, MAX_POSITIONS, byte_tokenizer, save_tiny, tiny_model, tiny_tokenizer
from token_diffusion import ParameterError, TokenDiffusionScheduler
from token_diffusion.checkpoint import load_checkpoint, load_tokenizer, max_positions, save_checkpoint
from token_diffusion.networks.denoiser import MaskedLMDenoiser
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run

VOCAB, MASK = 50, 4


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint") / "good", "hybrid")


@pytest.fixture
def bad(good: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(good, tmp_path / "bad")


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_saved_is_what_is_loaded(architecture: str, tmp_path: Path) -> None:
    model, tokenizer = tiny_model(architecture, VOCAB), tiny_tokenizer()
    scheduler = TokenDiffusionScheduler(
        VOCAB, MASK, forward_process="uniform", alpha_schedule="geometric", sigma_max=9.0
    )
    save_checkpoint(tmp_path / "final", model, tokenizer, scheduler, card="# A model\n")
    checkpoint = load_checkpoint(tmp_path / "final")
    assert (checkpoint.name, checkpoint.path, checkpoint.process) == ("final", tmp_path / "final", "uniform")
    assert (checkpoint.device, checkpoint.dtype) == ("cpu", "float32")
    assert isinstance(checkpoint.denoiser, MaskedLMDenoiser)
    assert checkpoint.denoiser.gathers and checkpoint.denoiser.model is checkpoint.model
    assert type(checkpoint.model) is type(model) and not checkpoint.model.training
    assert _settings(checkpoint.scheduler) == _settings(scheduler)
    assert checkpoint.tokenizer("w3 w7")["input_ids"] == tokenizer("w3 w7")["input_ids"]
    assert (tmp_path / "final" / "README.md").read_text() == "# A model\n"
    _assert_same_weights(checkpoint.model, model)


def _assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def _settings(scheduler: TokenDiffusionScheduler) -> dict[str, Any]:
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}


def test_a_folder_saved_again_does_not_tell_how_it_was_loaded(good: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(good)
    save_checkpoint(tmp_path / "again", checkpoint.model, checkpoint.tokenizer, checkpoint.scheduler)
    names = (good / "tokenizer_config.json", tmp_path / "again" / "tokenizer_config.json")
    before, after = (json.loads(name.read_text()) for name in names)
    assert after == before and "local_files_only" not in after


def test_plain_transformers_and_diffusers_load_it_too(good: Path) -> None:
    checkpoint = load_checkpoint(good, name="mine")
    assert checkpoint.name == "mine"
    _assert_same_weights(AutoModelForMaskedLM.from_pretrained(good), checkpoint.model)
    scheduler = TokenDiffusionScheduler.from_pretrained(good)
    assert _settings(scheduler) == _settings(checkpoint.scheduler)
    assert scheduler.config.forward_process == "hybrid"
    assert AutoTokenizer.from_pretrained(good).mask_token_id == MASK


def test_whoever_serves_may_read_it(good: Path) -> None:
    files = list(good.iterdir())
    assert {"model.safetensors", "config.json", "scheduler_config.json"} <= {file.name for file in files}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o644}


def test_saving_again_replaces_the_folder_whole(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "deep" / "er" / "final", "absorbing")
    (folder / "stale.txt").write_text("from another run")
    save_tiny(folder, "uniform")
    assert not (folder / "stale.txt").exists()
    assert load_checkpoint(folder).process == "uniform"
    assert [path.name for path in folder.parent.iterdir()] == ["final"]


def test_a_save_that_fails_leaves_the_old_folder_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny(tmp_path / "final", "absorbing")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerBase, "save_pretrained", _disk_full)
        with pytest.raises(OSError, match="no space left"):
            save_tiny(folder, "hybrid")
        with pytest.raises(OSError, match="no space left"):
            save_tiny(tmp_path / "other", "hybrid")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert load_checkpoint(folder).process == "absorbing"
    assert not (tmp_path / "other").exists()
    save_tiny(folder, "hybrid")
    assert load_checkpoint(folder).process == "hybrid"


def _disk_full(*arguments: Any, **keywords: Any) -> None:
    raise OSError("no space left")


def test_dtypes(good: Path) -> None:
    checkpoint = load_checkpoint(good, dtype="bfloat16")
    assert checkpoint.dtype == "bfloat16" and isinstance(checkpoint.denoiser, MaskedLMDenoiser)
    assert checkpoint.denoiser.gathers
    with pytest.raises(ParameterError, match="dtype must be one of float32, float16, bfloat16, int8, got 'int4'"):
        load_checkpoint(good, dtype="int4")


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(good: Path, device: str) -> None:
    with pytest.raises(ParameterError, match="device must be available") as caught:
        load_checkpoint(good, device=device)
    assert (caught.value.name, caught.value.value) == ("device", device)


def _missing(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _holding(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def _edited(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / name, **changes)


def _cut(size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:size])

    return change


def _without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def _with_body_alone(folder: Path) -> None:
    AutoModel.from_pretrained(folder).save_pretrained(folder)


def _with_larger_tokenizer(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["w45", "w46"])
    tokenizer.save_pretrained(folder)


GPT2 = json.dumps({"model_type": "gpt2", "vocab_size": VOCAB, "n_embd": 32, "n_layer": 1, "n_head": 2})
UNREADABLE_TOKENIZER = "hold a readable tokenizer ("
UNREADABLE_MODEL = "hold a readable masked language model ("


@pytest.mark.parametrize(
    ("breaking", "rule"),
    [
        (_missing("scheduler_config.json"), "be a folder that holds scheduler_config.json"),
        (_missing("config.json"), "be a folder that holds config.json"),
        (_missing("model.safetensors"), UNREADABLE_MODEL),
        (_missing("tokenizer.json"), UNREADABLE_TOKENIZER),
        (_holding("scheduler_config.json", '{"vocab'), "hold a readable token diffusion scheduler ("),
        (_holding("scheduler_config.json", "{}"), "hold a readable token diffusion scheduler ("),
        (_edited("scheduler_config.json", vocab_size="50"), "hold a readable token diffusion scheduler ("),
        (_holding("config.json", '{"model'), "hold a readable "),
        (_holding("config.json", "{}"), UNREADABLE_MODEL),
        (_holding("config.json", GPT2), UNREADABLE_MODEL),
        (_holding("tokenizer.json", '{"model'), UNREADABLE_TOKENIZER),
        (_holding("tokenizer_config.json", '{"mask'), UNREADABLE_TOKENIZER),
        (_cut(1000), UNREADABLE_MODEL),
        (_cut(-100), UNREADABLE_MODEL),
        (_edited("config.json", hidden_size=64), UNREADABLE_MODEL),
    ],
)
def test_a_broken_folder_is_refused_in_words(bad: Path, breaking: Callable[[Path], None], rule: str) -> None:
    breaking(bad)
    with pytest.raises(ParameterError) as caught:
        load_checkpoint(bad)
    error = caught.value
    assert (error.name, error.value) == ("checkpoint_path", str(bad))
    assert error.rule.startswith(rule)
    assert "\n" not in str(error)


def test_a_path_that_is_no_folder_is_refused(good: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", good / "config.json"):
        with pytest.raises(ParameterError) as caught:
            load_checkpoint(path)
        assert str(caught.value) == f"checkpoint_path must be an existing folder, got {str(path)!r}"


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (
            _edited("scheduler_config.json", vocab_size=51),
            "checkpoint_path must have a model as wide as the scheduler's vocab_size 51, got 50",
        ),
        (
            _edited("scheduler_config.json", mask_token_id=5),
            "checkpoint_path must have a tokenizer with the scheduler's mask_token_id 5 in {bad}, got 4",
        ),
        (
            _edited("scheduler_config.json", forward_process="gaussian"),
            "checkpoint_path must hold a readable token diffusion scheduler "
            "(forward_process must be one of absorbing, uniform, hybrid, got 'gaussian'), got {bad!r}",
        ),
        (
            _edited("scheduler_config.json", alpha_shedule="cosine"),
            "checkpoint_path must hold a readable token diffusion scheduler "
            "(alpha_shedule must be a setting of the scheduler (alpha_schedule?), got 'cosine'), got {bad!r}",
        ),
        (_edited("tokenizer_config.json", mask_token=None), "tokenizer must have a mask token, got {bad!r}"),
    ],
)
def test_parts_that_do_not_fit_are_refused(bad: Path, breaking: Callable[[Path], None], message: str) -> None:
    breaking(bad)
    with pytest.raises(ParameterError) as caught:
        load_checkpoint(bad)
    assert str(caught.value) == message.format(bad=str(bad))


@pytest.mark.parametrize(
    "breaking",
    [
        pytest.param(_without_tokenizer, id="no tokenizer"),
        pytest.param(_with_larger_tokenizer, id="a tokenizer larger than the model"),
        pytest.param(_with_body_alone, id="no head"),
        pytest.param(_edited("config.json", num_hidden_layers=3), id="a layer without weights"),
    ],
)
def test_gaps_that_transformers_fills_in_silence_are_refused(bad: Path, breaking: Callable[[Path], None]) -> None:
    """With an empty tokenizer, and with random numbers; ids beyond the model would fail at the first prompt that has one."""
    breaking(bad)
    with pytest.raises(ParameterError):
        load_checkpoint(bad)


def test_no_code_of_the_folder_is_run(bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody is asked whether it should be."""
    questions: list[str] = []

    def yes(question: str = "") -> str:
        questions.append(question)
        return "y"

    monkeypatch.setattr(builtins, "input", yes)
    classes = {"AutoConfig": "code.Config", "AutoModelForMaskedLM": "code.Model"}
    edit(bad / "config.json", model_type="foreign", auto_map=classes)
    (bad / "code.py").write_text(f"open({str(bad / 'it ran')!r}, 'w').close()\n")
    with pytest.raises(ParameterError):
        load_checkpoint(bad)
    assert not (bad / "it ran").exists()
    assert questions == []


def test_a_tokenizer_alone(good: Path, tmp_path: Path) -> None:
    assert load_tokenizer(good).mask_token_id == MASK
    with pytest.raises(ParameterError, match="must hold a readable tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("config", "process"),
    [
        (
            {
                "_class_name": "TokenDiffusionScheduler",
                "_diffusers_version": "0.37.0.dev0",
                "num_train_timesteps": 1000,
                "forward_process": "absorbing",
                "alpha_schedule": "log_linear",
                "eps": 0.001,
                "sigma_min": 0.0001,
                "sigma_max": 20.0,
            },
            "absorbing",
        ),
        (
            {
                "_class_name": "TokenDiffusionScheduler",
                "num_train_timesteps": 1000,
                "forward_process": "uniform",
                "exclude_mask_from_uniform": True,
                "alpha_schedule": "cosine",
            },
            "uniform",
        ),
        ({"_class_name": "BlockTokenDiffusionScheduler", "num_train_timesteps": 500, "eps": 0.001}, "absorbing"),
        (
            {
                "_class_name": "HybridTokenDiffusionScheduler",
                "num_train_timesteps": 1000,
                "t_eps": 0.0001,
                "p_uniform": 0.2,
                "gamma": 1.0,
                "clip_noise": 20.0,
            },
            "hybrid",
        ),
        ({"_class_name": "HybridTokenDiffusionScheduler", "num_train_timesteps": 1000}, "hybrid"),
    ],
)
def test_folders_of_the_old_scripts_load_and_sample(tmp_path: Path, config: dict[str, Any], process: str) -> None:
    """As those scripts wrote them: each part by its own save_pretrained, a BERT and its tokenizer."""
    tokenizer = byte_tokenizer()
    vocab_size, mask = len(tokenizer), tokenizer.mask_token_id
    tiny_model(vocab_size=vocab_size).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config |= {"vocab_size": vocab_size, "mask_token_id": mask}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config, indent=2) + "\n")
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.process == process
    steps = 1500 if process == "absorbing" else 10  # beyond num_train_timesteps, where the old sampler left masks
    for block_size in (None, 5):
        parameters = SamplingParameters(12, 2, steps, seed=1, block_size=block_size)
        output = run(checkpoint.denoiser, checkpoint.scheduler, parameters)
        assert output.sequences.shape == (2, 12)
        assert bool(((output.sequences >= 0) & (output.sequences < vocab_size) & (output.sequences != mask)).all())


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("bert", MAX_POSITIONS),
        ("roberta", MAX_POSITIONS - 2),  # its position ids start after the padding's, pad_token_id 1
        ("distilbert", MAX_POSITIONS),
        ("modernbert", MAX_POSITIONS),
        ("albert", MAX_POSITIONS),
        ("electra", MAX_POSITIONS),
    ],
)
def test_the_longest_sequence_is_the_models(architecture: str, expected: int) -> None:
    model = tiny_model(architecture, VOCAB)
    assert max_positions(model) == expected
    tokens = torch.full((1, expected), 7)
    assert model(tokens, attention_mask=torch.ones_like(tokens)).logits.shape == (1, expected, VOCAB)
    if architecture != "modernbert":  # its positions are rotations, which go on
        longer = torch.full((1, expected + 1), 7)
        with pytest.raises((IndexError, RuntimeError)):
            model(longer, attention_mask=torch.ones_like(longer))


def test_a_sequence_beyond_the_positions_is_refused(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save_tiny(tmp_path / "short", "absorbing", "roberta"))
    checkpoint.check_seq_len(MAX_POSITIONS - 2)
    with pytest.raises(ParameterError) as caught:
        checkpoint.check_seq_len(MAX_POSITIONS - 1)
    assert str(caught.value) == "seq_len must be at most 94, the positions of short, got 95"
    assert max_positions(tiny_model("bert", VOCAB, max_position_embeddings=17)) == 17
