"""The settings of the commands, each a frozen class whose fields are its flags: no environment variable, no file is read."""

from __future__ import annotations

from .processes import HybridConfig, MDLMConfig, UDLMConfig
from .sft import SFTConfig
from .tokenizer import TokenizerConfig
from .training import TrainingConfig

__all__ = ["HybridConfig", "MDLMConfig", "SFTConfig", "TokenizerConfig", "TrainingConfig", "UDLMConfig"]
