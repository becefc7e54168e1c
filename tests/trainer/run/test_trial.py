"""What a network does is found out before its first step, and mended or refused there."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import mixer, tiny_model
from tests.workplaces import make_workplace
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.networks.groups import SHARED, Grouping
from token_diffusion.sampling import sample
from trainer.__main__ import main, parse
from trainer.config import TrainingConfig
from trainer.run.trial import try_network

MASK = 4
LINES = ["the cat sat on the mat", "a dog ran", "the dog sat on a mat", "the cat ran to the dog and sat"]
SIZES = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=64"


def config(*switches: str, **changes: object) -> TrainingConfig:
    options = {"train_file": "text.txt", "config_name": "bert", "tokenizer_name": "t", "max_length": 64, **changes}
    parsed = parse("mdlm", [*(f"--{name}={value}" for name, value in options.items()), *switches])
    assert isinstance(parsed, TrainingConfig)
    return parsed


def test_which_rows_share_a_pass_in_training(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    state = torch.get_rng_state()
    assert try_network(config(), tiny_model(), MASK) == SHARED and not caplog.messages
    assert try_network(config("--packing"), mixer("fnet"), MASK) == Grouping("length") and not caplog.messages
    assert try_network(config(), mixer("funnel"), MASK) == Grouping("length", shortest=5)
    assert caplog.messages == [
        "the network sees padding or other sequences: sequences of one length share a forward pass; faster with --packing"
    ]
    assert torch.get_rng_state().equal(state)


def test_a_network_stays_in_its_mode_and_has_no_gradient() -> None:
    model = tiny_model(hidden_dropout_prob=0.5).train()
    try_network(config(), model, MASK)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def reformer() -> Any:
    shape: dict[str, Any] = {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 16], "attention_head_size": 16}
    return tiny_model(
        "reformer",
        is_decoder=False,
        feed_forward_size=64,
        max_position_embeddings=256,
        attn_layers=["lsh", "local"],
        **shape,
    )


def test_a_network_that_hashes_has_its_own_length_in_training_alone() -> None:
    """In evaluation mode it is asked at any length, each row alone, with random planes that are always the same."""
    assert try_network(config("--packing", max_length=256), reformer(), MASK) == Grouping("length")
    for switches in ([], ["--packing"]):
        with pytest.raises(
            ParameterError, match=r"config_name must be a network that can be trained here .* tokens .*got 'bert'"
        ):
            try_network(config(*switches), reformer(), MASK)


def test_what_cannot_be_sampled_from_is_not_trained() -> None:
    model = tiny_model("roberta", pad_token_id=MASK)
    with pytest.raises(ParameterError, match=r"config_name must be .* \(network must tell positions under the mask"):
        try_network(config(), model, MASK)


@pytest.mark.parametrize("command", ["mdlm", "udlm"])
def test_esm_is_trained_and_sampled_from(command: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its token_dropout would make NaN of the first row that is all masks; the folder says that it is off."""
    caplog.set_level(logging.INFO)
    workplace = make_workplace(tmp_path, LINES * 8, vocab_size=290)
    overrides = f"{SIZES},token_dropout=True,position_embedding_type=rotary"
    flags = [f"--train_file={workplace / 'text.txt'}", f"--tokenizer_name={workplace / 'tokenizer'}", "--packing"]
    flags += ["--config_name=esm", f"--config_overrides={overrides}", f"--output_dir={tmp_path / 'run'}"]
    flags += ["--max_length=4", "--max_train_steps=12", "--report_to=none", "--num_validation_samples=1"]
    code = main([command, *flags])
    assert code == 0 and sum("token_dropout" in message for message in caplog.messages) == 1
    assert json.loads((tmp_path / "run" / "final" / "config.json").read_text())["token_dropout"] is False
    checkpoint = load_checkpoint(tmp_path / "run" / "final")
    assert checkpoint.batching == "shared"
    output = sample(checkpoint.denoiser, checkpoint.scheduler, seq_len=12, num_inference_steps=4)
    assert output.sequences.shape == (1, 12)
