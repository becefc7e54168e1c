"""The flags of supervised fine-tuning: what is learnt of a conversation, and by which process."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ..command_line import refuse
from .processes import HybridConfig, MDLMConfig, UDLMConfig
from .training import TrainingConfig

COMMANDS: dict[str, type[TrainingConfig]] = {"absorbing": MDLMConfig, "uniform": UDLMConfig, "hybrid": HybridConfig}
"""The command whose flags count, by process."""


class SFTConfig(HybridConfig, UDLMConfig, MDLMConfig):
    """Fine-tune on conversations (SFT): prompts are given, answers are learnt, and where they end."""

    output_dir: Path = Path("sft-output")
    """checkpoint-N/ and final/ are written here, each a complete folder that serves."""
    forward_process: Literal["absorbing", "uniform", "hybrid"] | None = None
    """The process, of which the flags of mdlm, udlm or hybrid count. Default: that of the model's folder, else absorbing."""
    chat_template_path: Path | None = None
    """A chat template in Jinja (a file), or a folder of a tokenizer that has one. Default: that of the tokenizer. Messages
    need one; a prompt and a completion that are strings do not."""
    assistant_only_loss: bool = False
    """Learn every answer of the assistant, each in an example of its own behind what came before it. Without it only the last
    one of a conversation is learnt."""
    random_length_ratio: float = Field(0.01, ge=0, le=1)
    """Share of the examples that are cut to a random length, as LLaDA has it: the others all have max_length tokens."""

    @model_validator(mode="after")
    def _one_kind_of_text(self) -> SFTConfig:
        for name in ("packing", "streaming", "learn_end"):
            if getattr(self, name):
                rule = (
                    "be left out with sft: each answer has an example of its own, filled up to max_length with its end"
                )
                refuse(name, rule, True)
        if self.label_column is not None:
            refuse(
                "label_column",
                "be left out with sft: what an answer is to be like, its prompt says",
                self.label_column,
            )
        if "text_column" in self.model_fields_set:
            refuse(
                "text_column", "be left out with sft, which reads messages, or prompt and completion", self.text_column
            )
        return self

    @property
    def is_chat(self) -> bool:
        return True

    @property
    def process(self) -> str:
        return self.forward_process or "absorbing"

    def scheduler_options(self) -> dict[str, Any]:
        known = COMMANDS[self.process].model_fields
        return {
            name: value for name, value in super().scheduler_options().items() if name in {"forward_process", *known}
        }

    def check_process(self, process: str) -> None:
        """Raises `ParameterError` for a flag that was given and is of another process than that."""
        theirs = {name for command in COMMANDS.values() for name in command.model_fields}
        for name in sorted(self.model_fields_set & theirs - COMMANDS[process].model_fields.keys()):
            refuse(name, f"be left out where the process is {process}", getattr(self, name))

    @property
    def counted(self) -> bool:
        return self.process == "absorbing" and self.estimator == "count"

    @property
    def margin(self) -> float:
        return self.t_eps if self.process == "hybrid" else 0.0

    @property
    def weighting(self) -> str:
        return self.loss_weighting if self.process == "hybrid" else "elbo"
