"""The network that a run trains: what it is told of the time, and that its folder says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.tiny import PROCESSES, tiny_tokenizer
from token_diffusion import ParameterError, TokenDiffusionForMaskedLM, sample_block
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.networks.denoiser import MaskedLMDenoiser
from token_diffusion.text import OPEN, decode, encode
from trainer.__main__ import main, parse
from trainer.config import TrainingConfig
from trainer.run.model import build_model, build_tokenizer

COMMANDS = dict(zip(PROCESSES, ("mdlm", "udlm", "hybrid"), strict=True))
SIZES = "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=48,cond_dim=16"


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("\n".join(["w1 w2 w3 w4", "w5 w6 w1", "w2 w4 w8 w16 w32"] * 10))
    return file


def flags(tokenizer_folder: Path, overrides: str = "", **options: Any) -> list[str]:
    options = {
        "config_name": "token-diffusion",
        "config_overrides": SIZES + overrides,
        "tokenizer_name": tokenizer_folder,
        "train_file": "text.txt",
        "max_length": 16,
    } | options
    return [f"--{name}={value}" for name, value in options.items() if value is not None]


def built(process: str, tokenizer_folder: Path, overrides: str = "", **options: Any) -> TokenDiffusionForMaskedLM:
    config = parse(COMMANDS[process], flags(tokenizer_folder, overrides, **options))
    assert isinstance(config, TrainingConfig)
    model = build_model(config, tiny_tokenizer())
    assert isinstance(model, TokenDiffusionForMaskedLM)
    return model


def test_each_process_tells_the_time_as_its_paper_does(tokenizer_folder: Path) -> None:
    told = {process: built(process, tokenizer_folder).config.time_conditioning for process in PROCESSES}
    assert told == {"absorbing": "none", "uniform": "sigma", "hybrid": "t"}
    assert built("absorbing", tokenizer_folder, ",time_conditioning=t").config.time_conditioning == "t"
    assert built("uniform", tokenizer_folder, ",time_conditioning=none").config.time_conditioning == "none"
    with pytest.raises(ParameterError, match="time_conditioning must be none or t for the hybrid process"):
        built("hybrid", tokenizer_folder, ",time_conditioning=sigma")
    with pytest.raises(ParameterError, match="time_conditioning must be one of none, t, sigma, got 'beta'"):
        built("uniform", tokenizer_folder, ",time_conditioning=beta")


def test_sigma_is_that_of_the_run(tokenizer_folder: Path, tmp_path: Path) -> None:
    """From the schedule's own flags, for a new network and for one that goes on with another schedule."""
    config = built("uniform", tokenizer_folder, alpha_schedule="geometric", sigma_max=9.0).config
    assert (config.alpha_schedule, config.sigma_min, config.sigma_max) == ("geometric", 1e-4, 9.0)
    with pytest.raises(ParameterError, match="config_overrides must leave eps to its own flag"):
        built("uniform", tokenizer_folder, ",eps=0.1")
    built("uniform", tokenizer_folder).save_pretrained(tmp_path)
    start: dict[str, Any] = {
        "config_name": None,
        "config_overrides": None,
        "model_name_or_path": tmp_path,
        "eps": 0.01,
    }
    parsed = parse("udlm", flags(tokenizer_folder, **start))
    assert isinstance(parsed, TrainingConfig)
    model = build_model(parsed, tiny_tokenizer())
    assert (model.config.time_conditioning, model.config.eps) == ("sigma", 0.01)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_run_leaves_a_folder_that_samples(process: str, tokenizer_folder: Path, text_file: Path) -> None:
    output = text_file.parent / "run"
    options: dict[str, Any] = {"train_file": text_file, "output_dir": output, "max_train_steps": 3, "ema_decay": 0.9}
    assert main([COMMANDS[process], *flags(tokenizer_folder, **options), "--validation_split_percentage=20"]) == 0
    checkpoint = load_checkpoint(output / "final")
    assert isinstance(checkpoint.denoiser, MaskedLMDenoiser) and checkpoint.denoiser.gathers
    assert checkpoint.process == process
    timed = [name for name, _ in checkpoint.model.named_parameters() if "modulation" in name or "gate." in name]
    assert bool(timed) == (process != "absorbing")
    moved = [name for name in timed if checkpoint.model.get_parameter(name).any()]
    assert moved == timed
    sequences = sample_block(checkpoint.denoiser, checkpoint.scheduler, seq_len=8, num_inference_steps=4).sequences
    assert sequences.shape == (1, 8) and not bool((sequences == checkpoint.tokenizer.mask_token_id).any())


def test_a_mask_that_is_added_takes_the_space_before_it(tmp_path: Path) -> None:
    """Where words hold the space before them, or a hole that is filled with " good" would leave two."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["Hello good world, hello good day"] * 3, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(tmp_path)
    made = build_tokenizer(parse_training(tmp_path))
    ids = encode(made, seq_len=None, template="Hello [MASK] world")
    (good,) = made(" good", add_special_tokens=False)["input_ids"]
    assert ids.count(OPEN) == 1
    assert decode(made, [good if id == OPEN else id for id in ids]) == "Hello good world"


def parse_training(tokenizer_folder: Path) -> TrainingConfig:
    config = parse("mdlm", flags(tokenizer_folder, output_dir=tokenizer_folder / "run"))
    assert isinstance(config, TrainingConfig)
    return config
