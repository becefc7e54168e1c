"""Masked LMs that dLLM taught to answer: ordinary folders with a chat template, and no other masked LM without a scheduler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.tiny import byte_tokenizer, save_tiny, tiny_model
from token_diffusion import sample
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.networks.families import published
from token_diffusion.text import encode

CHAT = (
    "{% for message in messages %}{{ '[Question]\n' + message.content + '\n[/Question]\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[Answer]\n{% endif %}"
)


def write_chat(folder: Path, architecture: str = "modernbert", template: bool = True) -> Path:
    """A folder as dLLM's trainer saves one: model, tokenizer, no scheduler."""
    tokenizer = byte_tokenizer()
    if template:
        tokenizer.chat_template = CHAT
    tiny_model(architecture, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", ["modernbert", "bert", "roberta"])
def test_a_masked_lm_with_a_chat_template_is_absorbing(architecture: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_chat(tmp_path / "chat", architecture))
    tokenizer, config = checkpoint.tokenizer, checkpoint.scheduler.config
    assert checkpoint.family == "bert-chat" and checkpoint.process == "absorbing"
    assert (config.vocab_size, config.mask_token_id) == (len(tokenizer), tokenizer.mask_token_id)
    assert checkpoint.facts.end_tokens == checkpoint.facts.learnt == {tokenizer.pad_token_id}
    assert len(checkpoint.facts.frame) == 0
    plain = tiny_model(architecture, len(tokenizer))
    tokens = torch.arange(5, 25).unsqueeze(0)
    where = torch.arange(20)
    logits = checkpoint.denoiser(tokens, torch.ones(1), torch.ones_like(tokens, dtype=torch.bool), where)
    torch.testing.assert_close(logits, plain(input_ids=tokens).logits[0].detach(), rtol=1e-4, atol=1e-4)
    canvas = encode(tokenizer, seq_len=24, prompt="the cat", vocab_size=len(tokenizer))
    drawn = sample(checkpoint.denoiser, checkpoint.scheduler, num_samples=4, seq_len=24, tokens=canvas)
    assert not torch.isin(drawn.sequences, torch.tensor(checkpoint.forbidden)).any()


def test_one_without_a_chat_template_has_to_say_what_its_noise_is(tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as caught:
        load_checkpoint(write_chat(tmp_path / "plain", template=False))
    said = str(caught.value)
    assert "scheduler_config.json" in said and "bert-chat" in said and "'modernbert'" in said and "\n" not in said


def test_a_folder_of_ours_with_a_chat_template_is_ours(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT
    folder = save_tiny(tmp_path / "ours", "uniform", "modernbert", tokenizer)
    assert published(folder) is None
    checkpoint = load_checkpoint(folder)
    assert checkpoint.family is None and checkpoint.process == "uniform"


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"chat_template": None})])
def test_a_tokenizer_config_that_says_nothing_is_none(content: str, tmp_path: Path) -> None:
    folder = write_chat(tmp_path / "chat", template=False)
    (folder / "tokenizer_config.json").write_text(content)
    assert published(folder) is None
