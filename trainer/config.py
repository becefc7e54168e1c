"""The command line as one frozen settings class a command: no environment variable, no file is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, model_validator

from token_diffusion.errors import ParameterError

from .command_line import CommandLine

AlphaSchedule = Literal["log_linear", "linear", "cosine", "geometric"]
# The names of transformers.get_scheduler that need no arguments beyond the two step counts.
LRScheduler = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]

SCHEDULER_OPTIONS = {
    "alpha_schedule", "eps", "sigma_min", "sigma_max", "exclude_mask_from_uniform", "p_uniform", "gamma", "t_eps"
}  # fmt: skip

# numpy's generator takes 32 bits, to which each process adds its rank.
MAX_SEED = 2**32 - 2**16

# Flags that may differ when a run is resumed: its weights come out the same whatever they are. train_file and
# dataset_name are here because the text itself is compared, wherever it now lies.
FREE_ON_RESUME = {
    "train_file", "dataset_name", "validation_file", "preprocessing_num_workers", "dataloader_num_workers", "output_dir",
    "overwrite_output_dir", "resume_from_checkpoint", "checkpointing_steps", "checkpoints_total_limit", "logging_steps",
    "eval_steps", "save_dtype", "report_to", "num_train_timesteps", "min_timestep", "num_validation_samples",
    "sample_steps", "push_to_hub", "hub_model_id", "hub_token", "hub_private_repo",
}  # fmt: skip


class TokenizerConfig(CommandLine):
    """Train a byte-level BPE tokenizer on text; decoding gives the text back exactly."""

    train_file: list[Path] = Field(min_length=1)
    """Text files (UTF-8), one or more, or tables: .csv, .tsv, .json, .jsonl, .parquet, .arrow; compressed or not."""
    text_column: str = "text"
    """Column of a table that holds the text."""
    output_dir: Path = Path("tokenizer-output")
    """Folder to write; AutoTokenizer and --tokenizer_name read it."""
    vocab_size: int = Field(4096, ge=261)
    """Tokens in all: 5 special ones, 256 bytes, and merges. A small text may yield fewer."""
    min_frequency: PositiveInt = 2
    """A pair of tokens is merged only if it occurs this often."""
    lowercase: bool = False
    """Lowercase the text first (decoding then gives lowercase back)."""


class TrainingConfig(CommandLine):
    """What the three processes share."""

    process: ClassVar[str]

    model_name_or_path: str = "bert-base-uncased"
    """Masked LM to start from: a folder or a model id. See --config_name to start from scratch."""
    config_name: str | None = None
    """Train from scratch: a model type (bert, modernbert, …) or a folder with config.json. Needs --tokenizer_name."""
    config_overrides: str | None = None
    """With --config_name: hidden_size=256,num_hidden_layers=4,… The vocabulary comes from the tokenizer."""
    tokenizer_name: str | None = None
    """Tokenizer folder or id, if it is not the model's own. `python -m trainer tokenizer` makes one."""

    dataset_name: str | None = None
    """Data set for the `datasets` library: an id, a folder, what `save_to_disk` wrote, or a file. Either this or
    --train_file."""
    dataset_config_name: str | None = None
    """Configuration of the data set."""
    text_column: str = "text"
    """Column of the data set, or of a table, that holds the text."""
    train_file: list[Path] = Field(default_factory=list)
    """Text files (UTF-8), one or more. With --packing a file is one document, newlines included; without it each line
    is an example and blank lines are dropped. Or tables, in which a row is a document: .csv, .tsv, .json (a list), .jsonl,
    .parquet, .arrow, see --text_column. Files may be compressed: .gz, .bz2, .xz."""
    validation_file: list[Path] = Field(default_factory=list)
    """Text files to validate on, read as --train_file."""
    validation_split_percentage: float = Field(0, ge=0, lt=100)
    """Hold out the last N percent of the training text for validation, before it is tokenised: of the characters of
    packed files, else of the documents."""
    packing: bool = False
    """Join documents with the tokenizer's EOS (else SEP) between them and cut the stream into pieces of max_length.
    Without it a document is an example: truncated, padded to its batch, with the special tokens that the tokenizer
    adds. Special tokens and padding are never noised and never counted."""
    max_length: int = Field(256, ge=2)
    """Tokens in an example at most."""
    dataloader_num_workers: int = Field(0, ge=0)
    """Processes that prepare batches; 0 prepares them in the training process."""
    preprocessing_num_workers: PositiveInt | None = None
    """Threads that tokenise the text before training (a tokenizer written in Python has one). Default: one a core. Text
    of over a million characters is tokenised once and kept in the cache folder of `datasets` (HF_DATASETS_CACHE)."""
    streaming: bool = False
    """Read and tokenise the text while training, never all of it at once. Needs --max_train_steps."""
    shuffle_buffer_size: PositiveInt = 10_000
    """With --streaming: sequences are shuffled in blocks of this many."""

    output_dir: Path
    """checkpoint-N/ and final/ are written here, each a complete folder that serves."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Weights, data order, times and noise follow from it."""
    max_train_steps: PositiveInt = 1000
    """Optimizer steps."""
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
    logging_steps: PositiveInt = 50
    """A log line every N steps."""
    eval_steps: int = Field(0, ge=0)
    """Validate every N steps with 2 times t a sequence; the end always has 8. 0: at the end only."""
    num_validation_samples: int = Field(0, ge=0)
    """Texts drawn at each sample step, to watch: logged, written to samples.jsonl in output_dir, shown in TensorBoard
    and in the model card. 0: none."""
    sample_steps: int = Field(0, ge=0)
    """Draw them every N steps, and at the end. 0: at the end only."""
    per_device_train_batch_size: PositiveInt = 8
    """Examples a forward pass on each device."""
    gradient_accumulation_steps: PositiveInt = 1
    """Forward passes on each device for one optimizer step."""

    learning_rate: PositiveFloat = Field(5e-5, allow_inf_nan=False)
    """Highest learning rate of AdamW."""
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False)
    """For matrices; biases and norms are not decayed."""
    lr_scheduler: LRScheduler = "cosine"
    """Shape of the learning rate over the steps."""
    lr_warmup_steps: int = Field(100, ge=0)
    """Steps over which the learning rate rises to its highest value."""
    max_grad_norm: PositiveFloat = Field(1.0, allow_inf_nan=False)
    """Gradients are scaled down to this norm."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the first moment."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """AdamW's decay of the second moment."""
    adam_epsilon: PositiveFloat = Field(1e-8, allow_inf_nan=False)
    """AdamW's epsilon."""
    ema_decay: float = Field(0, ge=0, lt=1)
    """Keep a moving average of the weights (0.9999 is usual); validation and saved folders then use it. 0: off."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the forward pass; weights and optimizer stay float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
    torch_compile: bool = False
    """Compile the model with torch.compile; saved folders are the same."""
    save_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of the weights in final/."""
    report_to: str = "tensorboard"
    """A tracker that accelerate knows: tensorboard (its files are written into output_dir), wandb, …; none for none."""

    push_to_hub: bool = False
    """Push final/ to the hub at the end; whether that can be done is found out before training."""
    hub_model_id: str | None = None
    """Repository to push to, NAME or OWNER/NAME. Default: the name of output_dir."""
    hub_token: SecretStr | None = None
    """Token that may write. Default: HF_TOKEN or the stored login, which keeps it out of the shell's history."""
    hub_private_repo: bool = False
    """If the repository has to be made, make it private."""

    num_train_timesteps: PositiveInt = 1000
    """Accepted and without effect: t is continuous."""
    min_timestep: int = Field(0, ge=0)
    """Accepted and without effect: t is continuous."""

    @model_validator(mode="after")
    def _agree(self) -> TrainingConfig:
        """Rules between flags."""
        given = self.model_fields_set
        if not self.train_file and self.dataset_name is None:
            raise ParameterError("dataset_name or train_file", "be given: the text to train on", None)
        if self.train_file and self.dataset_name is not None:
            raise ParameterError("dataset_name", "be left out when train_file is given", self.dataset_name)
        if self.validation_file and self.validation_split_percentage:
            percent = self.validation_split_percentage
            raise ParameterError("validation_split_percentage", "be left out when validation_file is given", percent)
        if self.sample_steps and not self.num_validation_samples:
            raise ParameterError("num_validation_samples", "be given with sample_steps", self.num_validation_samples)
        if self.config_name is None and self.config_overrides is not None:
            raise ParameterError("config_overrides", "come with config_name", self.config_overrides)
        if self.config_name is not None and "model_name_or_path" in given:
            raise ParameterError("model_name_or_path", "be left out with config_name", self.model_name_or_path)
        if self.config_name is not None and self.tokenizer_name is None:
            raise ParameterError("tokenizer_name", "be given with config_name", None)
        if self.overwrite_output_dir and self.resume_from_checkpoint is not None:
            rule = "be left out with resume_from_checkpoint"
            raise ParameterError("overwrite_output_dir", rule, self.overwrite_output_dir)
        if self.streaming and "max_train_steps" not in given:
            raise ParameterError("max_train_steps", "be given with streaming", None)
        if self.streaming and self.dataloader_num_workers:
            rule = "be 0 with streaming: a thread reads ahead"
            raise ParameterError("dataloader_num_workers", rule, self.dataloader_num_workers)
        if self.streaming and self.validation_split_percentage:
            percent = self.validation_split_percentage
            raise ParameterError("validation_split_percentage", "be left out with streaming", percent)
        return self

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


class ScheduledConfig(TrainingConfig):
    """The flags of a process whose alpha(t) can be chosen."""

    alpha_schedule: AlphaSchedule = "log_linear"
    """alpha(t), the probability that a token is clean at time t."""
    eps: float = Field(1e-3, gt=0, lt=1)
    """log_linear: alpha(t) = 1 - (1 - eps) t."""
    sigma_min: PositiveFloat = Field(1e-4, allow_inf_nan=False)
    """geometric: -log alpha at t = 0."""
    sigma_max: PositiveFloat = Field(20.0, allow_inf_nan=False)
    """geometric: -log alpha at t = 1."""


class MDLMConfig(ScheduledConfig):
    """Train an absorbing diffusion (MDLM): noise turns tokens into the mask token."""

    process: ClassVar[str] = "absorbing"
    output_dir: Path = Path("mdlm-output")
    """checkpoint-N/ and final/ are written here, each a complete folder that serves."""
    estimator: Literal["time", "count"] = "time"
    """What is stratified over a step: the time t, each token masked with probability 1 - alpha(t) and weighed by
    -alpha'(t) / (1 - alpha(t)); or the count l of masked tokens among n, each weighed by n / l: the same bound with
    less variance (LLaDA). Validation and samples do not depend on it."""

    @property
    def counted(self) -> bool:
        return self.estimator == "count"


class UDLMConfig(ScheduledConfig):
    """Train a uniform diffusion (UDLM): noise turns tokens into uniformly drawn ones."""

    process: ClassVar[str] = "uniform"
    output_dir: Path = Path("udlm-output")
    """checkpoint-N/ and final/ are written here, each a complete folder that serves."""
    exclude_mask_from_uniform: bool = True
    """Noise never draws the mask token."""


class HybridConfig(TrainingConfig):
    """Train a hybrid diffusion (GIDD): noise turns tokens into the mask token or uniformly drawn ones."""

    process: ClassVar[str] = "hybrid"
    output_dir: Path = Path("hybrid-output")
    """checkpoint-N/ and final/ are written here, each a complete folder that serves."""
    p_uniform: float = Field(0.1, ge=0, lt=1)
    """Share of tokens that are uniform noise at t = 1/2."""
    gamma: float = Field(1.0, gt=0, le=2)
    """Exponent of the uniform noise's rise and fall over time."""
    t_eps: float = Field(1e-4, gt=0, lt=0.5)
    """Training draws t this far from 0 and 1. Validation and sampling know no such margin."""
    loss_weighting: Literal["elbo", "clip", "dynamic"] = "dynamic"
    """What is trained on: the NELBO (elbo), the NELBO with its weights cut off at 1 (clip), or GIDD's default (dynamic):
    2 on masks, 1 on noise, little on clean tokens. What is reported is the NELBO itself whatever this is."""

    @property
    def margin(self) -> float:
        return self.t_eps

    @property
    def weighting(self) -> str:
        return self.loss_weighting
