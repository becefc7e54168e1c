"""The flags that say which network is trained, and how it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from ..command_line import CommandLine, refuse


class ModelFlags(CommandLine):
    """The model."""

    model_name_or_path: str = "bert-base-uncased"
    """Masked LM to start from: a folder, or a repository of the hub, name or name@revision. See --config_name to start from
    scratch."""
    model_revision: str | None = None
    """Branch, tag or commit of model_name_or_path on the hub."""
    config_name: str | None = None
    """Train from scratch: a model type (bert, modernbert, …) or a folder with config.json. Needs --tokenizer_name."""
    config_overrides: str | None = None
    """With --config_name: hidden_size=256,num_hidden_layers=4,… The vocabulary comes from the tokenizer."""
    tokenizer_name: str | None = None
    """Tokenizer, a folder or a repository of the hub, if it is not the model's own. `python -m trainer tokenizer` makes one."""
    cache_dir: Path | None = None
    """Where models, tokenizers and data sets from the hub are kept. Default: HF_HOME decides."""
    attn_implementation: str | None = None
    """How attention is computed: sdpa, eager, flash_attention_2, … Default: the model's."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the forward pass; weights and optimizer stay float32. Default: what accelerate launch says."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
    torch_compile: bool = False
    """Compile the model with torch.compile; saved folders are the same. Default: what accelerate launch says."""

    @property
    def precision(self) -> str:
        """In words."""
        kept = (
            "float32" if self.mixed_precision == "no" else f"float32 weights, forward passes in {self.mixed_precision}"
        )
        return f"{kept}; compiled" if self.torch_compile else kept

    @model_validator(mode="after")
    def _one_model(self) -> ModelFlags:
        given = self.model_fields_set
        if self.config_name is None and self.config_overrides is not None:
            refuse("config_overrides", "come with config_name", self.config_overrides)
        if self.config_name is not None and "model_name_or_path" in given:
            refuse("model_name_or_path", "be left out with config_name", self.model_name_or_path)
        if self.config_name is not None and self.model_revision is not None:
            refuse("model_revision", "be left out with config_name", self.model_revision)
        if self.config_name is not None and self.tokenizer_name is None:
            refuse("tokenizer_name", "be given with config_name", None)
        return self
