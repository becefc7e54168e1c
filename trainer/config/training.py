"""What the three processes share: their flags, what identifies a run, and what their commands decide otherwise."""

from __future__ import annotations

import math
from typing import Any, Self

from pydantic import Field, PositiveInt, model_validator

from ..command_line import refuse
from .course import CourseFlags
from .labels import LabelFlags
from .lora import LoraFlags
from .model import ModelFlags
from .optimizer import OptimizerFlags
from .report import ReportFlags
from .text import TextFlags

SCHEDULER_OPTIONS = {
    "alpha_schedule", "eps", "sigma_min", "sigma_max", "exclude_mask_from_uniform", "p_uniform", "gamma", "t_eps"
}  # fmt: skip

# Flags that may differ when a run is resumed: its weights come out the same whatever they are. train_file and
# dataset_name are here because the text itself is compared, wherever it now lies; num_train_epochs and lr_warmup_ratio
# because the steps that come of them are.
FREE_ON_RESUME = {
    "train_file", "dataset_name", "validation_file", "preprocessing_num_workers", "dataloader_num_workers", "output_dir",
    "overwrite_output_dir", "resume_from_checkpoint", "checkpointing_steps", "checkpoints_total_limit", "logging_steps",
    "eval_steps", "save_dtype", "report_to", "num_train_timesteps", "min_timestep", "num_validation_samples",
    "sample_steps", "push_to_hub", "hub_model_id", "hub_token", "hub_private_repo", "cache_dir", "max_eval_samples",
    "per_device_eval_batch_size", "license", "language", "num_train_epochs", "lr_warmup_ratio",
}  # fmt: skip

# These may not where validation has a say in the weights.
CHOICE = {"checkpointing_steps", "eval_steps", "max_eval_samples", "per_device_eval_batch_size"}


class TrainingConfig(ReportFlags, OptimizerFlags, CourseFlags, LabelFlags, TextFlags, LoraFlags, ModelFlags):
    """Without effect."""

    num_train_timesteps: PositiveInt = 1000
    """Accepted and without effect: t is continuous."""
    min_timestep: int = Field(0, ge=0)
    """Accepted and without effect: t is continuous."""

    @model_validator(mode="after")
    def _agree(self) -> TrainingConfig:
        """Rules between flags of several kinds."""
        given = self.model_fields_set
        if self.streaming and self.num_train_epochs is not None:
            refuse(
                "num_train_epochs", "be left out with streaming, which does not know its end", self.num_train_epochs
            )
        if self.streaming and "max_train_steps" not in given:
            refuse("max_train_steps", "be given with streaming", None)
        if self.lora_rank is not None and self.config_name is not None:
            refuse(
                "config_name", "be left out with lora_rank: adapters need a model that has learnt", self.config_name
            )
        if self.label_column is not None and self.packing:
            refuse("packing", "be left out with label_column: a packed example holds texts of several labels", True)
        if self.label_column == self.text_column:
            refuse("label_column", "be another column than text_column", self.label_column)
        return self

    @property
    def process(self) -> str:
        """The forward process that is trained: absorbing, uniform or hybrid."""
        raise NotImplementedError

    @property
    def is_chat(self) -> bool:
        """Whether the text is prompts and answers, and only these are learnt."""
        return False

    @property
    def counts_epochs(self) -> bool:
        """Whether max_train_steps is still to be counted: by epochs of a text whose size is not known yet."""
        return self.num_train_epochs is not None and "max_train_steps" not in self.model_fields_set

    def with_steps(self, num_sequences: int | None, window: int) -> Self:
        """With the steps that come of epochs and of the share of warm-up, `window` examples each."""
        steps, warmup = self.max_train_steps, self.lr_warmup_steps
        if self.counts_epochs:
            assert num_sequences is not None and self.num_train_epochs is not None, "streaming is refused"
            steps = math.ceil(self.num_train_epochs * num_sequences / window)
        if self.lr_warmup_ratio is not None:
            warmup = math.ceil(self.lr_warmup_ratio * steps)
        return self.model_copy(update={"max_train_steps": steps, "lr_warmup_steps": warmup})

    @property
    def free_on_resume(self) -> set[str]:
        """The flags that may differ when the run is resumed."""
        return FREE_ON_RESUME - CHOICE if self.chooses else FREE_ON_RESUME

    @property
    def weighting(self) -> str:
        """The `weighting` of TokenDiffusionScheduler.loss: the NELBO itself, where a command offers no other."""
        return "elbo"

    @property
    def counted(self) -> bool:
        """Whether noise is drawn by its count of tokens and not by its time."""
        return False

    @property
    def margin(self) -> float:
        """How far from 0 and 1 training draws t."""
        return 0.0

    def scheduler_options(self) -> dict[str, Any]:
        """The arguments of TokenDiffusionScheduler that the command line decides."""
        options = self.model_dump(include=SCHEDULER_OPTIONS)
        return {"forward_process": self.process, **options}
