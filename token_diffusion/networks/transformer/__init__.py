"""A bidirectional transformer that may be told the time: the network for uniform and hybrid diffusion, and a plain one else.

Pre-norm blocks of rotary attention and SwiGLU. With a time input every norm is adaptive and every residual gated (adaLN of
DiT, arXiv 2212.09748, section 3.2), the modulations zero at first, so that such a network starts as the same function of
the tokens as one without. It is an ordinary model of transformers, `model_type` "token-diffusion": a folder of its own
loads with `AutoModelForMaskedLM.from_pretrained` once token_diffusion is imported.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from .config import TokenDiffusionConfig
from .model import TokenDiffusionForMaskedLM, TokenDiffusionModel

__all__ = ["TokenDiffusionConfig", "TokenDiffusionForMaskedLM", "TokenDiffusionModel"]

AutoConfig.register(TokenDiffusionConfig.model_type, TokenDiffusionConfig, exist_ok=True)
AutoModel.register(TokenDiffusionConfig, TokenDiffusionModel, exist_ok=True)
AutoModelForMaskedLM.register(TokenDiffusionConfig, TokenDiffusionForMaskedLM, exist_ok=True)
