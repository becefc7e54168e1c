"""The flags that say what a run tells, and to whom."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, SecretStr, model_validator

from ..command_line import CommandLine, refuse


class ReportFlags(CommandLine):
    """What is told, saved and pushed."""

    logging_steps: PositiveInt = 50
    """A log line every N steps."""
    report_to: list[str] = Field(default_factory=lambda: ["tensorboard"])
    """Trackers that accelerate knows, one or more: tensorboard (its files are written into output_dir), wandb, …; none for
    none. Default: tensorboard."""
    num_validation_samples: int = Field(0, ge=0)
    """Texts drawn at each sample step, to watch: logged, written to samples.jsonl in output_dir, shown in TensorBoard
    and in the model card. 0: none."""
    sample_steps: int = Field(0, ge=0)
    """Draw them every N steps, and at the end. 0: at the end only."""
    save_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of the weights in final/."""
    license: str | None = None
    """Licence of the model, as the hub names it (apache-2.0, …), for the model card."""
    language: list[str] = Field(default_factory=list)
    """Languages of the model, as the hub names them (en, …), for the model card."""

    push_to_hub: bool = False
    """Push final/ to the hub at the end; whether that can be done is found out before training."""
    hub_model_id: str | None = None
    """Repository to push to, NAME or OWNER/NAME. Default: the name of output_dir."""
    hub_token: SecretStr | None = None
    """Token that may write. Default: HF_TOKEN or the stored login, which keeps it out of the shell's history."""
    hub_private_repo: bool = False
    """If the repository has to be made, make it private."""

    @model_validator(mode="after")
    def _one_report(self) -> ReportFlags:
        if self.sample_steps and not self.num_validation_samples:
            refuse("num_validation_samples", "be given with sample_steps", self.num_validation_samples)
        if "none" in self.report_to and len(self.report_to) > 1:
            refuse("report_to", "be none alone, or trackers", self.report_to)
        return self

    @property
    def trackers(self) -> list[str]:
        """The trackers by name; empty for none."""
        return [name for name in self.report_to if name != "none"]
