"""The network that a run trains: what it is told of the time, and that its folder says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.fake_hub import Repository, hub_in_place
from tests.tiny import PROCESSES, tiny_model, tiny_tokenizer, word_tokenizer
from token_diffusion import ParameterError, TokenDiffusionForMaskedLM, sample_block
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.networks.denoiser import MaskedLMDenoiser
from token_diffusion.text import OPEN, decode, encode
from trainer.__main__ import main, parse
from trainer.config import TrainingConfig
from trainer.output.provenance import hub_model
from trainer.run.model import build_model, build_tokenizer
from trainer.run.proof import prove_saving

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
    with pytest.raises(ParameterError, match="time_conditioning must be one of none, t, sigma, zero, got 'beta'"):
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


OLD = 64
"""Token ids of the models that are resized below."""
ESM = {"pad_token_id": 0, "mask_token_id": 4, "position_embedding_type": "absolute", "emb_layer_norm_before": True}
MOBILE = {"embedding_size": 16, "true_hidden_size": 16, "intra_bottleneck_size": 16}


def resized(folder: Path, tokenizer: PreTrainedTokenizerBase, tokenizer_folder: Path) -> PreTrainedModel:
    options: dict[str, Any] = {"config_name": None, "config_overrides": None, "model_name_or_path": folder}
    config = parse("mdlm", flags(tokenizer_folder, **options))
    assert isinstance(config, TrainingConfig)
    return build_model(config, tokenizer)


@torch.inference_mode()
def logits(model: PreTrainedModel) -> Tensor:
    tokens = torch.arange(5, 17).view(2, 6)
    return model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits


@pytest.mark.parametrize("num_words", [40, 70])
@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("roberta", {"tie_word_embeddings": False}),
        ("roberta", {"tie_word_embeddings": True}),
        ("camembert", {"tie_word_embeddings": False}),
        ("xlm-roberta", {"tie_word_embeddings": False}),
        ("xlm-roberta-xl", {"tie_word_embeddings": False}),
        ("data2vec-text", {"tie_word_embeddings": False}),
        ("bert", {"tie_word_embeddings": False}),
        ("bert", {"tie_word_embeddings": True}),
        ("albert", {"tie_word_embeddings": False}),
        ("mpnet", {"tie_word_embeddings": False}),
        ("fnet", {"tie_word_embeddings": False}),
        ("mobilebert", {"tie_word_embeddings": False, **MOBILE}),
        ("esm", {"tie_word_embeddings": False, **ESM}),
        ("esm", {"tie_word_embeddings": True, **ESM}),
        ("modernbert", {"tie_word_embeddings": False}),
    ],
)
def test_a_resized_model_keeps_its_logits_and_is_saved_whole(
    architecture: str, options: dict[str, Any], num_words: int, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """Cut to the tokenizer's ids or made longer; a bias of its own beside the head goes with it."""
    model = tiny_model(architecture, OLD, **options)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.shape == (OLD,):
            parameter.data = torch.randn(OLD, generator=generator)
    model.save_pretrained(tmp_path / "model")
    before = logits(model)
    tokenizer = word_tokenizer(num_words)
    after = resized(tmp_path / "model", tokenizer, tokenizer_folder)
    prove_saving(after, tmp_path / "proof", "model_name_or_path", architecture, 16)
    kept = min(OLD, len(tokenizer))
    assert logits(after).shape == (2, 6, len(tokenizer))
    torch.testing.assert_close(logits(after)[..., :kept], before[..., :kept], rtol=0, atol=1e-4)


def test_a_model_that_cannot_be_resized_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    tiny_model("ibert", OLD).save_pretrained(tmp_path)
    with pytest.raises(ParameterError) as caught:
        resized(tmp_path, tiny_tokenizer(), tokenizer_folder)
    rule = "model_name_or_path must be a model whose 64 token ids can be resized to the tokenizer's 50 ("
    assert str(caught.value).startswith(rule) and str(caught.value).endswith(f", got {str(tmp_path)!r}")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"vocab_size": 60}, "hold weights as its config.json describes them ("),
        ({"num_hidden_layers": 1}, "hold no part of a network that its config.json does not know ("),
        ({"model_type": "nonsense"}, "hold a readable masked language model ("),
    ],
)
def test_a_folder_to_start_from_is_refused_in_one_line(
    changes: dict[str, Any], rule: str, tokenizer_folder: Path, text_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = text_file.parent / "model"
    tiny_model("bert", 50).save_pretrained(folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    options: dict[str, Any] = {"config_name": None, "config_overrides": None, "model_name_or_path": folder}
    options |= {"train_file": text_file}
    capfd.readouterr()
    assert main(["mdlm", *flags(tokenizer_folder, **options, output_dir=text_file.parent / "run")]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"model_name_or_path must {rule}") and err.count("\n") == 1


def test_a_run_from_an_untied_model_of_another_vocabulary_can_be_served(
    tokenizer_folder: Path, text_file: Path
) -> None:
    folder, output = text_file.parent / "model", text_file.parent / "run"
    tiny_model("roberta", OLD, tie_word_embeddings=False).save_pretrained(folder)
    options: dict[str, Any] = {"config_name": None, "config_overrides": None, "model_name_or_path": folder}
    options |= {"train_file": text_file, "output_dir": output, "max_train_steps": 2, "ema_decay": 0.9}
    assert main(["mdlm", *flags(tokenizer_folder, **options)]) == 0
    checkpoint = load_checkpoint(output / "final")
    assert logits(checkpoint.model).shape == (2, 6, 50)
    assert sorted(path.name for path in output.iterdir() if path.name.startswith(".")) == []


def test_what_is_asked_of_the_hub_is_the_models_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not that of another tokenizer; and everything is kept where the flag says."""
    tiny_model("bert", 50).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "words")
    common = ["--train_file=a", "--max_length=16", f"--cache_dir={tmp_path / 'kept'}"]
    asked = ["--model_name_or_path=ann/model", "--model_revision=v2"], ["--model_name_or_path=ann/model@v2"]
    with hub_in_place(monkeypatch, tmp_path / "cache") as hub:
        hub.repositories["ann/model"] = Repository.of(tmp_path / "model", revisions=("v2",))
        hub.repositories["words"] = Repository.of(tmp_path / "words")
        for model in asked:
            config = parse("mdlm", [*common, *model, "--tokenizer_name=words", "--attn_implementation=eager"])
            assert isinstance(config, TrainingConfig)
            network = build_model(config, build_tokenizer(config))
            assert network.config.vocab_size == 50 and network.config._attn_implementation == "eager"
            assert hub_model(config.model_name_or_path) == "ann/model"
        unknown = parse("mdlm", [*common, "--model_name_or_path=ann/model"])
        assert isinstance(unknown, TrainingConfig)
        with pytest.raises(ParameterError, match=r"model_name_or_path must be .* \(it has no revision 'main'\)"):
            build_model(unknown, tiny_tokenizer())
    assert not (tmp_path / "cache").exists()


def test_how_attention_is_computed(tokenizer_folder: Path) -> None:
    options: dict[str, Any] = {
        "config_name": "bert",
        "config_overrides": "hidden_size=32,num_hidden_layers=1,num_attention_heads=2",
    }
    for name in ("eager", "sdpa"):
        config = parse("mdlm", flags(tokenizer_folder, **options, attn_implementation=name))
        assert isinstance(config, TrainingConfig)
        assert build_model(config, tiny_tokenizer()).config._attn_implementation == name
    config = parse("mdlm", flags(tokenizer_folder, **options, attn_implementation="no_such"))
    assert isinstance(config, TrainingConfig)
    with pytest.raises(ParameterError, match="attn_implementation must be one that the model has here") as wrong:
        build_model(config, tiny_tokenizer())
    assert "\n" not in str(wrong.value)


def test_a_tokenizer_without_words_is_refused(tmp_path: Path) -> None:
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({})), **special).save_pretrained(tmp_path)
    with pytest.raises(ParameterError, match="tokenizer_name must name a tokenizer that has tokens besides control"):
        build_tokenizer(parse_training(tmp_path))
