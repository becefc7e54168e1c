"""BD3-LM's folders: their network's logits, when it samples and when it trains, their loss, and the law of their sampler."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.laws import chi_square_p
from tests.token_diffusion.networks.families.dit_folders import write_folder, write_gpt2
from tests.token_diffusion.networks.families.recording import Recording, recording
from token_diffusion import (
    ParameterError,
    TokenDiffusionForMaskedLM,
    TokenDiffusionScheduler,
    sample,
    sample_block,
    score,
)
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.facts import Frame
from token_diffusion.networks.families import Published, bd3lm

NAMES = ("bd3lm", "bd3lm-plain")
SIZE = 4
OWT = {
    "attn_backend": "sdpa",
    "block_size": 4,
    "cond_dim": 128,
    "cross_attn": True,
    "dropout": 0.1,
    "hidden_dim": 768,
    "model_length": 1024,
    "model_type": "bd3lm",
    "n_blocks": 12,
    "n_heads": 12,
    "sampling_eps_max": 0.999,
    "sampling_eps_min": 0.001,
    "time_conditioning": False,
    "var_min": True,
    "vocab_size": 50258,
}
"""bd3lm-owt-block_size4's config.json, but for what transformers adds to any."""


def load(folder: Path, recorded: Recording, **changes: Any) -> Checkpoint:
    """The recording as a folder of the hub, whose tokenizer is GPT-2's kind."""
    write_folder(folder / "model", recorded, **changes)
    vocab_size = changes.get("vocab_size", recorded.config["vocab_size"])
    return load_checkpoint(folder / "model", tokenizer_name=write_gpt2(folder / "gpt2", vocab_size - 1))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return {name: load(tmp_path_factory.mktemp(name), recording(name)) for name in NAMES}


def asked(checkpoint: Checkpoint, tokens: Tensor, valid: Tensor | None = None, t: float = 0.5) -> Tensor:
    """Logits [B, L, V] of its denoiser."""
    valid = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
    times, positions = torch.full((len(tokens),), t, dtype=torch.float64), torch.arange(tokens.numel())
    return checkpoint.denoiser(tokens, times, valid, positions).view(*tokens.shape, -1)


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_theirs_gives_the_logits_that_they_sample_from(
    name: str, checkpoints: dict[str, Checkpoint]
) -> None:
    """Whole, and where the last block is not; whatever the time, which they are not told."""
    inputs, outputs = recording(name).inputs, recording(name).outputs
    for t in (0.1, 1.0):
        same(asked(checkpoints[name], inputs["tokens"], t=t), outputs["logits"])
    same(asked(checkpoints[name], inputs["tokens"][:, :10]), outputs["short_logits"])


@pytest.mark.parametrize("name", NAMES)
def test_a_noisy_block_behind_clean_ones_is_what_they_train_on(name: str, checkpoints: dict[str, Checkpoint]) -> None:
    """Theirs sees all blocks noisy at once, and beside them all of them clean."""
    inputs, outputs = recording(name).inputs, recording(name).outputs
    for start in range(0, inputs["tokens"].shape[1], SIZE):
        shown = torch.cat([inputs["clean"][:, :start], inputs["tokens"][:, start:]], dim=1)
        own = slice(start, start + SIZE)
        same(asked(checkpoints[name], shown)[:, own], outputs["training_logits"][:, own])
    with torch.inference_mode():
        trained = checkpoints[name].model(inputs["tokens"], clean_ids=inputs["clean"]).logits
    same(trained, outputs["training_logits"])
    assert (outputs["training_logits"] - outputs["logits"]).abs().max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_one_block_as_long_as_the_model_is_attention_to_all(name: str, tmp_path: Path) -> None:
    recorded = recording(name)
    checkpoint = load(tmp_path, recorded, block_size=16)
    assert checkpoint.block_size is None
    same(asked(checkpoint, recorded.inputs["tokens"]), recorded.outputs["whole_logits"])
    assert sample(checkpoint.denoiser, checkpoint.scheduler, seq_len=16, num_inference_steps=4).nfe <= 4


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_moves_the_logits(name: str) -> None:
    recorded, generator = recording(name), torch.Generator().manual_seed(0)
    known = bd3lm.read(recorded.config, recorded.weights)
    assert known is not None

    def answer(weights: dict[str, Tensor]) -> Tensor:
        model = TokenDiffusionForMaskedLM(known.config).eval()  # type: ignore[arg-type]
        model.load_state_dict(known.weights(weights))
        with torch.inference_mode():
            found: Tensor = model(recorded.inputs["tokens"]).logits
        return found

    plain, moving = answer(recorded.weights), 0
    for weight, tensor in recorded.weights.items():
        if tensor.dim() and "inv_freq" not in weight:
            other = tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
            assert (answer(recorded.weights | {weight: other}) - plain).abs().max() > 1e-3, weight
            moving += 1
    assert moving == len(recorded.weights) - 3, "all but rotary frequencies and two of training's"


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_answered_as_if_alone(name: str, checkpoints: dict[str, Checkpoint]) -> None:
    """Beside others, with padding behind it that begins inside a block, and at positions in any order."""
    checkpoint, tokens = checkpoints[name], recording(name).inputs["tokens"]
    together = asked(checkpoint, tokens)
    for row in range(len(tokens)):
        same(asked(checkpoint, tokens[row : row + 1])[0], together[row])
    lengths = torch.tensor([16, 10, 7])
    valid = torch.arange(16) < lengths.unsqueeze(1)
    padded = asked(checkpoint, tokens, valid)
    for row, length in enumerate(lengths.tolist()):
        same(padded[row, :length], asked(checkpoint, tokens[row : row + 1, :length])[0])
    some = torch.randperm(tokens.numel(), generator=torch.Generator().manual_seed(0))[:17]
    few = checkpoint.denoiser(tokens, torch.ones(3).double(), torch.ones_like(tokens, dtype=torch.bool), some)
    same(few, together.flatten(0, 1)[some])


@pytest.mark.parametrize("name", NAMES)
def test_their_loss_is_our_nelbo(name: str, checkpoints: dict[str, Checkpoint]) -> None:
    """Each block at a time of its own, behind clean ones; their first token is not noised."""
    inputs, outputs = recording(name).inputs, recording(name).outputs
    clean, noisy = inputs["clean"], inputs["tokens"].clone()
    noisy[:, 0] = clean[:, 0]
    logits = torch.zeros(*clean.shape, 61, dtype=torch.float64)
    for start in range(0, 16, SIZE):
        own = slice(start, start + SIZE)
        shown = torch.cat([clean[:, :start], noisy[:, start:]], dim=1)
        logits[:, own] = asked(checkpoints[name], shown)[:, own].double()
    ours = checkpoints[name].scheduler.nelbo(logits, clean, noisy, inputs["t"].double())
    torch.testing.assert_close(ours.float(), outputs["loss"], rtol=1e-5, atol=1e-5)


def test_what_is_known_of_them(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["bd3lm"]
    assert (checkpoint.family, checkpoint.block_size, checkpoint.max_seq_len) == ("bd3lm", SIZE, 16)
    assert checkpoint.facts.frame == Frame((59,), ()) and checkpoint.facts.learnt == {59}
    assert checkpoint.scheduler.config.alpha_schedule == "linear"
    assert checkpoint.model.config.time_conditioning == "zero"
    assert checkpoints["bd3lm-plain"].model.config.time_conditioning == "none"


def test_blocks_are_sampled_and_scored(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["bd3lm"]
    tokens = [59, 3, 4, 5, 6, *[-1] * 11]
    output = sample_block(checkpoint.denoiser, checkpoint.scheduler, num_samples=6, seq_len=16, tokens=tokens, seed=1)
    assert not torch.isin(output.sequences, torch.tensor(checkpoint.forbidden)).any()
    assert output.sequences[:, :5].eq(torch.tensor(tokens[:5])).all() and len(output.sequences.unique()) > 10
    texts = output.sequences.tolist()
    (whole,) = score(checkpoint.denoiser, checkpoint.scheduler, texts[:1], given=[[0]], num_times=8)
    assert whole.num_tokens == 15 and 0 < whole.nats < 200
    with pytest.raises(ParameterError, match="denoiser must see the whole sequence for sample"):
        sample(checkpoint.denoiser, checkpoint.scheduler, seq_len=16)


@pytest.mark.parametrize("num_inference_steps", [None, 400])
def test_samples_have_the_law_of_theirs(num_inference_steps: int | None, tmp_path: Path) -> None:
    """Their sampler's counts, the law of the recorded network (first-hitting, block after block), and ours: all the same."""
    recorded = recording("bd3lm-sampler")
    checkpoint, counts = load(tmp_path, recorded), recorded.outputs["counts"].double()
    law = exact_law(checkpoint)
    assert chi_square_p(counts, law) > 1e-3, "theirs"
    output = sample_block(
        checkpoint.denoiser,
        checkpoint.scheduler,
        num_samples=4000,
        seq_len=6,
        num_inference_steps=num_inference_steps,
        tokens=[2, -1, -1, -1, -1, -1],
    )
    code = (output.sequences[:, 1:] * 3 ** torch.arange(4, -1, -1)).sum(-1)
    assert chi_square_p(torch.bincount(code, minlength=3**5).double(), law) > 1e-3, "ours"


def exact_law(checkpoint: Checkpoint) -> Tensor:
    """Of the five tokens behind the first, in the order of `itertools.product`; any order within a block is equally likely."""
    sequences = torch.tensor([(2, *rest) for rest in itertools.product(range(3), repeat=5)])
    law = torch.ones(len(sequences), dtype=torch.float64)
    for start, hidden in ((0, [1]), (2, [2, 3]), (4, [4, 5])):
        orders = list(itertools.permutations(hidden))
        of_block = torch.zeros_like(law)
        for order in orders:
            each = torch.ones_like(law)
            for place, position in enumerate(order):
                shown = sequences.clone()
                shown[:, start + 2 :] = 3
                shown[:, list(order[place:])] = 3
                theta = asked(checkpoint, shown)[:, position, :3].double().softmax(-1)
                each *= theta.gather(1, sequences[:, position : position + 1]).squeeze(1)
            of_block += each / len(orders)
        law *= of_block
    assert law.sum().item() == pytest.approx(1)
    return law


def read(**changes: Any) -> Published:
    known = bd3lm.read(OWT | changes, ())
    assert known is not None
    return known


def test_the_published_networks() -> None:
    known = read()
    assert known.family == "bd3lm" and (known.tokenizer, known.tokenizer_size) == ("gpt2", 50257)
    assert known.scheduler["mask_token_id"] == 50257
    assert (known.config.causal_block_size, known.config.max_position_embeddings) == (4, 1024)
    assert read(block_size=16).config.causal_block_size == 16
    assert read(block_size=1024).config.causal_block_size is None, "bd3lm-owt-block_size1024-pretrain"
    assert read(cross_attn=False).config.causal_block_size is None
    assert bd3lm.read(OWT | {"model_type": "mdlm"}, ()) is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"block_size": 0}, "block_size must be >= 1, got 0"),
        ({"block_size": 2.5}, "block_size must be an integer, got 2.5"),
        ({"causal": True}, "this is the autoregressive baseline of bd3lm"),
        ({"time_conditioning": True}, "time_conditioning must be false, as in all that were released, got True"),
        ({"adaln": "no"}, "adaln must be"),
        ({"adaln": False}, "is left over"),
        ({"n_heads": 5}, "hidden_size must be a multiple of"),
    ],
)
def test_a_config_that_is_not_one_of_theirs_is_refused(changes: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as error:
        load(tmp_path, recording("bd3lm"), **changes)
    assert rule in str(error.value) and "\n" not in str(error.value)


def test_a_config_without_a_block_size_and_weights_that_miss_one_are_refused(tmp_path: Path) -> None:
    recorded = recording("bd3lm")
    without = {name: value for name, value in recorded.config.items() if name != "block_size"}
    with pytest.raises(ParameterError, match=r"hold the config.json of a bd3lm model .*no 'block_size'"):
        load(tmp_path, replace(recorded, config=without))
    weights = {
        name: tensor for name, tensor in recorded.weights.items() if not name.endswith("blocks.1.attn_out.weight")
    }
    with pytest.raises(ParameterError, match="hold all weights of its model"):
        load(tmp_path, replace(recorded, weights=weights))


def test_a_vocabulary_may_go_on_after_the_mask(tmp_path: Path) -> None:
    """Rows that a network was padded with are no tokens: the folder's own scheduler says which id the mask is."""
    recorded = recording("bd3lm")
    weights = {
        name: torch.cat([tensor, torch.full_like(tensor[:3], 2.0)]) if tensor.dim() and len(tensor) == 61 else tensor
        for name, tensor in recorded.weights.items()
    }
    folder = write_folder(tmp_path / "model", replace(recorded, weights=weights), vocab_size=64)
    TokenDiffusionScheduler(64, 60, alpha_schedule="linear").save_pretrained(folder)
    checkpoint = load_checkpoint(folder, tokenizer_name=write_gpt2(tmp_path / "gpt2", 60))
    assert checkpoint.forbidden == (60, 61, 62, 63)
    same(asked(checkpoint, recorded.inputs["tokens"])[..., :61], recorded.outputs["logits"])
    output = sample_block(checkpoint.denoiser, checkpoint.scheduler, num_samples=8, seq_len=16, num_inference_steps=3)
    assert output.sequences.max() < 60
