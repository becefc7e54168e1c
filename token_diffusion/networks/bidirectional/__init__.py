"""Decoders of transformers with attention to all positions, as masked LMs: those that learnt to predict the next token first.

They are ordinary models of transformers: a folder of theirs loads with `AutoModelForMaskedLM.from_pretrained` once
token_diffusion is imported.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from .llama import BidirectionalLlamaConfig, BidirectionalLlamaForMaskedLM, BidirectionalLlamaModel

__all__ = ["BidirectionalLlamaConfig", "BidirectionalLlamaForMaskedLM", "BidirectionalLlamaModel"]

for _config, _body, _model in [
    (BidirectionalLlamaConfig, BidirectionalLlamaModel, BidirectionalLlamaForMaskedLM),
]:
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _body, exist_ok=True)
    AutoModelForMaskedLM.register(_config, _model, exist_ok=True)
