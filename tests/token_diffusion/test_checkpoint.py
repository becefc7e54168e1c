"""Folders: written whole, read back by us and by plain transformers and diffusers, and refused in words when broken."""

from __future__ import annotations

import builtins
import errno
import json
import pickle
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerBase

from tests.tiny import ARCHITECTURES, MAX_POSITIONS, byte_tokenizer, save_tiny, tiny_model, tiny_tokenizer
from token_diffusion import ParameterError, TokenDiffusionScheduler
from token_diffusion.__main__ import main
from token_diffusion.checkpoint import load_checkpoint, load_tokenizer, max_positions, open_checkpoint, save_checkpoint
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
    with pytest.raises(
        ParameterError, match="dtype must be one of float32, float16, bfloat16, int8, auto, got 'int4'"
    ):
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


def _with_weights(edit: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    """The file of weights after `edit`, by their names."""

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def _holds(value: float, dtype: torch.dtype = torch.float32) -> Callable[[Path], None]:
    def change(weights: dict[str, Tensor]) -> None:
        for name in weights:
            weights[name] = weights[name].to(dtype)
        weights["bert.encoder.layer.1.output.dense.weight"][3, 5] = value

    return _with_weights(change)


def _pickled(content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(content)

    return change


def _without_a_shard(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 + (name > 'bert.f')}-of-00002.safetensors" for name in weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def _of_bytes(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(b"\xff\xfe\x00")

    return change


GPT2 = json.dumps({"model_type": "gpt2", "vocab_size": VOCAB, "n_embd": 32, "n_layer": 1, "n_head": 2})
TOKENIZER, MODEL = "hold a readable tokenizer (", "hold a readable masked language model ("
CONFIG, SCHEDULER = (
    "hold the configuration of a model that is known here (",
    "hold a readable token diffusion scheduler (",
)
LAYER = "hold no part of a network that its config.json does not know (bert.encoder.layer."
NOT_FINITE = "hold weights that are finite in float32 (bert.encoder.layer.1.output.dense.weight is not)"
SHAPES = "hold weights as its config.json describes them (bert."

BROKEN = {
    "no scheduler": (_missing("scheduler_config.json"), "be a folder that holds scheduler_config.json"),
    "no configuration": (_missing("config.json"), "be a folder that holds config.json"),
    "no weights": (_missing("model.safetensors"), MODEL),
    "no tokenizer": (_missing("tokenizer.json"), TOKENIZER),
    "scheduler cut off": (_holding("scheduler_config.json", '{"vocab'), "hold JSON in scheduler_config.json ("),
    "scheduler a list": (_holding("scheduler_config.json", "[1]"), "hold a JSON object in scheduler_config.json"),
    "scheduler not text": (_of_bytes("scheduler_config.json"), "hold JSON in scheduler_config.json ("),
    "scheduler deep": (_holding("scheduler_config.json", "[" * 10**5), "hold JSON in scheduler_config.json ("),
    "scheduler empty": (_holding("scheduler_config.json", "{}"), "hold a readable token diffusion scheduler ("),
    "another scheduler": (
        _edited("scheduler_config.json", _class_name="DDPMScheduler"),
        SCHEDULER + "_class_name must",
    ),
    "no class": (_edited("scheduler_config.json", _class_name=["x"]), SCHEDULER + "_class_name must"),
    "an unknown setting": (_edited("scheduler_config.json", beta=0.1), SCHEDULER + "beta must"),
    "configuration cut off": (_holding("config.json", '{"model'), "hold JSON in config.json ("),
    "configuration a list": (_holding("config.json", "[]"), "hold a JSON object in config.json"),
    "configuration empty": (_holding("config.json", "{}"), CONFIG),
    "unknown model": (_edited("config.json", model_type="nonsense"), CONFIG),
    "words for numbers": (_edited("config.json", hidden_size="32"), CONFIG),
    "a causal model": (_holding("config.json", GPT2), MODEL),
    "unknown activation": (_edited("config.json", hidden_act="nonsense"), MODEL),
    "tokenizer cut off": (_holding("tokenizer.json", '{"model'), TOKENIZER),
    "tokenizer not text": (_of_bytes("tokenizer.json"), TOKENIZER),
    "its settings cut off": (_holding("tokenizer_config.json", '{"mask'), "hold JSON in tokenizer_config.json ("),
    "weights cut in the header": (_cut(1000), MODEL),
    "weights cut at the end": (_cut(-100), MODEL),
    "weights of no bytes": (_cut(0), MODEL),
    "no tensor at all": (_with_weights(dict.clear), "hold all weights of its model (bert.embeddings."),
    "pickle of something": (_pickled(pickle.dumps(Path("x"))), MODEL),
    "no pickle": (_pickled(b"not a pickle"), MODEL),
    "a shard missing": (_without_a_shard, MODEL),
    "nan": (_holds(torch.nan), NOT_FINITE),
    "inf": (_holds(torch.inf), NOT_FINITE),
    "-inf": (_holds(-torch.inf), NOT_FINITE),
    "inf in float16": (_holds(torch.inf, torch.float16), NOT_FINITE),
    "other width": (_edited("config.json", hidden_size=64), SHAPES),
    "fewer layers": (_edited("config.json", num_hidden_layers=1), LAYER + "1."),
    "no layers": (_edited("config.json", num_hidden_layers=0), LAYER + "0."),
}


@pytest.mark.parametrize(("breaking", "rule"), BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_refused_in_one_line(
    bad: Path, breaking: Callable[[Path], None], rule: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """And whatever the libraries say beside it is not heard."""
    breaking(bad)
    with pytest.raises(ParameterError) as caught:
        load_checkpoint(bad)
    error = caught.value
    assert (error.name, error.value) == ("checkpoint_path", str(bad))
    assert error.rule.startswith(rule)
    capfd.readouterr()
    assert main(["sample", "--checkpoint_path", str(bad)]) == 2
    assert capfd.readouterr() == ("", f"error: {error}\n")


CHEAP = """no scheduler, no configuration, no weights, no tokenizer, scheduler cut off, unknown model, words for numbers,
tokenizer cut off, weights cut in the header, weights cut at the end, weights of no bytes"""


@pytest.mark.parametrize("name", [" ".join(name.split()) for name in CHEAP.split(",")])
def test_what_needs_no_weights_is_found_before_they_are_read(
    bad: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("weights are read")

    monkeypatch.setattr("token_diffusion.checkpoint.loading.read_masked_lm", read)
    opened = open_checkpoint(bad)
    assert (opened.path, opened.scheduler.config.forward_process) == (bad, "hybrid")
    breaking, rule = BROKEN[name]
    breaking(bad)
    with pytest.raises(ParameterError) as caught:
        open_checkpoint(bad)
    assert caught.value.rule.startswith(rule)


@pytest.mark.parametrize("changes", [{"vocab_size": "50"}, {"eps": "small"}, {"p_uniform": None}])
def test_scheduler_settings_of_a_wrong_type_are_refused(bad: Path, changes: dict[str, Any]) -> None:
    edit(bad / "scheduler_config.json", **changes)
    with pytest.raises(ParameterError):
        load_checkpoint(bad)


@pytest.mark.parametrize(
    ("architecture", "there", "changes", "left"),
    [
        ("modernbert", {"mlp_bias": True}, {"mlp_bias": False}, "model.layers.0.mlp.Wi.bias"),
        ("modernbert", {}, {"decoder_bias": False}, "decoder.bias"),
        ("token-diffusion", {"time_conditioning": "t"}, {"time_conditioning": "none"}, "model.blocks.0"),
        ("roberta", {}, {"num_hidden_layers": 1}, "roberta.encoder.layer.1"),
        ("distilbert", {}, {"n_layers": 1}, "distilbert.transformer.layer.1"),
        ("albert", {"num_hidden_groups": 2}, {"num_hidden_groups": 1}, "albert.encoder.albert_layer_groups.1"),
    ],
)
def test_parts_that_the_configuration_lacks_are_refused(
    architecture: str, there: dict[str, Any], changes: dict[str, Any], left: str, tmp_path: Path
) -> None:
    """Without them the logits are others, and nobody is told."""
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process="hybrid")
    save_checkpoint(tmp_path / "x", tiny_model(architecture, VOCAB, **there), tiny_tokenizer(), scheduler)
    load_checkpoint(tmp_path / "x")
    edit(tmp_path / "x" / "config.json", **changes)
    with pytest.raises(
        ParameterError, match=r"hold no part of a network that its config\.json does not know"
    ) as caught:
        load_checkpoint(tmp_path / "x")
    assert left in caught.value.rule


def test_what_no_logit_needs_may_be_left_over(good: Path, bad: Path) -> None:
    """As in the BERT that was released: a pooler, the head for the next sentence, a buffer of old."""

    def add(weights: dict[str, Tensor]) -> None:
        weights["bert.pooler.dense.weight"] = torch.ones(32, 32)
        weights["cls.seq_relationship.weight"] = torch.ones(2, 32)
        weights["bert.embeddings.position_ids"] = torch.arange(MAX_POSITIONS)
        weights["bert.encoder.layer.0.attention.self.rotary_embeddings.inv_freq"] = torch.ones(8)

    _with_weights(add)(bad)
    _assert_same_weights(load_checkpoint(bad).model, load_checkpoint(good).model)


def test_a_bias_of_minus_infinity_forbids_a_token(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "x", "absorbing")

    def forbid(weights: dict[str, Tensor]) -> None:
        weights["cls.predictions.bias"][7:] = -torch.inf

    _with_weights(forbid)(folder)
    checkpoint = load_checkpoint(folder)
    parameters = SamplingParameters(12, 2, 12, seed=1)
    assert int(run(checkpoint.denoiser, checkpoint.scheduler, parameters).sequences.max()) < 7


def test_what_only_float16_cannot_hold_is_refused_in_float16(good: Path, bad: Path) -> None:
    _holds(1e6)(bad)
    load_checkpoint(bad)
    with pytest.raises(ParameterError, match="hold weights that are finite in float16 "):
        load_checkpoint(bad, dtype="float16")
    shutil.rmtree(bad)
    shutil.copytree(good, bad)

    def enlarge(weights: dict[str, Tensor]) -> None:
        weights["cls.predictions.transform.LayerNorm.weight"] *= 6e4

    _with_weights(enlarge)(bad)
    load_checkpoint(bad)
    with pytest.raises(ParameterError, match="hold a network whose logits are numbers in float16, got"):
        load_checkpoint(bad, dtype="float16")


def test_a_folder_that_may_not_be_read_is_refused(bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system says so, wherever it does; the modes of files do not stop whoever is root."""
    with pytest.raises(
        ParameterError, match=r"checkpoint_path must be a folder that can be read \(File name too long: 'xx"
    ):
        load_checkpoint(bad / ("x" * 300))

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for name in ("is_dir", "is_file", "read_bytes", "iterdir", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, refuse)
            with pytest.raises(ParameterError, match=r"be a folder that can be read \(Permission denied: '"):
                load_checkpoint(bad)


@pytest.mark.parametrize(
    "breaking", [_missing("model.safetensors"), _edited("scheduler_config.json", mask_token_id=5)]
)
def test_a_folder_whose_name_has_lines_is_refused_in_one(
    good: Path, tmp_path: Path, breaking: Callable[[Path], None]
) -> None:
    folder = shutil.copytree(good, tmp_path / "one\ntwo")
    assert load_checkpoint(folder).name == "one\ntwo"
    breaking(folder)
    with pytest.raises(ParameterError) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value) and "one\\ntwo" in str(caught.value)


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
            "checkpoint_path must hold a model as wide as the scheduler's vocab_size 51, not 50, got {bad!r}",
        ),
        (
            _edited("config.json", vocab_size=60),
            "checkpoint_path must hold a model as wide as the scheduler's vocab_size 50, not 60, got {bad!r}",
        ),
        (
            _edited("scheduler_config.json", mask_token_id=5),
            "checkpoint_path must hold a tokenizer with the scheduler's mask_token_id 5, not 4, got {bad!r}",
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
