"""How training sequences were framed: read from the tokenizer, written beside the model, followed by all that samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from tests.tiny import MAX_POSITIONS, byte_tokenizer, save_tiny, tiny_model, tiny_tokenizer
from token_diffusion import TokenDiffusionScheduler, sample, sample_block
from token_diffusion.__main__ import main
from token_diffusion.checkpoint import load_checkpoint, save_checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.facts import FACTS_FILE, UNKNOWN, Facts, Frame, frame_of, read_facts
from token_diffusion.text import OPEN, encode
from trainer.data.tokenizer import build_tokenizer

CLS, SEP = 2, 3
FRAMED = Facts(Frame((CLS,), (SEP,)), known=True)


def test_the_frame_is_what_the_tokenizer_puts_around_a_text() -> None:
    assert frame_of(tiny_tokenizer()) == Frame()
    assert frame_of(build_tokenizer(["a b a b"], 300)) == Frame((CLS,), (SEP,))


def test_the_frame_of_a_tokenizer_that_cannot_write_an_a() -> None:
    """Nothing but the frame comes of what has no tokens: where the text would be, it does not say."""
    names = ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.BPE({name: id for id, name in enumerate([*names, *"ACGT"])}, []))
    frame = [(name, names.index(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    special = dict(zip(("pad_token", "cls_token", "sep_token", "mask_token"), names, strict=True))
    assert frame_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)) == Frame((1,), (2,))


def test_a_frame_goes_around_tokens_and_off_again() -> None:
    frame = Frame((1, 2), (3,))
    assert frame.around([7, 8]) == [1, 2, 7, 8, 3] and len(frame) == 3
    assert frame.inside(frame.around([7, 8])) == [7, 8] and frame.inside(frame.around([])) == []
    assert Frame().inside([7]) == [7]


def test_facts_are_read_as_they_were_written(tmp_path: Path) -> None:
    facts = Facts(Frame((CLS,), (SEP,)), frozenset({SEP}), known=True)
    facts.write(tmp_path)
    assert read_facts(tmp_path, 50) == facts
    assert read_facts(tmp_path / "nowhere", 50) == UNKNOWN


def test_what_ends_a_text_may_be_another_token_than_eos(tmp_path: Path) -> None:
    """A folder that does not say so goes by the tokenizer's EOS and SEP, as ever."""
    tokenizer, turn = tiny_tokenizer(), 7
    learnt = frozenset({SEP, turn})
    facts = Facts(learnt=learnt, known=True, end_tokens=frozenset({turn, CLS}))
    assert Facts(learnt=learnt, known=True).ends(tokenizer) == {SEP}
    assert facts.ends(tokenizer) == {turn}
    facts.write(tmp_path)
    assert read_facts(tmp_path, 50) == facts


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"frame": {"prefix": [2]}, "learnt_control_tokens": []}',
        '{"frame": {"prefix": [50], "suffix": []}, "learnt_control_tokens": []}',
        '{"frame": {"prefix": [true], "suffix": []}, "learnt_control_tokens": []}',
        '{"frame": {"prefix": ["2"], "suffix": []}, "learnt_control_tokens": []}',
        '{"frame": {"prefix": [], "suffix": []}, "learnt_control_tokens": 3}',
        '{"frame": {"prefix": [], "suffix": []}, "learnt_control_tokens": [], "end_tokens": [50]}',
        pytest.param("[" * 100_000, id="brackets"),
    ],
)
def test_a_file_that_says_something_else_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / FACTS_FILE).write_text(text)
    with pytest.raises(ParameterError, match=f"checkpoint_path must hold a readable {FACTS_FILE}") as caught:
        read_facts(tmp_path, 50)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("frame", "rule"),
    [
        (Frame((CLS, 4), (SEP,)), "have a frame without the mask token 4"),
        (Frame((CLS,) * MAX_POSITIONS), f"have a frame of fewer tokens than the model's {MAX_POSITIONS} positions"),
    ],
)
def test_a_frame_around_which_nothing_can_be_sampled_is_refused(tmp_path: Path, frame: Frame, rule: str) -> None:
    folder = save_tiny(tmp_path / "folder", "absorbing", facts=Facts(frame, known=True))
    with pytest.raises(ParameterError, match=f"checkpoint_path must {rule}"):
        load_checkpoint(folder)


def test_what_no_sample_may_hold() -> None:
    tokenizer = tiny_tokenizer()  # [PAD] [UNK] [CLS] [SEP] [MASK] w0 …
    assert UNKNOWN.forbidden(tokenizer, 50) == ()
    assert UNKNOWN.forbidden(tokenizer, 53) == (50, 51, 52)
    assert FRAMED.forbidden(tokenizer, 51) == (0, 2, 3, 4, 50)  # the unknown token is content
    assert Facts(known=True, learnt=frozenset({SEP})).forbidden(tokenizer, 50) == (0, 2, 4)


def test_a_text_lies_in_the_frame() -> None:
    tokenizer, frame = tiny_tokenizer(), FRAMED.frame
    assert encode(tokenizer, seq_len=6, prompt="w1", frame=frame) == [CLS, 6, OPEN, OPEN, OPEN, SEP]
    assert encode(tokenizer, seq_len=None, template="w1 [MASK]", frame=frame) == [CLS, 6, OPEN, SEP]
    assert encode(tokenizer, seq_len=3, frame=frame) == [CLS, OPEN, SEP]
    assert encode(tokenizer, seq_len=5, frame=frame, inject_start_token=True) == [CLS, OPEN, OPEN, OPEN, SEP]
    assert encode(tokenizer, seq_len=3, frame=Frame((), (SEP,)), inject_start_token=True) == [CLS, OPEN, SEP]


def test_a_text_that_the_frame_leaves_no_room_for_is_refused() -> None:
    tokenizer, frame = tiny_tokenizer(), FRAMED.frame
    with pytest.raises(ParameterError, match="seq_len must be more than 2, the control tokens of the frame, got 2"):
        encode(tokenizer, seq_len=2, frame=frame)
    with pytest.raises(ParameterError, match="prompt must fit into seq_len = 4 tokens, 2 of which are the frame's"):
        encode(tokenizer, seq_len=4, prompt="w1 w2 w3", frame=frame)
    with pytest.raises(
        ParameterError, match="template must fit into 4 tokens, 2 of which are the frame's, got '3 holes'"
    ):
        encode(tokenizer, seq_len=None, template="[MASK][MASK][MASK]", max_tokens=4, frame=frame)


def likes_control_tokens(folder: Path, facts: Facts | None, process: str, vocab_size: int = 50) -> Path:
    """A folder whose network finds padding, control tokens and ids without a token the most probable."""
    tokenizer, model = tiny_tokenizer(), tiny_model(vocab_size=vocab_size)
    with torch.no_grad():
        bias = model.get_parameter("cls.predictions.bias")
        bias[[0, 2, 3, 4]] += 20.0
        bias[50:] += 20.0
    scheduler = TokenDiffusionScheduler(vocab_size, tokenizer.mask_token_id, forward_process=process)
    save_checkpoint(folder, model, tokenizer, scheduler, facts=facts)
    return folder


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid"])
def test_no_sample_holds_what_is_forbidden(tmp_path: Path, process: str) -> None:

    checkpoint = load_checkpoint(likes_control_tokens(tmp_path / "folder", FRAMED, process, 53))
    tokens = encode(checkpoint.tokenizer, seq_len=24, frame=checkpoint.facts.frame)
    for block_size in (24, 5):
        output = sample_block(
            checkpoint.denoiser, checkpoint.scheduler, num_samples=4, seq_len=24, block_size=block_size,
            num_inference_steps=6, tokens=tokens, top_p=0.9,
        )  # fmt: skip
        assert (output.sequences[:, 0] == CLS).all() and (output.sequences[:, -1] == SEP).all()
        inside = output.sequences[:, 1:-1]
        assert not torch.isin(inside, torch.tensor(checkpoint.forbidden)).any()
        assert checkpoint.forbidden == (0, 2, 3, 4, 50, 51, 52)


def test_a_folder_that_says_nothing_keeps_its_samples(tmp_path: Path) -> None:
    old = load_checkpoint(likes_control_tokens(tmp_path / "old", None, "absorbing"))
    assert not (tmp_path / "old" / FACTS_FILE).exists()

    model = tiny_model(vocab_size=50)
    model.load_state_dict(old.model.state_dict())
    drawn = [
        sample(denoiser, old.scheduler, num_samples=2, seq_len=12, num_inference_steps=4, seed=3).sequences
        for denoiser in (old.denoiser, model)
    ]
    mine, plain = drawn
    assert torch.equal(mine, plain)
    assert torch.isin(mine, torch.arange(4)).any()


def test_ids_without_a_token_are_never_drawn_even_there(tmp_path: Path) -> None:

    checkpoint = load_checkpoint(likes_control_tokens(tmp_path / "gaps", None, "uniform", 60))
    output = sample(checkpoint.denoiser, checkpoint.scheduler, num_samples=4, seq_len=16, num_inference_steps=5)
    assert int(output.sequences.max()) < 50


def test_a_broken_file_of_facts_is_one_line_of_the_shell(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:

    folder = save_tiny(tmp_path / "folder", "absorbing")
    (folder / FACTS_FILE).write_text(json.dumps({"frame": 7}))
    capfd.readouterr()
    assert main(["sample", "--checkpoint_path", str(folder)]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and f"hold a readable {FACTS_FILE}" in error


def test_the_shell_samples_in_the_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:

    folder = likes_control_tokens(tmp_path / "folder", FRAMED, "absorbing")
    flags = ["--checkpoint_path", str(folder), "--seq_len", "8", "--prompt", "w1 w2", "--num_samples", "1", "--json"]
    assert main(["sample-block", "--block_size", "2", *flags]) == 0
    (drawn,) = json.loads(capsys.readouterr().out)["samples"]
    assert drawn["tokens"][:3] == [CLS, 6, 7] and drawn["tokens"][-1] == SEP and len(drawn["tokens"]) == 8
    assert drawn["text"].split()[:2] == ["w1", "w2"] and len(drawn["text"].split()) == 6


def test_byte_level_text_keeps_its_spaces_in_the_frame() -> None:
    tokenizer = byte_tokenizer()
    ids = encode(tokenizer, seq_len=None, template="the cat [MASK]", frame=FRAMED.frame)
    assert ids[0] == CLS and ids[-2:] == [OPEN, SEP]
