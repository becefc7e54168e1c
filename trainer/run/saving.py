"""What a run writes, a folder that serves with the state to resume from in it, and how it goes on from there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase

from token_diffusion.checkpoint import save_checkpoint
from token_diffusion.diffusion.scheduler import TokenDiffusionScheduler
from token_diffusion.errors import ParameterError

from ..config import TrainingConfig
from ..data.feed import Feed
from ..data.streaming import Position
from ..errors import TrainingError, in_one_line
from ..evaluation.bound import ValidationBound
from ..output.checkpoints import FINAL, checkpoint_name, prune, saved_steps, set_dtype, tidy
from ..output.provenance import base_name, code_version, command_line, hub_dataset, hub_model
from ..output.resume import (
    RunFacts,
    check_same_data,
    check_same_steps,
    flags_of,
    random_state,
    read_facts,
    read_tensors,
    set_random_state,
    write_state,
)
from ..report.card import CardFacts, model_card
from ..report.metadata import HubFacts
from ..report.watch import Watch
from .best import Best
from .learner import Learner
from .meter import Meter

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run has come: optimizer steps, tokens that counted, its next log line's numbers, its best validation."""

    step: int = 0
    num_tokens: int = 0
    meter: Meter = field(default_factory=Meter)
    best: Best = field(default_factory=Best)


@dataclass(frozen=True)
class Saver:
    """Writes a run's folders, and has the run go on from one.

    For the model card: `arguments` is the run's command line, `repo_id` where on the hub it is pushed.
    """

    config: TrainingConfig
    accelerator: Accelerator
    tokenizer: PreTrainedTokenizerBase
    scheduler: TokenDiffusionScheduler
    feed: Feed
    learner: Learner
    watch: Watch
    progress: Progress
    arguments: Sequence[str]
    repo_id: str | None = None

    def save(self, name: str, bound: ValidationBound | None, dtype: str = "float32") -> None:
        """Writes the folder `name`, with what it takes to resume unless it is the final one. Every process must call it.

        Raises:
            TrainingError: it could not be written; what was there before is as it was.
        """
        output_dir = self.config.output_dir
        state = None if name == FINAL else self.learner.state_dict()
        generators, positions = gather_object([random_state()]), gather_object([self.feed.position])
        weights = self.learner.saved_weights(dtype)

        def write_more(unfinished: Path) -> None:
            self.watch.write(unfinished)
            if self.learner.adapter is None:
                set_dtype(unfinished, dtype)
            if state is not None:
                write_state(unfinished, self._facts(positions), {**state, "random": generators})

        if self.accelerator.is_main_process:
            try:
                save_checkpoint(
                    output_dir / name,
                    self.learner.adapter or self.learner.bare,
                    self.tokenizer,
                    self.scheduler,
                    facts=self.feed.facts,
                    card=self._card(bound, dtype),
                    state_dict=weights,
                    write_more=write_more,
                )
            except Exception as error:  # safetensors, tokenizers and torch each raise what they like for a full disk
                tidy(output_dir)
                raise TrainingError(self._not_saved(output_dir / name, error)) from error
            best = self.progress.best.step if self.config.load_best_model_at_end else None
            prune(output_dir, self.config.checkpoints_total_limit, best)
            logger.info("saved %s", output_dir / name)
        self.accelerator.wait_for_everyone()
        self.progress.meter.restart_clock()

    def resume(self, checkpoint: Path) -> None:
        """Has the run go on from the checkpoint. Raises `ParameterError` if it is not of this run."""
        facts, process = read_facts(checkpoint), self.accelerator.process_index
        check_same_data(facts, self.config, self.feed.fingerprint, self._chosen_on, checkpoint)
        check_same_steps(facts, self.config, checkpoint)
        best = Best(**facts.best)
        if self.config.load_best_model_at_end and best.step:
            self._check_best(best.step, checkpoint)
        state = read_tensors(checkpoint)
        self.learner.load_state_dict(state)
        set_random_state(state["random"][process])
        self.progress.meter.load_state_dict(facts.meter)
        position = facts.positions[process]
        self.feed.position = None if position is None else Position(*position)
        self.progress.step, self.progress.num_tokens, self.progress.best = facts.step, facts.num_tokens, best
        logger.info("resumed from %s at step %d of %d", checkpoint, facts.step, self.config.max_train_steps)

    def load_best(self) -> None:
        """Ends with the weights of the best validation on the way. Every process must call it."""
        folder = self.config.output_dir / checkpoint_name(self.progress.best.step)
        self.learner.choose(self.progress.best.step, read_tensors(folder))
        logger.info("the best validation was that of step %d: final is made of it", self.progress.best.step)

    def _check_best(self, step: int, checkpoint: Path) -> None:
        """Raises `ParameterError` if the checkpoint that final/ may be made of is not there."""
        name = checkpoint_name(step)
        if not (self.config.output_dir / name).is_dir():
            rule = f"have {name}, the best so far, beside it in output_dir (load_best_model_at_end)"
            raise ParameterError("resume_from_checkpoint", rule, str(checkpoint))

    @property
    def _chosen_on(self) -> str | None:
        """Identifies the validation text where that has a say in the weights."""
        validation = self.feed.validation
        return validation.fingerprint if self.config.chooses and validation is not None else None

    def checkpoint_bytes(self) -> int:
        """About what a checkpoint takes on disk: the weights to serve and to train on, two moments, the moving average."""
        copies = 4 + (self.learner.ema is not None)
        return 4 * copies * self.learner.num_kept

    def _facts(self, positions: list[Position | None]) -> RunFacts:
        return RunFacts(
            process=self.config.process,
            num_processes=self.accelerator.num_processes,
            flags=flags_of(self.config),
            data=self.feed.fingerprint,
            step=self.progress.step,
            num_tokens=self.progress.num_tokens,
            meter=self.progress.meter.state_dict(),
            positions=positions,
            best=asdict(self.progress.best),
            chosen_on=self._chosen_on,
        )

    def _not_saved(self, folder: Path, error: Exception) -> str:
        steps = saved_steps(self.config.output_dir)
        whole = f"{checkpoint_name(steps[-1])} is the last whole one" if steps else "there is no whole one yet"
        return f"{folder} could not be saved at step {self.progress.step} ({in_one_line(error)}); {whole}"

    def _adapters(self) -> str | None:
        """In words, what learns in the model's place."""
        if self.learner.adapter is None:
            return None
        config = self.config
        return (
            f"LoRA adapters (rank {config.lora_rank}, alpha {config.lora_alpha:g}, dropout {config.lora_dropout:g}; "
            f"{self.learner.num_kept:,} parameters, the rest is frozen)"
        )

    def _labels(self) -> str | None:
        """In words, what the network was told of each text."""
        labels, config = self.feed.labels, self.config
        if labels is None:
            return None
        return f"column `{config.label_column}`: {labels}; left out of {config.label_dropout:.3g} of the training examples"

    def _card(self, bound: ValidationBound | None, dtype: str) -> str:
        config, model, corpus = self.config, self.learner.bare, self.feed.corpus
        from_scratch = config.config_name is not None
        name = self.repo_id or config.output_dir.resolve().name
        hub = HubFacts(
            name=name.split("/")[-1],
            process=config.process,
            model_type=model.config.model_type,
            base_model=None if from_scratch else hub_model(config.model_name_or_path),
            datasets=hub_dataset(config.dataset_name),
            license=config.license,
            language=config.language,
            validated_on=corpus.validation_source,
            has_adapters=self.learner.adapter is not None,
            bound=bound,
        )
        return model_card(
            CardFacts(
                hub=hub,
                place=self.repo_id or "THIS_FOLDER",
                scheduler_options=config.scheduler_options(),
                weighting=config.weighting,
                architecture=type(model).__name__.removeprefix("FSDP"),
                start=None if from_scratch else base_name(config.model_name_or_path),
                num_parameters=model.num_parameters(),
                vocab_size=model.config.get_text_config().vocab_size,
                max_length=config.max_length,
                packing=config.packing,
                answers=config.is_chat,
                ends_learnt=self.feed.facts.fill is not None and not config.packing,
                adapters=self._adapters(),
                labels=self._labels(),
                command=command_line(self.arguments, self.accelerator.num_processes),
                code=code_version(),
                train_source=corpus.train_source,
                num_train_sequences=self.feed.num_sequences,
                num_dropped_tokens=self.feed.num_dropped_tokens,
                step=self.progress.step,
                max_train_steps=config.max_train_steps,
                num_tokens=self.progress.num_tokens,
                window=self.feed.window,
                weights=self.learner.used_weights,
                dtype=dtype,
                precision=config.precision,
                optimizer=config.optimizer,
                history=self.watch.history.records,
                samples=self.watch.samples.records,
                has_picture=self.watch.has_picture,
            )
        )
