"""The flags that say which text is trained on, and how it is cut into examples."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt, model_validator

from ..command_line import CommandLine, refuse


class TextFlags(CommandLine):
    """The text."""

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
    .parquet, .arrow, see --text_column. Text, .csv, .tsv and .json may be compressed: .gz, .bz2, .xz."""
    validation_file: list[Path] = Field(default_factory=list)
    """Text files to validate on, read as --train_file."""
    validation_split_percentage: float = Field(0, ge=0, lt=100)
    """Hold out the last N percent of the training text for validation, before it is tokenised: of the characters of
    packed files, else of the documents."""
    max_train_samples: PositiveInt | None = None
    """Train on the first N examples only."""
    max_eval_samples: PositiveInt | None = None
    """Validate on the first N examples only."""
    packing: bool = False
    """Join documents with the tokenizer's EOS (else SEP) between them and cut the stream into pieces of max_length.
    Without it a document is an example: truncated, padded to its batch, with the special tokens that the tokenizer
    adds. Special tokens and padding are never noised and never counted."""
    learn_end: bool = False
    """Learn where texts end, and so how long they are: the end token (EOS, else SEP) fills each example up to max_length, and is
    noised and counted as any other. Samples of max_length tokens then hold texts of any length. Not with --packing."""
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
    """With --streaming: sequences are shuffled in blocks of this many, or of what is left of an epoch."""

    @model_validator(mode="after")
    def _one_text(self) -> TextFlags:
        percent = self.validation_split_percentage
        if not self.train_file and self.dataset_name is None:
            refuse("dataset_name or train_file", "be given: the text to train on", None)
        if self.train_file and self.dataset_name is not None:
            refuse("dataset_name", "be left out when train_file is given", self.dataset_name)
        if self.validation_file and percent:
            refuse("validation_split_percentage", "be left out when validation_file is given", percent)
        if self.streaming and self.dataloader_num_workers:
            rule = "be 0 with streaming: a thread reads ahead"
            refuse("dataloader_num_workers", rule, self.dataloader_num_workers)
        if self.streaming and percent:
            refuse("validation_split_percentage", "be left out with streaming", percent)
        if self.streaming and self.max_train_samples is not None:
            refuse("max_train_samples", "be left out with streaming", self.max_train_samples)
        if self.learn_end and self.packing:
            refuse("learn_end", "be left out with packing, in whose pieces texts begin and end anywhere", True)
        return self
