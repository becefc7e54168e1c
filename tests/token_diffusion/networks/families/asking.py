"""What holds of every network that runs a recorded one, asked through its checkpoint's denoiser."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.token_diffusion.networks.families.recording import Recording
from token_diffusion import ParameterError
from token_diffusion.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from token_diffusion.networks.families import published
from token_diffusion.networks.weights.reading import read_published

ROUNDING = 1e-5


def ask(checkpoint: Checkpoint, tokens: Tensor, t: Tensor, valid: Tensor | None = None) -> Tensor:
    """The logits at all positions, [B, L, V]."""
    valid = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
    logits = checkpoint.denoiser(tokens, t.double(), valid, torch.arange(tokens.numel()))
    return logits.view(*tokens.shape, -1)


def check_alone(checkpoint: Checkpoint, recorded: Recording) -> None:
    """A row alone, with padding, beside others, asked at any positions: its logits are what they were."""
    tokens, t = recorded.inputs["tokens"], recorded.inputs["t"]
    together = ask(checkpoint, tokens, t)
    for row in range(len(tokens)):
        alone = ask(checkpoint, tokens[row : row + 1], t[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=ROUNDING)
    cut, length = tokens.shape[1] - 5, tokens.shape[1]
    valid = torch.arange(length) < torch.tensor([length, cut, length, cut]).unsqueeze(1)
    padded = ask(checkpoint, torch.where(valid, tokens, 0), t, valid)
    torch.testing.assert_close(padded[0], together[0], rtol=0, atol=ROUNDING)
    short = ask(checkpoint, tokens[1:2, :cut], t[1:2])
    torch.testing.assert_close(padded[1, :cut], short[0], rtol=0, atol=ROUNDING)
    assert (short[0] - together[1, :cut]).abs().max() > 0.01  # what comes after is seen
    places = torch.randperm(tokens.numel(), generator=torch.Generator().manual_seed(0))[:11]
    some = checkpoint.denoiser(tokens, t.double(), torch.ones_like(tokens, dtype=torch.bool), places)
    torch.testing.assert_close(some, together.flatten(0, 1)[places], rtol=0, atol=ROUNDING)


def check_every_weight_matters(folder: Path, recorded: Recording) -> None:
    """Each of the authors' tensors that moves moves the logits; if it is one that is computed here, it is refused."""
    known = published(folder)
    assert known is not None
    model, missing = read_published("checkpoint_path", folder, known, dtype=torch.float32)
    assert not missing
    model.eval()

    def logits() -> Tensor:
        with torch.inference_mode():
            return model(input_ids=recorded.inputs["tokens"], timesteps=recorded.inputs["t"]).logits

    before = logits()
    assert not torch.equal(before[0, 0], before[1, 0])
    generator = torch.Generator().manual_seed(0)
    for name, tensor in recorded.weights.items():
        noise = 0.1 * torch.randn(tensor.shape, generator=generator)
        moved = recorded.weights | {name: tensor + noise}
        if name.startswith("rotary_emb.") or name == "logit_bias":
            with pytest.raises(ParameterError, match=name):
                known.weights(moved)
            continue
        model.load_state_dict(known.weights(moved))
        assert (logits() - before).abs().max() > 1e-3, name


def asked(checkpoint: Checkpoint, tokens: Tensor, valid: Tensor, positions: Tensor | None = None) -> Tensor:
    """Logits [n, V] of a network that is not told the time at the positions, at all valid ones without any."""
    where = valid.flatten().nonzero().squeeze(1) if positions is None else positions
    return checkpoint.denoiser(tokens, torch.full((len(tokens),), 0.5, dtype=torch.float64), valid, where)


def check_saved(checkpoint: Checkpoint, recorded: Recording, folder: Path) -> None:
    """Saved, it is a folder of our own that is the same in all."""
    parts = checkpoint.model, checkpoint.tokenizer, checkpoint.scheduler
    save_checkpoint(folder, *parts, facts=checkpoint.facts)
    ours, valid = load_checkpoint(folder), recorded.inputs["valid"]
    logits = asked(ours, recorded.inputs["tokens"], valid)
    torch.testing.assert_close(logits, recorded.outputs["logits"][valid], rtol=0, atol=1e-5)
    assert (ours.family, ours.facts, ours.max_seq_len) == (None, checkpoint.facts, checkpoint.max_seq_len)
    assert ours.forbidden == checkpoint.forbidden
    assert ours.tokenizer.chat_template == checkpoint.tokenizer.chat_template
    for text in ("the cat sat on 12 mats!", "the\n cat"):
        assert ours.tokenizer(text)["input_ids"] == checkpoint.tokenizer(text)["input_ids"]
