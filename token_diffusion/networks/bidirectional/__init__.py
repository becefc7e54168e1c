"""Decoders of transformers with attention to all positions, as masked LMs: those that learnt to predict the next token first.

They are ordinary models of transformers: a folder of theirs loads with `AutoModelForMaskedLM.from_pretrained` once
token_diffusion is imported.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from .gpt2 import BidirectionalGPT2Config, BidirectionalGPT2ForMaskedLM, BidirectionalGPT2Model
from .llama import BidirectionalLlamaConfig, BidirectionalLlamaForMaskedLM, BidirectionalLlamaModel
from .qwen2 import BidirectionalQwen2Config, BidirectionalQwen2ForMaskedLM, BidirectionalQwen2Model
from .qwen3 import BidirectionalQwen3Config, BidirectionalQwen3ForMaskedLM, BidirectionalQwen3Model

__all__ = [
    "BidirectionalGPT2Config",
    "BidirectionalGPT2ForMaskedLM",
    "BidirectionalGPT2Model",
    "BidirectionalLlamaConfig",
    "BidirectionalLlamaForMaskedLM",
    "BidirectionalLlamaModel",
    "BidirectionalQwen2Config",
    "BidirectionalQwen2ForMaskedLM",
    "BidirectionalQwen2Model",
    "BidirectionalQwen3Config",
    "BidirectionalQwen3ForMaskedLM",
    "BidirectionalQwen3Model",
]

_kinds: list[tuple[Any, Any, Any]] = [
    (BidirectionalGPT2Config, BidirectionalGPT2Model, BidirectionalGPT2ForMaskedLM),
    (BidirectionalLlamaConfig, BidirectionalLlamaModel, BidirectionalLlamaForMaskedLM),
    (BidirectionalQwen2Config, BidirectionalQwen2Model, BidirectionalQwen2ForMaskedLM),
    (BidirectionalQwen3Config, BidirectionalQwen3Model, BidirectionalQwen3ForMaskedLM),
]
for _config, _body, _model in _kinds:
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _body, exist_ok=True)
    AutoModelForMaskedLM.register(_config, _model, exist_ok=True)
