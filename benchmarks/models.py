"""What is measured on: random weights at the size of the original example scripts, and the demo checkpoints."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, BertTokenizer

from token_diffusion import TokenDiffusionScheduler
from token_diffusion.checkpoint import DTYPES, Checkpoint, load_checkpoint, save_checkpoint
from token_diffusion.networks.cpu.packing import pack_where_it_pays
from token_diffusion.networks.denoiser import MaskedLMDenoiser

from . import ROOT

VOCAB_SIZE, MASK = 30522, 103
"""BERT's, as in the original scripts."""

PROCESSES = ("absorbing", "uniform", "hybrid")
DEMOS = {name: ROOT / "checkpoints" / f"{name}-english" for name in ("mdlm", "udlm", "hybrid")}
"""name -> folder."""


def random_model(device: str = "cpu", dtype: str = "float32") -> Any:
    """BERT's vocabulary and 512 positions, 6 layers of 384: 22.7 M parameters, the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536)
        model: nn.Module = BertForMaskedLM(config)  # as its `to` is known to mypy there
    return model.to(device=device, dtype=DTYPES[dtype]).eval()


def plain_model(folder: Path, device: str = "cpu", dtype: str = "float32") -> Any:
    """The network of a checkpoint as transformers loads it, which is what other people's code runs."""
    model: Any = AutoModelForMaskedLM.from_pretrained(str(folder), local_files_only=True, dtype=DTYPES[dtype])
    return model.to(device).eval()


def as_loaded(model: Any) -> MaskedLMDenoiser:
    """What `load_checkpoint` makes of such a network; `model` stays as it is."""
    own = copy.deepcopy(model)
    pack_where_it_pays(own)
    return MaskedLMDenoiser(own)


def asked(rows: int, length: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a denoiser of BERT's vocabulary is asked: random tokens [B, L], t [B], valid [B, L], `count` positions of the head."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 30_000, (rows, length), generator=generator)
    positions = torch.randperm(rows * length, generator=generator)[:count].sort().values
    return tokens, torch.ones(rows), torch.ones(rows, length, dtype=torch.bool), positions


def random_tokenizer() -> BertTokenizer:
    """Made-up words at BERT's size, the mask at BERT's place."""
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", MASK: "[MASK]"}
    return BertTokenizer({special.get(index, f"word{index}"): index for index in range(VOCAB_SIZE)})


def save_random(folder: Path, process: str) -> Path:
    """A checkpoint folder of the random model with a scheduler of `process`."""
    scheduler = TokenDiffusionScheduler(VOCAB_SIZE, MASK, forward_process=process)
    save_checkpoint(folder, random_model(), random_tokenizer(), scheduler)
    return folder


@contextmanager
def folders(given: Sequence[str | os.PathLike[str]], processes: Sequence[str]) -> Iterator[dict[str, Path]]:
    """name -> checkpoint folder: those `given`, or else random ones of `processes`, gone afterwards."""
    if given:
        yield {Path(path).resolve().name: Path(path) for path in given}
        return
    with TemporaryDirectory(prefix="token-diffusion-") as root:
        yield {f"random-{process}": save_random(Path(root) / process, process) for process in processes}


def load_all(paths: dict[str, Path], device: str, dtype: str, backend: str = "torch") -> dict[str, Checkpoint]:
    """name -> loaded checkpoint."""
    options = {"device": device, "dtype": dtype, "backend": backend}
    return {name: load_checkpoint(path, name=name, **options) for name, path in paths.items()}
