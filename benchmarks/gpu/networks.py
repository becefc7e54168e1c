"""Networks that are measured on a GPU, of random weights: 22 M (BERT), 110 M (the papers' DiT) and 1 B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.checkpoint import DTYPES, save_checkpoint
from token_diffusion.networks.backends import handed_over
from token_diffusion.networks.denoiser import Denoiser, MaskedLMDenoiser
from token_diffusion.networks.transformer import TokenDiffusionConfig

from ..models import MASK, VOCAB_SIZE, random_model

GPT2, GPT2_MASK = 50258, 50257
"""GPT-2's vocabulary, and the mask behind it."""

DIT: dict[str, Any] = {"time_conditioning": "zero", "mlp": "gelu", "intermediate_size": 3072}
SIZES: dict[str, dict[str, Any]] = {
    "110 M": DIT,
    "1 B": DIT | {"hidden_size": 2048, "num_hidden_layers": 20, "num_attention_heads": 16, "intermediate_size": 8192},
    "tiny": DIT | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
}
"""Of our native network: MDLM's, 12 layers of 768 with adaptive norms; and the same at the width of 2048."""


def network(size: str, device: str, dtype: str) -> Any:
    """ "22 M" or one of `SIZES`, the same weights each time, made where they are to be."""
    if size == "22 M":
        return random_model(device, dtype)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model: Any = AutoModelForMaskedLM.from_config(configuration(size))
    return model.to(DTYPES[dtype]).eval()


def configuration(size: str) -> TokenDiffusionConfig:
    return TokenDiffusionConfig(vocab_size=vocabulary(size)[0], tie_word_embeddings=False, **SIZES[size])


def vocabulary(size: str) -> tuple[int, int]:
    """How many ids, and the mask."""
    return {"22 M": (VOCAB_SIZE, MASK), "tiny": (200, 199)}.get(size, (GPT2, GPT2_MASK))


def scheduler_for(size: str, process: str = "absorbing") -> TokenDiffusionScheduler:
    return TokenDiffusionScheduler(*vocabulary(size), forward_process=process)


def denoiser(model: Any, backend: str, dtype: str) -> Denoiser:
    """The network by a backend, as `load_checkpoint` has it."""
    plain = MaskedLMDenoiser(model)
    return plain if backend == "torch" else handed_over(backend, plain, dtype)


def save(folder: Path, size: str, process: str = "absorbing") -> Path:
    """A checkpoint folder of it, with made-up words, the first three of them special."""
    count, mask = vocabulary(size)
    words = {f"word{index}": index for index in range(count) if index != mask} | {"[MASK]": mask}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="word0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, mask_token="[MASK]", pad_token="word1", eos_token="word2"
    )
    save_checkpoint(folder, network(size, "cpu", "float32"), fast, scheduler_for(size, process))
    return folder
