"""The flags of low-rank adapters, which train in the place of the model's own weights."""

from __future__ import annotations

from pydantic import Field, PositiveInt, model_validator

from ..command_line import CommandLine, refuse


class LoraFlags(CommandLine):
    """The adapters."""

    lora_rank: PositiveInt | None = None
    """Train low-rank adapters of this rank (LoRA, by peft) and leave the weights of model_name_or_path as they are, in their own
    type. What is saved are the adapters; `python -m token_diffusion convert` merges them."""
    lora_alpha: float = Field(16.0, gt=0, allow_inf_nan=False)
    """What adapters add is scaled by lora_alpha / lora_rank."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on what adapters read."""
    lora_target_modules: list[str] = Field(default_factory=list)
    """Linear layers that get adapters, by the ends of their names, one or more, as peft takes them. Default: all but the head."""

    @model_validator(mode="after")
    def _one_adapter(self) -> LoraFlags:
        if self.lora_rank is None:
            for name in sorted(self.model_fields_set & {"lora_alpha", "lora_dropout", "lora_target_modules"}):
                refuse(name, "come with lora_rank", getattr(self, name))
        return self
