"""The pipeline: what it draws is what `sample`, `sample_block`, `sample_hybrid` and the shell draw."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from transformers import AutoModelForMaskedLM

from tests.fake_hub import Repository, fake_hub, hub_in_place
from tests.tiny import (
    MAX_POSITIONS,
    PROCESSES,
    NeighbourDenoiser,
    byte_tokenizer,
    save_tiny,
    tiny_model,
    tiny_tokenizer,
)
from token_diffusion import (
    ParameterError,
    TokenDiffusionPipeline,
    TokenDiffusionPipelineOutput,
    TokenDiffusionScheduler,
    sample,
    sample_block,
    sample_hybrid,
)
from token_diffusion.__main__ import main
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.facts import Facts, Frame
from token_diffusion.networks.denoiser import CallableDenoiser
from token_diffusion.text import OPEN, decode, encode

FRAMED = Facts(Frame((2,), (3,)), known=True)
ROOT = Path(__file__).parents[3]
MASK = 4
STEPS: dict[str, Any] = {"seq_len": 12, "num_inference_steps": 6}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    folders = {process: save_tiny(root / process, process) for process in PROCESSES}
    return folders | {"framed": save_tiny(root / "framed", "uniform", facts=FRAMED)}


def load(folder: Path, **arguments: Any) -> TokenDiffusionPipeline:
    pipe = TokenDiffusionPipeline.from_pretrained(folder, **arguments)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipes(folders: dict[str, Path]) -> dict[str, TokenDiffusionPipeline]:
    return {process: load(folder) for process, folder in folders.items()}


@pytest.fixture
def pipe(pipes: dict[str, TokenDiffusionPipeline]) -> TokenDiffusionPipeline:
    return pipes["absorbing"]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("block_size", [None, 5])
def test_the_tokens_are_those_of_the_library(
    pipes: dict[str, TokenDiffusionPipeline], process: str, block_size: int | None
) -> None:
    pipe = pipes[process]
    shaping = {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "min_p": 0.02}
    arguments: dict[str, Any] = {"num_samples": 3, "seed": 7, **STEPS, **shaping}
    tokens = encode(pipe.tokenizer, seq_len=12, prompt="w3 w1")
    drawn = pipe("w3 w1", block_size=block_size, **arguments)
    if block_size is None:
        function: Any = sample_hybrid if process == "hybrid" else sample
        expected = function(pipe.model, pipe.scheduler, tokens=tokens, **arguments)
    else:
        expected = sample_block(pipe.model, pipe.scheduler, tokens=tokens, block_size=block_size, **arguments)
    assert isinstance(drawn, TokenDiffusionPipelineOutput)
    assert drawn.sequences.equal(expected.sequences) and drawn.nfe == [expected.nfe] and drawn.seeds == [7]
    assert drawn.texts == [decode(pipe.tokenizer, row) for row in expected.sequences.tolist()]
    assert len(set(drawn.texts)) == 3 and all(text.startswith("w3 w1 ") for text in drawn.texts)


def test_a_stop_string_cuts_the_texts_and_leaves_the_tokens(pipe: TokenDiffusionPipeline) -> None:
    prompts, arguments = ["w3 w1", "w2"], {"num_samples": 2, "seed": 7, **STEPS}
    whole = pipe(prompts, **arguments)
    stop = f" {whole.texts[0].split()[5]}"
    cut = pipe(prompts, stop=stop, **arguments)
    assert cut.sequences.equal(whole.sequences)
    for index, (text, short) in enumerate(zip(whole.texts, cut.texts, strict=True)):
        at = text.find(stop, len(prompts[index // 2]))
        assert short == (text if at < 0 else text[:at])
    assert len(cut.texts[0]) < len(whole.texts[0])


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(
    "flags", [[], ["--prompt=w3 w1"], ["--template=w1 [MASK] w2 [MASK]"], ["--inject_start_token"]]
)
def test_the_tokens_are_those_of_the_shell(
    capsys: pytest.CaptureFixture[str], folders: dict[str, Path], process: str, flags: list[str]
) -> None:
    command = "sample-hybrid" if process == "hybrid" else "sample"
    shell = [command, f"--checkpoint_path={folders[process]}", "--json", "--num_samples=2", "--num_inference_steps=6"]
    assert main([*shell, "--seed=5", *flags]) == 0
    answer = json.loads(capsys.readouterr().out)
    named: dict[str, Any] = dict(flag.removeprefix("--").split("=") for flag in flags if "=" in flag)
    drawn = load(folders[process])(
        num_samples=2, num_inference_steps=6, seed=5, inject_start_token="--inject_start_token" in flags, **named
    )
    assert [each["tokens"] for each in answer["samples"]] == drawn.sequences.tolist()
    assert [each["text"] for each in answer["samples"]] == drawn.texts


def test_frame_and_forbidden_ids_go_wherever_the_parts_go(folders: dict[str, Path], tmp_path: Path) -> None:
    """[CLS] before and [SEP] after, in the tokens and not in the text, and no control token between."""
    pipe = load(folders["framed"])
    arguments: dict[str, Any] = {"num_samples": 40, "seed": 3, **STEPS}
    drawn = pipe("w1", **arguments)
    assert drawn.sequences[:, :2].tolist() == [[2, 6]] * 40 and drawn.sequences[:, -1].tolist() == [3] * 40
    assert not bool(torch.isin(drawn.sequences[:, 1:-1], torch.tensor([0, 2, 3, 4])).any())
    assert not any("[" in text for text in drawn.texts)
    pipe.save_pretrained(tmp_path / "saved")
    for other in (TokenDiffusionPipeline(**pipe.components), load(tmp_path / "saved")):
        other.set_progress_bar_config(disable=True)
        assert other.facts == FRAMED and other("w1", **arguments).sequences.equal(drawn.sequences)
    unframed = load(folders["framed"], facts=None)
    assert bool(torch.isin(unframed("w1", **arguments).sequences, torch.tensor([0, 2, 3])).any())
    unframed.save_pretrained(tmp_path / "unframed")
    assert not load_checkpoint(tmp_path / "unframed").facts.known
    bare = TokenDiffusionPipeline(pipe.model, pipe.scheduler, facts=FRAMED)
    bare.set_progress_bar_config(disable=True)
    assert bare(output_type="tokens", seed=1, **STEPS).sequences[0][::11] == [2, 3]
    with pytest.raises(ParameterError, match="seq_len must be more than 2, the tokens of the frame, got 2"):
        bare(output_type="tokens", seq_len=2)


def test_first_hitting(pipe: TokenDiffusionPipeline) -> None:
    drawn = pipe("w3", seq_len=9, num_inference_steps=None, seed=1)
    expected = sample(pipe.model, pipe.scheduler, seq_len=9, num_inference_steps=None, seed=1, tokens=[8] + [OPEN] * 8)
    assert drawn.sequences.equal(expected.sequences) and drawn.nfe == [8]


@pytest.mark.parametrize("process", PROCESSES)
def test_prompts_together_are_those_prompts_alone(
    pipes: dict[str, TokenDiffusionPipeline], monkeypatch: pytest.MonkeyPatch, process: str
) -> None:
    """Templates of several lengths, in several lanes; one seed is every prompt's, and a list has one for each."""
    pipe = pipes[process]
    monkeypatch.setattr(pipe, "_denoiser", (pipe._parts, CallableDenoiser(NeighbourDenoiser(50))))
    templates = ["w1 [MASK] [MASK]", "[MASK] " * 40 + "w2", "w5 w6", "[MASK]"]
    for seed in (3, [3, 1, 4, 1]):
        together = pipe(template=templates, num_samples=2, num_inference_steps=6, seed=seed, output_type="tokens")
        assert [len(row) for row in together.sequences] == [3, 3, 41, 41, 2, 2, 1, 1]
        seeds = seed if isinstance(seed, list) else [seed] * 4
        assert together.seeds == seeds and together.texts is None
        for index, template in enumerate(templates):
            alone = pipe(template=template, num_samples=2, num_inference_steps=6, seed=seeds[index])
            assert together.sequences[2 * index : 2 * index + 2] == alone.sequences.tolist()
            assert together.nfe[index] == alone.nfe[0]


def test_a_generator_draws_the_seeds(pipe: TokenDiffusionPipeline) -> None:
    """Reproducibly, one for each prompt; the output's seeds give the same tokens."""

    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    prompts = ["w1", "w1", "w2"]
    one, again = (pipe(prompts, generator=generator(1), **STEPS) for _ in range(2))
    assert one.sequences.equal(again.sequences) and len(set(one.seeds)) == 3
    assert not one.sequences[0].equal(one.sequences[1])
    assert pipe(prompts, seed=one.seeds, **STEPS).sequences.equal(one.sequences)
    drawn_on = generator(1)
    first, second = (pipe("w1", generator=drawn_on, **STEPS) for _ in range(2))
    assert first.seeds != second.seeds and [*first.seeds, *second.seeds] == one.seeds[:2]
    with pytest.raises(ParameterError, match="top_k must be an integer"):
        pipe("w1", generator=drawn_on, top_k=1.5, **STEPS)  # type: ignore[arg-type]
    assert pipe("w1", generator=drawn_on, **STEPS).seeds == one.seeds[2:]
    each = pipe(prompts, generator=[generator(3), generator(1), generator(3)], **STEPS)
    assert each.seeds[1] == one.seeds[0] and each.seeds[0] == each.seeds[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert pipe(prompts, **STEPS).sequences.equal(one.sequences)
        assert pipe(prompts, **STEPS).seeds != one.seeds


def test_outputs(pipe: TokenDiffusionPipeline) -> None:
    templates = ["w1 [MASK]", "[MASK] w1 w2"]
    arguments: dict[str, Any] = {"template": templates, "num_inference_steps": 3, "seed": 0}
    text = pipe(**arguments)
    assert text.sequences.shape == (2, 3) and text.sequences.dtype == torch.int64
    assert text.sequences[0, 2] == pipe.tokenizer.pad_token_id
    assert [len(line.split()) for line in text.texts] == [2, 3]
    lists = pipe(output_type="tokens", **arguments)
    assert lists.sequences == [text.sequences[0, :2].tolist(), text.sequences[1].tolist()] and lists.texts is None
    tensor = pipe(output_type="pt", **arguments)
    assert tensor.sequences.equal(text.sequences) and tensor.texts is None
    array = pipe(output_type="np", **arguments).sequences
    assert isinstance(array, np.ndarray) and array.tolist() == text.sequences.tolist()
    sequences, texts = pipe(return_dict=False, **arguments)
    assert sequences.equal(text.sequences) and texts == text.texts


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_token_ids_go_in(pipe: TokenDiffusionPipeline, kind: Any) -> None:
    canvas = [6, OPEN, 7, OPEN]
    expected = sample(pipe.model, pipe.scheduler, seq_len=4, num_inference_steps=6, seed=2, tokens=canvas).sequences
    for tokens in (kind(canvas), kind([canvas]), [kind(canvas)]):
        drawn = pipe(tokens=tokens, num_inference_steps=6, seed=2)
        assert drawn.sequences.equal(expected)
    both = pipe(tokens=[kind(canvas), kind([OPEN])], num_inference_steps=6, seed=2, output_type="tokens")
    assert both.sequences[0] == expected[0].tolist() and len(both.sequences[1]) == 1


def test_a_pipeline_without_a_tokenizer(pipe: TokenDiffusionPipeline) -> None:
    bare = TokenDiffusionPipeline(pipe.model, pipe.scheduler)
    bare.set_progress_bar_config(disable=True)
    drawn = bare(output_type="pt", seed=4, **STEPS)
    assert drawn.sequences.equal(pipe(seed=4, **STEPS).sequences)
    assert bare(tokens=[[6], [OPEN, 6]], output_type="pt", seed=4).sequences[0].tolist() == [6, MASK]
    calls: list[tuple[dict[str, Any], str]] = [({}, "output_type"), ({"prompt": "w1"}, "prompt")]
    for arguments, name in [*calls, ({"template": "w1"}, "template")]:
        with pytest.raises(ParameterError, match=f"^{name} must be .* where the pipeline has no tokenizer"):
            bare(**arguments)
    with pytest.raises(ParameterError, match="tokenizer must be there to be saved"):
        bare.save_pretrained("nowhere")


class Watch:
    """A callback that keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, float, torch.Tensor]] = []

    def __call__(self, pipe: Any, step: int, timestep: float, callback_kwargs: dict[str, Any]) -> dict[str, Any]:
        self.calls.append((step, timestep, callback_kwargs["sample"]))
        return callback_kwargs


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("prompts", [["w1"], ["w1", "w2 w3 w4 w5 w6 w7 w8 w9"]])
def test_a_callback_sees_every_evaluation(
    pipes: dict[str, TokenDiffusionPipeline], process: str, block_size: int | None, prompts: list[str]
) -> None:
    pipe, watch = pipes[process], Watch()
    arguments: dict[str, Any] = {"num_samples": 2, "seed": 2, "block_size": block_size, **STEPS}
    drawn = pipe(prompts, callback_on_step_end=watch, **arguments)
    steps, times, states = zip(*watch.calls, strict=True)
    blocks = 1 if block_size is None else 3
    assert pipe.num_timesteps == 6 * blocks
    assert list(steps) == sorted(set(steps)) and steps[0] >= 0 and steps[-1] == pipe.num_timesteps - 1
    assert len(steps) == max(drawn.nfe)
    if len(prompts) == 1:
        pipe.scheduler.set_timesteps(6)
        assert list(times) == pytest.approx([pipe.scheduler.timesteps[step % 6].item() for step in steps])
    assert states[-1].equal(drawn.sequences) and not states[0].equal(states[-1])
    if process == "absorbing":
        masked = [int((state == MASK).sum()) for state in states]
        assert masked == sorted(masked, reverse=True) and masked[0] > 0
    assert drawn.sequences.equal(pipe(prompts, **arguments).sequences)


def test_a_callback_without_a_grid_gets_the_times_of_the_events(pipe: TokenDiffusionPipeline) -> None:
    watch = Watch()
    pipe(seq_len=5, num_inference_steps=None, seed=1, callback_on_step_end=watch)
    steps, times, _ = zip(*watch.calls, strict=True)
    assert steps == (0, 1, 2, 3, 4) and pipe.num_timesteps == 5
    assert list(times) == sorted(times, reverse=True) and 0 <= times[-1] < times[0] < 1


class Official(PipelineCallback):
    """As diffusers' own are written."""

    tensor_inputs = ["sample"]  # noqa: RUF012

    def callback_fn(self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: Any) -> dict[str, Any]:
        assert set(callback_kwargs) == {"sample"}
        pipeline.seen = getattr(pipeline, "seen", 0) + 1
        return callback_kwargs


def test_the_callbacks_of_diffusers(folders: dict[str, Path]) -> None:
    pipe = load(folders["absorbing"])
    drawn = pipe(seed=1, callback_on_step_end=Official(), **STEPS)
    assert pipe.seen == drawn.nfe[0]
    pipe(seed=1, callback_on_step_end=MultiPipelineCallbacks([Official(), Official()]), **STEPS)
    assert pipe.seen == 3 * drawn.nfe[0]
    nothing: list[Any] = []
    pipe(
        seed=1,
        callback_on_step_end=lambda pipe, step, t, given: nothing.append(given),
        callback_on_step_end_tensor_inputs=[],
        **STEPS,
    )
    assert nothing == [{}] * drawn.nfe[0]


def _writes(pipe: Any, step: int, t: float, given: dict[str, Any]) -> dict[str, Any]:
    given["sample"][0, 0] = 7
    return {}


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (_writes, "leave the tokens as they are"),
        (lambda pipe, step, t, given: {"sample": given["sample"] * 0}, "leave the tokens as they are"),
        (lambda pipe, step, t, given: {"sample": given["sample"].tolist()}, "leave the tokens as they are"),
        (lambda pipe, step, t, given: {"latents": given["sample"]}, "leave the tokens as they are"),
        (lambda pipe, step, t, given: given["sample"], "return a dict or nothing"),
    ],
)
def test_what_a_callback_changes_is_refused(pipe: TokenDiffusionPipeline, callback: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=f"callback_on_step_end must {message}"):
        pipe(seed=1, callback_on_step_end=callback, **STEPS)


def test_a_callback_may_stop_the_loop(pipe: TokenDiffusionPipeline) -> None:
    watch = Watch()

    def stop(pipe: Any, step: int, t: float, given: dict[str, Any]) -> None:
        watch(pipe, step, t, given)
        pipe._interrupt = len(watch.calls) == 2

    drawn = pipe(seed=1, callback_on_step_end=stop, **STEPS)
    assert drawn.nfe == [2] and pipe.interrupt and drawn.sequences.equal(watch.calls[-1][2])
    assert bool((drawn.sequences == MASK).any()) and "[MASK]" not in drawn.texts[0]
    assert not bool((pipe(seed=1, **STEPS).sequences == MASK).any()) and not pipe.interrupt


def test_an_error_in_a_callback_leaves_the_pipeline_usable(pipe: TokenDiffusionPipeline) -> None:
    def fail(*arguments: Any) -> None:
        raise KeyError("mine")

    before = pipe(seed=1, **STEPS).sequences
    with pytest.raises(KeyError, match="mine"):
        pipe(seed=1, callback_on_step_end=fail, **STEPS)
    assert pipe(seed=1, **STEPS).sequences.equal(before)


def test_the_progress_bar(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    pipe = TokenDiffusionPipeline.from_pretrained(folders["absorbing"])
    capsys.readouterr()
    pipe(["w1", "w2 w3"], seed=1, block_size=6, **STEPS)
    assert "12/12" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe(seed=1, **STEPS)
    assert capsys.readouterr().err == ""


def test_dtype_and_device(folders: dict[str, Path]) -> None:
    pipe = load(folders["absorbing"], dtype=torch.bfloat16)
    assert pipe.dtype == torch.bfloat16 and pipe.device.type == "cpu"
    expected = load_checkpoint(folders["absorbing"], dtype="bfloat16")
    drawn = pipe(seed=1, **STEPS)
    assert drawn.sequences.equal(sample(expected.denoiser, expected.scheduler, seed=1, **STEPS).sequences)
    assert load(folders["absorbing"], torch_dtype="bfloat16").dtype == torch.bfloat16
    back = pipe.to(torch.float32)
    assert back.dtype == torch.float32 and back(seed=1, **STEPS).sequences.shape == (1, 12)
    assert load(folders["absorbing"], device_map="cpu").device.type == "cpu"


def test_parts_can_be_replaced(folders: dict[str, Path], pipe: TokenDiffusionPipeline) -> None:
    scheduler = TokenDiffusionScheduler.from_config(pipe.scheduler.config, alpha_schedule="cosine")
    other = load(folders["absorbing"], scheduler=scheduler)
    assert other.scheduler is scheduler
    expected = sample(pipe.model, scheduler, seed=1, **STEPS).sequences
    assert other(seed=1, **STEPS).sequences.equal(expected)
    same = TokenDiffusionPipeline(**pipe.components)
    same.set_progress_bar_config(disable=True)
    same.scheduler = scheduler
    assert same(seed=1, **STEPS).sequences.equal(expected) and pipe.scheduler is not scheduler
    same.model = tiny_model(seed=9)
    assert not same(seed=1, **STEPS).sequences.equal(expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_and_offloaded(folders: dict[str, Path]) -> None:
    pipe = load(folders["uniform"]).to("cuda")
    drawn = pipe(["w1", "w2 w3"], seed=1, **STEPS)
    expected = sample(pipe.model, pipe.scheduler, seed=1, tokens=[6] + [OPEN] * 11, **STEPS)
    assert drawn.sequences.device.type == "cpu" and drawn.sequences[:1].equal(expected.sequences)
    offloaded = load(folders["uniform"])
    offloaded.enable_model_cpu_offload()
    for _ in range(2):
        assert offloaded(["w1", "w2 w3"], seed=1, **STEPS).sequences.equal(drawn.sequences)
        assert offloaded.model.device.type == "cpu"


def test_a_model_in_training_is_back_in_it(folders: dict[str, Path], pipe: TokenDiffusionPipeline) -> None:
    model = AutoModelForMaskedLM.from_pretrained(folders["absorbing"]).train()
    training = TokenDiffusionPipeline(model, pipe.scheduler, pipe.tokenizer)
    training.set_progress_bar_config(disable=True)
    assert training(seed=1, **STEPS).sequences.equal(pipe(seed=1, **STEPS).sequences)
    assert model.training


@pytest.mark.parametrize("process", PROCESSES)
def test_saved_it_is_the_folder_that_all_others_read(
    pipes: dict[str, TokenDiffusionPipeline], tmp_path: Path, process: str
) -> None:
    pipe, folder = pipes[process], tmp_path / "deep" / "saved"
    pipe.save_pretrained(folder)
    expected = pipe(seed=1, **STEPS).sequences
    checkpoint = load_checkpoint(folder)
    assert checkpoint.process == process and not (folder / "model_index.json").exists()
    assert load(folder)(seed=1, **STEPS).sequences.equal(expected)
    model, scheduler = AutoModelForMaskedLM.from_pretrained(folder), TokenDiffusionScheduler.from_pretrained(folder)
    assert sample_block(model, scheduler, block_size=12, seed=1, **STEPS).sequences.equal(expected)


@pytest.fixture
def in_subfolders(pipes: dict[str, TokenDiffusionPipeline], tmp_path: Path) -> Path:
    """As diffusers itself saves a pipeline."""
    parts = TokenDiffusionPipeline(**(pipes["uniform"].components | {"facts": None}))
    DiffusionPipeline.save_pretrained(parts, tmp_path / "layout")
    names = ["model", "model_index.json", "scheduler", "tokenizer"]
    assert sorted(path.name for path in (tmp_path / "layout").iterdir()) == names
    return tmp_path / "layout"


def test_the_layout_of_diffusers_is_read(
    capsys: pytest.CaptureFixture[str], pipes: dict[str, TokenDiffusionPipeline], in_subfolders: Path
) -> None:
    expected = pipes["uniform"](seed=1, **STEPS).sequences
    assert load(in_subfolders)(seed=1, **STEPS).sequences.equal(expected)
    flags = ["--json", "--num_samples=1", "--seed=1", "--seq_len=12", "--num_inference_steps=6"]
    assert main(["sample", f"--checkpoint_path={in_subfolders}", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["samples"][0]["tokens"] == expected[0].tolist()


def test_no_code_of_a_folder_is_run(in_subfolders: Path) -> None:
    """model_index.json may name a module that lies beside the weights; our parts are read whatever it names."""
    trap = "raise SystemExit('run')"
    index = json.loads((in_subfolders / "model_index.json").read_text())
    index |= {"_class_name": ["trap", "Trap"], "model": ["trap", "Trap"], "scheduler": ["trap", "Trap"]}
    (in_subfolders / "model_index.json").write_text(json.dumps(index))
    for place in (in_subfolders, in_subfolders / "model", in_subfolders / "scheduler"):
        (place / "trap.py").write_text(trap)
    assert load(in_subfolders)(seed=1, **STEPS).sequences.shape == (1, 12)


@pytest.mark.parametrize("missing", ["scheduler/scheduler_config.json", "model/config.json"])
def test_what_a_subfolder_lacks_is_named(in_subfolders: Path, missing: str) -> None:
    (in_subfolders / missing).unlink()
    with pytest.raises(ParameterError, match=f"checkpoint_path must be a folder that holds {missing}"):
        load(in_subfolders)


def test_a_save_replaces_a_checkpoint_and_nothing_else(pipe: TokenDiffusionPipeline, tmp_path: Path) -> None:
    thesis = tmp_path / "work" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years")
    for target in (thesis.parent, thesis):
        with pytest.raises(ParameterError, match="save_directory must be new, empty or a checkpoint to replace"):
            pipe.save_pretrained(target)
    assert thesis.read_text() == "years"
    (tmp_path / "empty").mkdir()
    pipe.save_pretrained(tmp_path / "empty")
    save_tiny(tmp_path / "old", "uniform")
    pipe.save_pretrained(tmp_path / "old")
    assert load_checkpoint(tmp_path / "old").process == "absorbing"


def test_the_model_card_goes_along(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "trained", "absorbing")
    (folder / "README.md").write_text("# Mine\n")
    pipe = load(folder)
    pipe.save_pretrained(tmp_path / "copy")
    pipe.save_pretrained(folder)
    assert [(place / "README.md").read_text() for place in (tmp_path / "copy", folder)] == ["# Mine\n"] * 2


@pytest.mark.parametrize("arguments", [{"safe_serialization": False}, {"variant": "fp16"}, {"max_shard_size": "1GB"}])
def test_other_formats_are_refused(pipe: TokenDiffusionPipeline, tmp_path: Path, arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ParameterError, match=f"{name} must be .*: the folder holds one model.safetensors"):
        pipe.save_pretrained(tmp_path / "x", **arguments)
    assert not (tmp_path / "x").exists()


def test_pushed_to_a_hub(pipe: TokenDiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        pipe.save_pretrained(tmp_path / "run", push_to_hub=True, repo_id="ann/run", token="hf_right", private=True)
    assert {"model.safetensors", "config.json", "scheduler_config.json", "tokenizer.json"} <= set(hub.files)
    assert hub.created[0]["name"] == "run" and "private" in json.dumps(hub.created[0])


BAD_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "w1", "template": "w1"}, "template must be absent where prompt is given, got 'w1'"),
    ({"prompt": "w1", "tokens": [6]}, "tokens must be absent where prompt is given, got [6]"),
    ({"prompt": 3}, "prompt must be a text or a list of texts, got 3"),
    ({"prompt": []}, "prompt must be a text or a list of texts, got []"),
    ({"template": ["w1", None]}, "template must be a text or a list of texts, got ['w1', None]"),
    ({"prompt": ["w1", "w1 w2"], "seq_len": 1}, "prompt must fit into seq_len = 1 tokens, got '2 tokens'"),
    ({"seq_len": 0}, "seq_len must be in [1, 2147483648), got 0"),
    ({"seq_len": 97}, f"seq_len must be at most {MAX_POSITIONS}, the positions of the model, got 97"),
    ({"template": "[MASK] " * 97}, f"seq_len must be at most {MAX_POSITIONS}, the positions of the model, got 97"),
    ({"tokens": []}, "tokens must be lists of integers, -1 where the sampler fills in, got []"),
    ({"tokens": [[6], []]}, "tokens must be lists of integers, -1 where the sampler fills in, got []"),
    ({"tokens": [1.0]}, "tokens must be lists of integers, -1 where the sampler fills in, got [1.0]"),
    ({"tokens": [True]}, "tokens must be lists of integers, -1 where the sampler fills in, got [True]"),
    ({"tokens": 6}, "tokens must be lists of integers, -1 where the sampler fills in, got []"),
    ({"tokens": [[6], 7]}, "tokens must be lists of integers, -1 where the sampler fills in, got []"),
    ({"tokens": "w1"}, "tokens must be lists of integers, -1 where the sampler fills in, got []"),
    (
        {"tokens": [6], "inject_start_token": True},
        "inject_start_token must be off where tokens are given or there is no tokenizer, got True",
    ),
    ({"tokens": [6, -1], "seq_len": 3}, "tokens must have seq_len = 3 entries, got 2"),
    ({"tokens": [6, MASK]}, "tokens must hold -1 where the sampler fills in, not the mask token, got 4"),
    ({"tokens": [6, 50]}, "tokens must be below vocab_size = 50, got 50"),
    ({"num_samples": 0}, "num_samples must be in [1, 2147483648), got 0"),
    ({"num_inference_steps": 2.5}, "num_inference_steps must be an integer, got 2.5"),
    ({"block_size": 0}, "block_size must be in [1, 2147483648), got 0"),
    ({"temperature": -1}, "temperature must be >= 0, got -1"),
    ({"top_p": 1.5}, "top_p must be in (0, 1], got 1.5"),
    ({"min_p": -1}, "min_p must be in [0, 1], got -1"),
    ({"stop": ["a", ""]}, "stop must hold no empty string, got ['a', '']"),
    ({"stop": [3]}, "stop must be strings, got [3]"),
    ({"top_k": -1}, "top_k must be in [0, 2147483648), got -1"),
    ({"seed": -1}, "seed must be in [0, 9223372036854775808), got -1"),
    ({"seed": "1"}, "seed must be an integer, got '1'"),
    ({"seed": [1, 2]}, "seed must be one, or a list of 1, one for each prompt, got [1, 2]"),
    ({"generator": []}, "generator must be one, or a list of 1, one for each prompt, got []"),
    ({"generator": 3}, "generator must be a torch.Generator or a list of them, got 3"),
    ({"seed": 1, "generator": 3}, "generator must be absent where seed is given, got 3"),
    ({"output_type": "pil"}, "output_type must be one of text, tokens, pt, np, got 'pil'"),
    ({"callback_on_step_end": 3}, "callback_on_step_end must be callable, got 3"),
    (
        {"callback_on_step_end_tensor_inputs": ["sample", "latents"]},
        "callback_on_step_end_tensor_inputs must be among ['sample'], got ['latents']",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS)
def test_bad_calls_are_named_before_any_work(
    pipe: TokenDiffusionPipeline, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(pipe, "_denoiser", (pipe._parts, _never))
    with pytest.raises(ParameterError) as raised:
        pipe(**{"seed": None, **arguments})
    assert str(raised.value) == message


def _never(tokens: Any, t: Any, valid: Any, positions: Any) -> Any:
    raise AssertionError("the network was asked")


def test_logits_without_a_distribution_are_told(pipe: TokenDiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(tokens: Any, t: Any, valid: Any, positions: Any) -> torch.Tensor:
        return torch.full((len(positions), 50), torch.nan)

    monkeypatch.setattr(pipe, "_denoiser", (pipe._parts, lost))
    with pytest.raises(FloatingPointError, match="NaN"):
        pipe(["w1", "w2"], seed=1, **STEPS)


def test_a_part_put_in_later_has_to_fit_as_well(folders: dict[str, Path]) -> None:
    pipe = load(folders["absorbing"])
    pipe.scheduler = DDPMScheduler()
    with pytest.raises(ParameterError, match="scheduler must be a TokenDiffusionScheduler, got 'DDPMScheduler'"):
        pipe(seed=1, **STEPS)
    pipe.scheduler = TokenDiffusionScheduler(50, MASK, forward_process="hybrid")
    pipe.model = tiny_model("token-diffusion", time_conditioning="sigma")
    with pytest.raises(ParameterError, match="time_conditioning must be none or t for the hybrid process"):
        pipe(seed=1, **STEPS)


def test_parts_that_do_not_fit_are_named(pipe: TokenDiffusionPipeline) -> None:
    with pytest.raises(ParameterError, match="scheduler must be a TokenDiffusionScheduler, got 'DDPMScheduler'"):
        TokenDiffusionPipeline(pipe.model, DDPMScheduler(), pipe.tokenizer)
    with pytest.raises(ParameterError, match="model must be as wide as the scheduler's vocab_size 51, got 50"):
        TokenDiffusionPipeline(pipe.model, TokenDiffusionScheduler(51, 4), pipe.tokenizer)
    with pytest.raises(ParameterError, match="tokenizer must have the scheduler's mask_token_id 5, got 4"):
        TokenDiffusionPipeline(pipe.model, TokenDiffusionScheduler(50, 5), tiny_tokenizer())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": torch.int8}, "dtype must be one of torch.float32, torch.float16, torch.bfloat16, got torch.int8"),
        ({"dtype": "int8"}, "dtype must be one of torch.float32, torch.float16, torch.bfloat16, got 'int8'"),
        ({"dtype": {"default": 1}}, "dtype must be one of torch.float32, torch.float16, torch.bfloat16, got {'def"),
        ({"variant": "fp16"}, "variant must be an argument of TokenDiffusionPipeline.from_pretrained, got 'fp16'"),
        ({"trust_remote_code": True}, "trust_remote_code must be an argument of TokenDiffusionPipeline.from_pretr"),
        ({"device_map": "nonsense"}, "device must be available ("),
    ],
)
def test_bad_ways_to_load_are_named(folders: dict[str, Path], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as raised:
        load(folders["absorbing"], **arguments)
    assert str(raised.value).startswith(message)


def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"checkpoint_path must be a folder that holds config\.json"):
        load(tmp_path)
    for path in (tmp_path / "nowhere", "../a/b", "a/b/c", "./a", "~/a", "nowhere", "ann/not a name"):
        with pytest.raises(ParameterError) as raised:
            TokenDiffusionPipeline.from_pretrained(path)
        assert str(raised.value) == f"pretrained_model_name_or_path must be an existing folder, got {str(path)!r}"
    with pytest.raises(ParameterError) as raised:
        TokenDiffusionPipeline.from_pretrained("ann/nowhere", local_files_only=True, cache_dir=tmp_path / "cache")
    assert str(raised.value).startswith("pretrained_model_name_or_path must be an existing folder or a repository")
    assert "\n" not in str(raised.value)


def test_a_repository_of_the_hub_is_fetched_without_code(
    folders: dict[str, Path], pipe: TokenDiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_in_place(monkeypatch, tmp_path / "cache") as hub:
        hub.repositories["ann/run"] = Repository.of(folders["absorbing"], revisions=("v1",), private=True)
        hub.repositories["ann/run"].files |= {"run.py": b"raise SystemExit", "a.bin": b""}
        fetched = TokenDiffusionPipeline.from_pretrained("ann/run", revision="v1", token="hf_right")
    fetched.set_progress_bar_config(disable=True)
    assert fetched.name_or_path == "ann/run"
    assert "model.safetensors" in hub.fetched and not {"run.py", "a.bin"} & set(hub.fetched)
    assert fetched(seed=1, **STEPS).sequences.equal(pipe(seed=1, **STEPS).sequences)


def test_a_tokenizer_of_another_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["absorbing"], tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ParameterError, match="checkpoint_path must be a folder that holds tokenizer_config"):
        load(tmp_path / "bare")
    pipe = load(tmp_path / "bare", tokenizer_name=str(folders["absorbing"]))
    assert pipe.tokenizer.mask_token_id == MASK


def test_a_hub_that_does_not_answer_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens
    with pytest.raises(ParameterError) as raised:
        TokenDiffusionPipeline.from_pretrained("ann/run", cache_dir=tmp_path)
    assert str(raised.value).startswith("pretrained_model_name_or_path must be an existing folder or a repository")
    assert "\n" not in str(raised.value)


def test_a_byte_level_tokenizer(tmp_path: Path) -> None:
    pipe = load(save_tiny(tmp_path / "bytes", "absorbing", tokenizer=byte_tokenizer()))
    drawn = pipe(["the cat [MASK]", "the"], seq_len=24, num_inference_steps=6, seed=1)
    assert drawn.texts[0].startswith("the cat [MASK]")  # typed in a prompt it is text
    assert drawn.sequences.shape == (2, 24)


@pytest.mark.slow
def test_it_is_imported_only_when_it_is_asked_for() -> None:
    program = "import sys, token_diffusion; a = 'diffusers.pipelines.pipeline_utils' in sys.modules;"
    program += "token_diffusion.TokenDiffusionPipeline; print(a, 'diffusers.pipelines.pipeline_utils' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        import token_diffusion

        token_diffusion.Nonsense  # noqa: B018


@pytest.mark.parametrize("output_type", ["text", "tokens", "pt", "np"])
def test_a_sampler_its_options_and_logprobs_are_those_of_sample(folders: dict[str, Path], output_type: str) -> None:
    pipe, checkpoint = load(folders["absorbing"]), load_checkpoint(folders["absorbing"])
    asked: dict[str, Any] = {
        **STEPS,
        "num_samples": 2,
        "seed": 3,
        "sampler": "margin",
        "threshold": 0.9,
        "logprobs": True,
    }
    output = pipe(output_type=output_type, **asked)
    expected = sample(checkpoint.denoiser, checkpoint.scheduler, **asked)
    assert torch.equal(torch.as_tensor(output.sequences), expected.sequences)
    assert expected.logprobs is not None and output.nfe == [expected.nfe]
    told = torch.as_tensor(output.logprobs, dtype=torch.float64)
    assert torch.equal(told.nan_to_num(1.0), expected.logprobs.nan_to_num(1.0))
    assert pipe(**STEPS).logprobs is None


def test_options_that_a_sampler_has_not_are_refused(folders: dict[str, Path]) -> None:
    pipe = load(folders["absorbing"])
    with pytest.raises(
        ParameterError, match=r"^threshold must be absent, as the sampler ancestral has no such option"
    ):
        pipe(**STEPS, threshold=0.9)
    with pytest.raises(ParameterError, match=r"^sampler must be "):
        pipe(**STEPS, sampler="x")
    padded = pipe(["w1", "w1 w2 w3"], seq_len=6, num_inference_steps=2, logprobs=True, output_type="pt")
    assert padded.logprobs.isnan()[:, 0].all() and padded.logprobs.shape == padded.sequences.shape == (2, 6)
