"""The flags that say how long a run goes on, and what happens on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from ..command_line import CommandLine, refuse

# numpy's generator takes 32 bits, to which each process adds its rank.
MAX_SEED = 2**32 - 2**16


class CourseFlags(CommandLine):
    """The course of the run."""

    output_dir: Path
    """checkpoint-N/ and final/ are written here, each a complete folder that serves."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Weights, data order, times and noise follow from it."""
    time_sampling: Literal["stratified", "independent"] = "stratified"
    """The times of an optimizer step's examples: spread evenly over (0, 1], or each drawn by itself (more variance)."""
    max_train_steps: PositiveInt = 1000
    """Optimizer steps."""
    num_train_epochs: PositiveFloat | None = Field(None, allow_inf_nan=False)
    """Instead of max_train_steps: how often each example is seen; 1.5 is possible. If both are given, max_train_steps decides."""
    per_device_train_batch_size: PositiveInt = 8
    """Examples a forward pass on each device."""
    per_device_eval_batch_size: PositiveInt | None = None
    """Examples a forward pass of validation. Default: per_device_train_batch_size."""
    gradient_accumulation_steps: PositiveInt = 1
    """Forward passes on each device for one optimizer step. Default: what accelerate launch says."""
    checkpointing_steps: PositiveInt = 500
    """A checkpoint every N steps and after the last, from which the run can be resumed."""
    checkpoints_total_limit: PositiveInt | None = None
    """Keep the newest N checkpoints only; the oldest is deleted when a new one is complete. Without it all are kept."""
    resume_from_checkpoint: str | None = None
    """`latest` (of output_dir; starts anew if that holds no run) or a checkpoint folder: go on as if never stopped. Flags that
    would change the run are refused; max_train_steps may grow if lr_scheduler is constant, constant_with_warmup or
    inverse_sqrt."""
    overwrite_output_dir: bool = False
    """Delete the checkpoints and final/ of an earlier run in output_dir, which is an error without it."""
    eval_steps: int = Field(0, ge=0)
    """Validate every N steps with 2 times t a sequence; the end always has 8. 0: at the end only."""
    load_best_model_at_end: bool = False
    """final/ is the checkpoint of the lowest validation bound, which is kept whatever checkpoints_total_limit is. Needs
    --eval_steps, a multiple of checkpointing_steps."""
    early_stopping_patience: PositiveInt | None = None
    """Stop after N validations in a row without a lower bound. Needs --eval_steps."""

    @model_validator(mode="after")
    def _one_course(self) -> CourseFlags:
        if self.overwrite_output_dir and self.resume_from_checkpoint is not None:
            refuse("overwrite_output_dir", "be left out with resume_from_checkpoint", self.overwrite_output_dir)
        if self.early_stopping_patience is not None and not self.eval_steps:
            refuse("eval_steps", "be given with early_stopping_patience", self.eval_steps)
        if self.load_best_model_at_end and (not self.eval_steps or self.eval_steps % self.checkpointing_steps):
            rule = f"be a multiple of checkpointing_steps ({self.checkpointing_steps}) with load_best_model_at_end"
            refuse("eval_steps", rule, self.eval_steps)
        return self

    @property
    def chooses(self) -> bool:
        """Whether validation has a say in which weights come out."""
        return self.load_best_model_at_end or self.early_stopping_patience is not None
