"""The flags of `python -m trainer evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from ..command_line import CommandLine, refuse


class EvaluateConfig(CommandLine):
    """Measure a saved folder: its bound on text, and the quality of its samples."""

    checkpoint_path: str
    """Folder that the trainer wrote, or any other that serves; or a repository of the hub, org/name or org/name@revision."""
    tokenizer_name: str | None = None
    """Tokenizer, a folder or a repository of the hub, if it is not the checkpoint's own."""
    validation_file: list[Path] = Field(default_factory=list)
    """Text files (UTF-8), or tables, that the model was not trained on, one or more, read as the trainer reads them."""
    text_column: str = "text"
    """Column of a table among them that holds the text."""
    label_column: str | None = None
    """Column of labels, integers or the names that the folder has for them: the network is told each text's, and the bound
    without labels is measured, too. Not with --packing."""
    packing: bool = False
    """As in training: a file is one document, cut into pieces of max_length; without it each line is an example."""
    max_length: int | None = Field(None, ge=2)
    """Tokens in an example at most; bounds compare only at the same length. Default: 256, or the model's positions."""
    num_times: PositiveInt = 8
    """Stratified times t a sequence."""
    per_device_eval_batch_size: PositiveInt = 8
    """Examples a forward pass on each device."""
    seed: int = Field(0, ge=0)
    """Of the noise and of the samples; 0 has the noise of the trainer's own validation."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the forward pass; weights are float32."""

    num_samples: int = Field(0, ge=0)
    """Samples whose quality is measured; 0: none. With validation_file, as many pieces of it are measured beside them."""
    seq_len: PositiveInt | None = None
    """Tokens of a sample. Default: max_length."""
    num_inference_steps: PositiveInt = 128
    """Steps of the time grid."""
    temperature: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Divides the logits; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus."""
    top_k: int = Field(0, ge=0)
    """Most probable tokens kept, 0 for all."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Tokens kept that have at least so much of the most probable one's probability, 0 for all."""
    block_size: PositiveInt | None = None
    """Sample blocks of so many tokens from left to right. Default: all at once, or a block-causal model's own."""
    sampler: str = "ancestral"
    """How they are drawn: one of `python -m token_diffusion samplers` that is for the model's process."""
    sampler_options: str | None = None
    """Of that sampler, key=value,... as in threshold=0.9."""
    generative_model_name_or_path: str | None = None
    """Causal language model, a folder or a repository of the hub, whose perplexity on the samples is measured."""

    output_file: Path | None = None
    """File for the figures (JSON), which also are the last line of stdout."""

    @model_validator(mode="after")
    def _agree(self) -> EvaluateConfig:
        """Rules between flags."""
        if not self.validation_file and not self.num_samples:
            refuse("validation_file or num_samples", "be given: what to measure", None)
        if self.generative_model_name_or_path is not None and not self.num_samples:
            name = self.generative_model_name_or_path
            refuse("generative_model_name_or_path", "come with num_samples", name)
        if self.label_column is not None and not self.validation_file:
            refuse("label_column", "come with validation_file", self.label_column)
        if self.label_column is not None and self.packing:
            refuse("packing", "be left out with label_column: a packed example holds texts of several labels", True)
        if self.label_column == self.text_column:
            refuse("label_column", "be another column than text_column", self.label_column)
        return self
