"""A checkpoint is one folder: model and tokenizer of transformers, `scheduler_config.json`, and a model card.

It loads with plain `AutoModelForMaskedLM.from_pretrained` and `TokenDiffusionScheduler.from_pretrained` as well. The layout of
diffusers' pipelines, a subfolder for each part beside a `model_index.json`, is read, too; and so are the formats that others
have published (`networks/families/`).
"""

from __future__ import annotations

from ..networks.masked_lm import max_positions
from .checkpoint import DTYPES, Checkpoint
from .conversion import convert
from .folder import FILES, SCHEDULER_FILE
from .loading import Unloaded, load_checkpoint, open_checkpoint
from .precision import AUTO
from .saving import save_checkpoint
from .tokenizer import holds_tokenizer, load_tokenizer

__all__ = [
    "AUTO",
    "DTYPES",
    "FILES",
    "SCHEDULER_FILE",
    "Checkpoint",
    "Unloaded",
    "convert",
    "holds_tokenizer",
    "load_checkpoint",
    "load_tokenizer",
    "max_positions",
    "open_checkpoint",
    "save_checkpoint",
]
