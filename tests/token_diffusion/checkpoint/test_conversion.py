"""Folders that are written anew: the same logits, whole or not at all, and what the user knows better than the folder."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForMaskedLM

from tests.tiny import CHAT_TEMPLATE, chat_tokenizer, save_tiny, tiny_model, tiny_tokenizer
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.__main__ import main
from token_diffusion.checkpoint import load_checkpoint, save_checkpoint
from token_diffusion.checkpoint.adapter import Adapter
from token_diffusion.checkpoint.conversion import convert
from token_diffusion.errors import ParameterError
from token_diffusion.facts import Facts, Frame

Refused = Callable[..., str]
MASK = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "mine", "uniform", "token-diffusion")


@pytest.fixture
def refused(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """What the shell says, in one line and with exit code 2; nothing is left behind."""

    def ask(**flags: object) -> str:
        given = {"checkpoint_path": folder, "output_dir": tmp_path / "new", **flags}
        before = sorted(path.name for path in tmp_path.iterdir())
        capfd.readouterr()
        assert main(["convert", *(f"--{name}={value}" for name, value in given.items())]) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1 and "Traceback" not in err
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        return err.removeprefix("error: ").rstrip("\n")

    return ask


def logits(folder: Path) -> torch.Tensor:
    """Of some tokens at two times, as plain transformers loads it."""
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    timed = {"timesteps": torch.tensor([0.2, 0.9])} if model.config.model_type == "token-diffusion" else {}
    with torch.inference_mode():
        return model(torch.arange(5, 17).view(2, 6), **timed).logits


def dtypes(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)


@pytest.mark.parametrize(("stored", "short"), [("float32", "F32"), ("bfloat16", "BF16"), ("float16", "F16")])
def test_the_type_of_the_weights_is_kept_unless_another_is_asked_for(tmp_path: Path, stored: str, short: str) -> None:
    tokenizer = tiny_tokenizer()
    scheduler = TokenDiffusionScheduler(50, MASK)
    save_checkpoint(tmp_path / "mine", tiny_model().to(getattr(torch, stored)), tokenizer, scheduler)
    made = convert(str(tmp_path / "mine"), tmp_path / "deep" / "new")
    assert dtypes(made) == {short}
    assert torch.equal(logits(made), logits(tmp_path / "mine"))
    assert dtypes(convert(str(made), tmp_path / "again", dtype="float32")) == {"F32"}
    assert not (made / "token_diffusion.json").exists()  # nothing was known of its frame, and nothing is


def test_a_large_one_is_written_in_shards(folder: Path, tmp_path: Path) -> None:
    made = convert(str(folder), tmp_path / "new", max_shard_size="20KB")
    assert len(list(made.glob("model-*.safetensors"))) > 1 and (made / "model.safetensors.index.json").is_file()
    assert torch.equal(logits(made), logits(folder))
    assert load_checkpoint(made).process == "uniform"
    assert {file.stat().st_mode & 0o777 for file in made.iterdir()} == {0o644}


def test_chat_templates_go_along(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = {"default": CHAT_TEMPLATE, "short": "{{ messages[0].content }}"}
    save_tiny(tmp_path / "mine", "absorbing", tokenizer=tokenizer)
    made = load_checkpoint(convert(str(tmp_path / "mine"), tmp_path / "new"))
    assert made.tokenizer.chat_template == tokenizer.chat_template


def test_the_card_says_what_it_was(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: en\nmodel-index: 3\n---\n# Mine\n")
    card = (convert(str(folder), tmp_path / "new") / "README.md").read_text()
    assert "license: mit\n" in card and "language: en\n" in card and "`mine`, a checkpoint, in the layout" in card
    assert "| process | uniform |\n| schedule | log_linear |" in card and str(tmp_path) not in card
    assert "the weights are the same numbers, in float32," in card
    rounded = convert(str(folder), tmp_path / "half", dtype="bfloat16")
    assert "the weights are rounded to bfloat16," in (rounded / "README.md").read_text()
    (folder / "README.md").write_bytes(b"\xff---\nlicense: [")
    assert "license" not in (convert(str(folder), tmp_path / "newer") / "README.md").read_text()


def test_the_card_says_what_samples_from_it(tmp_path: Path) -> None:
    model = tiny_model("token-diffusion", causal_block_size=4)
    save_checkpoint(tmp_path / "blocks", model, tiny_tokenizer(), TokenDiffusionScheduler(50, MASK))
    save_tiny(tmp_path / "gidd", "hybrid", "token-diffusion")
    for name, command in (("blocks", "sample-block"), ("gidd", "sample-hybrid")):
        card = (convert(str(tmp_path / name), tmp_path / f"{name}-new") / "README.md").read_text()
        assert f"python -m token_diffusion {command} --checkpoint_path {name}-new" in card


def test_no_folder_that_holds_something_is_written_to(refused: Refused, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    convert(str(folder), tmp_path / "new")
    for place in (tmp_path / "new", folder, folder / "config.json"):
        assert refused(output_dir=place) == f"output_dir must be new or an empty folder, got {str(place)!r}"
    said = refused(output_dir=folder / "config.json" / "below")
    assert said.startswith("output_dir must be a folder that can be written (")


def test_a_link_stays_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    convert(str(folder), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and load_checkpoint(tmp_path / "real").process == "uniform"
    assert not list(tmp_path.glob(".*"))


def test_of_two_at_once_one_is_refused_and_what_a_killed_one_left_is_replaced(
    refused: Refused, folder: Path, tmp_path: Path
) -> None:
    unfinished = tmp_path / ".new.new"
    unfinished.mkdir()
    (unfinished / "half").write_text("of it")
    opened = os.open(unfinished, os.O_RDONLY)
    fcntl.flock(opened, fcntl.LOCK_EX)
    assert "another process is writing it" in refused()
    assert (unfinished / "half").exists()
    os.close(opened)
    assert not (convert(str(folder), tmp_path / "new") / "half").exists() and not unfinished.exists()


def test_a_place_that_is_taken_while_it_reads_is_left(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*arguments: object) -> str:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "theirs").touch()
        return ""

    monkeypatch.setattr("token_diffusion.checkpoint.conversion.card", taken)
    with pytest.raises(ParameterError, match="output_dir must be new or an empty folder"):
        convert(str(folder), tmp_path / "new")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["theirs"]


def test_where_nothing_can_be_written_is_known_first(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = "be a folder in a volume, not the volume itself"
    with monkeypatch.context() as patched:
        patched.setattr(os.path, "ismount", lambda path: path == tmp_path / "new")
        assert refused(checkpoint_path="org/none") == f"output_dir must {rule}, got {str(tmp_path / 'new')!r}"
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    rule = f"be a folder that can be written (it would be in {tmp_path})"
    assert refused(checkpoint_path="org/none") == f"output_dir must {rule}, got {str(tmp_path / 'new')!r}"


@pytest.mark.parametrize("room", [1000, 20_000])
def test_what_fails_midway_leaves_nothing(refused: Refused, tmp_path: Path, room: int) -> None:
    """Whoever of those that write files comes upon it: here the system, which lets none become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        said = refused(output_dir=tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said.startswith("output_dir must be a folder that can be written (") and "File too large" in said


def test_the_noise_can_be_known_better(tmp_path: Path, folder: Path) -> None:
    made = convert(str(folder), tmp_path / "new", scheduler_overrides="alpha_schedule=cosine, eps=0.01")
    checkpoint = load_checkpoint(made)
    assert checkpoint.alpha_schedule == "cosine" and checkpoint.scheduler.config.eps == 0.01
    model = tiny_model("token-diffusion", time_conditioning="sigma")
    save_checkpoint(tmp_path / "told", model, tiny_tokenizer(), TokenDiffusionScheduler(50, MASK))
    made = convert(str(tmp_path / "told"), tmp_path / "newer", scheduler_overrides="alpha_schedule=cosine")
    assert load_checkpoint(made).model.config.alpha_schedule == "cosine"  # whose sigma the network is told


def test_the_frame_can_be_known_better(tmp_path: Path, folder: Path) -> None:
    convert(str(folder), tmp_path / "new", frame_prefix=["[CLS]"], frame_suffix=["3"], learnt_tokens=["[SEP]"])
    facts = load_checkpoint(tmp_path / "new").facts
    assert facts.frame == Frame((2,), (3,)) and facts.learnt == {3} and facts.known
    arguments = ["convert", f"--checkpoint_path={tmp_path / 'new'}", f"--output_dir={tmp_path / 'newer'}"]
    assert main([*arguments, "--frame_prefix", "--learnt_tokens"]) == 0
    assert load_checkpoint(tmp_path / "newer").facts == Facts(Frame((), (3,)), frozenset(), known=True)


BAD = [
    ({"scheduler_overrides": "eps"}, "scheduler_overrides must be key=value,key=value, got 'eps'"),
    ({"scheduler_overrides": "vocab_size=3"}, "scheduler_overrides must leave vocab_size to the model, got 'vocab_s"),
    (
        {"scheduler_overrides": "esp=1e-4"},
        "scheduler_overrides must hold settings of the scheduler (esp must be a sett",
    ),
    ({"scheduler_overrides": "eps=many"}, "scheduler_overrides must hold settings of the scheduler (eps must be"),
    (
        {"scheduler_overrides": "alpha_schedule=x"},
        "scheduler_overrides must hold settings of the scheduler (alpha_sch",
    ),
    ({"frame_prefix": "[BOS]"}, "frame_prefix must be ids or spellings of the tokenizer's tokens, got '[BOS]'"),
    ({"learnt_tokens": "50"}, "learnt_tokens must be ids or spellings of the tokenizer's tokens, got '50'"),
    ({"frame_suffix": "4"}, "checkpoint_path must have a frame without the mask token 4, got"),
    ({"max_shard_size": "much"}, "max_shard_size must be a size such as 5GB, got 'much'"),
    ({"checkpoint_path": "/nowhere"}, "checkpoint_path must be an existing folder, got '/nowhere'"),
    ({"base_model": "gpt2"}, "base_model must be given with a folder of adapters alone, got 'gpt2'"),
    ({"tokenizer_name": "/nowhere"}, "tokenizer_name must be an existing folder, got '/nowhere'"),
]


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_bad_flags_are_named(refused: Refused, flags: dict[str, str], message: str) -> None:
    assert refused(**flags).startswith(message)


def test_a_type_that_weights_are_not_written_in(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="dtype must be one of float32, float16, bfloat16, got 'int8'"):
        convert(str(folder), tmp_path / "new", dtype="int8")


def test_a_tokenizer_of_another_folder(refused: Refused, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    for file in folder.glob("tokenizer*"):
        shutil.move(file, tmp_path / "words")
    assert refused().startswith("checkpoint_path must be a folder that holds tokenizer_config.json, got")
    convert(str(folder), tmp_path / "new", tokenizer_name=str(tmp_path / "words"))
    assert load_checkpoint(tmp_path / "new").tokenizer.mask_token_id == MASK
    (tmp_path / "nothing").mkdir()
    assert refused(output_dir=tmp_path / "b", tokenizer_name=tmp_path / "nothing").startswith(
        "tokenizer_name must be a folder that holds one of tokenizer.json, tokenizer_config.json, vocab.json"
    )
    settings = tmp_path / "words" / "tokenizer.json"
    settings.write_text(settings.read_text()[:-20])
    said = refused(output_dir=tmp_path / "b", tokenizer_name=tmp_path / "words")
    assert said.startswith("tokenizer_name must hold a readable tokenizer (")
    settings.write_text(json.dumps({}))
    said = refused(output_dir=tmp_path / "b", tokenizer_name=tmp_path / "words")
    assert said.startswith("tokenizer_name must hold a readable tokenizer (")


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """A folder as the trainer's `final` is with LoRA, for the model in `base`, which no scheduler lies beside."""
    pytest.importorskip("peft")
    model = tiny_model("bert")
    model.save_pretrained(tmp_path / "base")
    adapter = Adapter(model, str(tmp_path / "base"), r=2, lora_alpha=8, target_modules=["query", "value"])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in Adapter.of(model.state_dict(keep_vars=True)).values():
            weight.normal_(std=0.4, generator=generator)
    state = Adapter.of(model.state_dict())
    scheduler, facts = TokenDiffusionScheduler(50, MASK), Facts(Frame((2,), (3,)), frozenset({3}), known=True)
    save_checkpoint(tmp_path / "adapters", adapter, tiny_tokenizer(), scheduler, facts=facts, state_dict=state)
    with torch.inference_mode():
        torch.save(model.eval()(torch.arange(5, 17).view(2, 6)).logits, tmp_path / "wanted.pt")
    return tmp_path / "adapters"


def test_adapters_are_merged_into_their_model(adapters: Path, tmp_path: Path) -> None:
    made = convert(str(adapters), tmp_path / "new")
    checkpoint = load_checkpoint(made)
    assert checkpoint.facts.frame == Frame((2,), (3,)) and checkpoint.process == "absorbing"
    torch.testing.assert_close(logits(made), torch.load(tmp_path / "wanted.pt"), rtol=0, atol=2e-5)
    assert (logits(made) - logits(tmp_path / "base")).abs().max() > 0.1
    assert "`adapters`, adapters, merged into `base`, in the layout" in (made / "README.md").read_text()


def test_their_model_may_have_moved_and_may_know_the_rest(adapters: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    gone = str(tmp_path / "base")
    assert refused(checkpoint_path=adapters) == f"base_model must be an existing folder, got {gone!r}"
    convert(str(adapters), tmp_path / "new", base_model=str(tmp_path / "elsewhere"))
    save_tiny(tmp_path / "whole", "absorbing")
    for file in [*adapters.glob("tokenizer*"), adapters / "scheduler_config.json", adapters / "token_diffusion.json"]:
        file.unlink()
    merged = load_checkpoint(convert(str(adapters), tmp_path / "newer", base_model=str(tmp_path / "whole")))
    assert merged.process == "absorbing" and not merged.facts.known
    tiny_model("bert", 60).save_pretrained(tmp_path / "wide")
    said = refused(checkpoint_path=adapters, output_dir=tmp_path / "c", base_model=tmp_path / "wide")
    assert said.startswith("checkpoint_path must be a folder that holds scheduler_config.json")


def test_adapters_of_another_model(adapters: Path, tmp_path: Path, refused: Refused) -> None:
    tiny_model("distilbert").save_pretrained(tmp_path / "other")
    said = refused(checkpoint_path=adapters, base_model=tmp_path / "other")
    assert said.startswith("checkpoint_path must hold adapters of the model in ")
    tiny_model("bert", 60).save_pretrained(tmp_path / "wide")
    said = refused(checkpoint_path=adapters, base_model=tmp_path / "wide")
    assert said.startswith("checkpoint_path must hold a model as wide as the scheduler's vocab_size 50, not 60")
    (adapters / "adapter_config.json").write_text("{}")
    assert refused(checkpoint_path=adapters).startswith("checkpoint_path must hold a readable adapter_config.json")
