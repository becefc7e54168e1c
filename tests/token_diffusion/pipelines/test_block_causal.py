"""A block-causal model in the pipeline: its own blocks, those of each prompt from position 0 on."""

from __future__ import annotations

import pytest

from tests.tiny import tiny_model, tiny_tokenizer
from token_diffusion import ParameterError, TokenDiffusionPipeline, TokenDiffusionScheduler, sample_block
from token_diffusion.text import encode

PROMPTS = ["w1", "w1 w2 w3 w4 w5"]


def test_its_own_blocks_are_the_default_and_no_others_are_taken() -> None:
    model, tokenizer = tiny_model("token-diffusion", causal_block_size=4), tiny_tokenizer()
    scheduler = TokenDiffusionScheduler(50, tokenizer.mask_token_id)
    pipe = TokenDiffusionPipeline(model, scheduler, tokenizer)
    pipe.set_progress_bar_config(disable=True)
    output = pipe(PROMPTS, seq_len=11, num_inference_steps=3, seed=7)
    assert pipe.num_timesteps == 3 * 3, "steps of the prompt that leaves three blocks"
    for prompt, sequence in zip(PROMPTS, output.sequences, strict=True):
        tokens = encode(tokenizer, seq_len=11, prompt=prompt)
        alone = sample_block(model, scheduler, seq_len=11, num_inference_steps=3, seed=7, tokens=tokens)
        assert list(sequence) == alone.sequences[0].tolist()
    assert pipe(PROMPTS, seq_len=11, num_inference_steps=3, seed=7, block_size=4).texts == output.texts
    with pytest.raises(ParameterError, match="block_size must be 4, as the network is block-causal, got 8"):
        pipe(PROMPTS, seq_len=11, block_size=8)
