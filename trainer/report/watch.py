"""What can be watched while a run goes on, and is told of it afterwards: its history and its sample texts."""

from __future__ import annotations

import logging
from pathlib import Path

from accelerate import Accelerator, DistributedType
from torch import nn
from transformers import PreTrainedTokenizerBase

from token_diffusion.diffusion.scheduler import TokenDiffusionScheduler
from token_diffusion.errors import ParameterError
from token_diffusion.facts import Facts
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run
from token_diffusion.text import encode, ending

from ..config import TrainingConfig
from ..evaluation.bound import ValidationBound
from ..output.journal import HISTORY, Journal
from . import curve
from .visible import visible

logger = logging.getLogger(__name__)

SAMPLES = "samples.jsonl"
MAX_SAMPLE_LEN = 128
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class Watch:
    """`history.jsonl` (a record a log line and a validation) and `samples.jsonl` in output_dir; of the main process alone.

    A saved folder carries the history up to its step, and a run that goes on from it goes on with that.

    Raises:
        ParameterError: samples are asked for, but the weights are sharded over the processes.
    """

    def __init__(self, config: TrainingConfig, accelerator: Accelerator) -> None:
        if config.num_validation_samples and accelerator.distributed_type in SHARDED:
            rule = "be 0 where no process holds all the weights"
            raise ParameterError("num_validation_samples", rule, config.num_validation_samples)
        self.config, self.accelerator = config, accelerator
        self.history = Journal(config.output_dir / HISTORY)
        self.samples = Journal(config.output_dir / SAMPLES)

    def start(self, step: int = 0, folder: Path | None = None) -> None:
        """Begins after `step`, with what the checkpoint `folder` remembers."""
        if not self.accelerator.is_main_process:
            return
        kept = None if folder is None else folder / HISTORY
        self.history.start(step, kept if kept is not None and kept.is_file() else None)
        if self.config.num_validation_samples or self.samples.path.is_file():
            self.samples.start(step)

    def trained(self, step: int, nelbo: float, lr: float, num_tokens: int) -> None:
        """`nelbo` nats a token, the mean since the record before; `num_tokens` since the beginning."""
        if self.accelerator.is_main_process:
            self.history.append({"step": step, "nelbo": nelbo, "lr": lr, "num_tokens": num_tokens})

    def validated(self, step: int, bound: ValidationBound) -> None:
        if self.accelerator.is_main_process:
            figures = bound.figures()
            record = {"step": step, "validation_nelbo": bound.nelbo, "validation_error": figures["nelbo_error"]}
            self.history.append({**record, "num_times": bound.num_times, "weights": bound.weights})

    def sample(
        self,
        step: int,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        scheduler: TokenDiffusionScheduler,
        facts: Facts,
    ) -> None:
        """Draws texts, the same noise each time; logs them, writes them down, and shows them in TensorBoard."""
        count = self.config.num_validation_samples
        if not count or not self.accelerator.is_main_process:
            return
        seq_len = min(self.config.max_length, MAX_SAMPLE_LEN)
        parameters = SamplingParameters(seq_len=seq_len, num_samples=count, seed=self.config.seed)
        tokens = encode(tokenizer, seq_len=seq_len, frame=facts.frame)
        forbidden = facts.forbidden(tokenizer, scheduler.config.vocab_size)
        rows = run(model, scheduler, parameters, tokens, forbidden=forbidden).sequences.tolist()
        texts = [ending(tokenizer, row, tokens, facts=facts).text for row in rows]
        for index, text in enumerate(texts):
            logger.info("step %d: sample %d: %s", step, index, visible(text))
        self.samples.append({"step": step, "seq_len": seq_len, "seed": self.config.seed, "samples": texts})
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                for index, text in enumerate(texts):
                    tracker.writer.add_text(f"samples/{index}", f"    {text.replace(chr(10), chr(10) + '    ')}", step)

    def write(self, folder: Path) -> None:
        """Puts beside a card what it refers to: the history, and its picture where one can be drawn."""
        (folder / HISTORY).write_text(self.history.text(), encoding="utf-8")
        if (picture := curve.draw(self.history.records)) is not None:
            (folder / curve.FILE_NAME).write_bytes(picture)

    @property
    def has_picture(self) -> bool:
        return curve.can_draw(self.history.records)
