"""What a run writes, a folder that serves with the state to resume from in it, and how it goes on from there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils import gather_object

from token_diffusion.checkpoint import save_checkpoint

from .bound import ValidationBound
from .card import CardFacts, model_card
from .checkpoints import FINAL, checkpoint_name, prune, saved_steps, set_dtype, tidy
from .errors import TrainingError
from .provenance import base_name, code_version, command_line
from .resume import (
    Facts,
    check_same_data,
    flags_of,
    random_state,
    read_facts,
    read_tensors,
    set_random_state,
    write_state,
)
from .streaming import Position

if TYPE_CHECKING:
    from .train import Run

logger = logging.getLogger(__name__)


def save(run: Run, name: str, bound: ValidationBound | None, dtype: str = "float32") -> None:
    """Writes the folder `name`, with what it takes to resume unless it is the final one. Every process must call it.

    Raises:
        TrainingError: it could not be written; what was there before is as it was.
    """
    output_dir = run.config.output_dir
    state = None if name == FINAL else run.learner.state_dict()
    generators, positions = gather_object([random_state()]), gather_object([run.feed.position])
    weights = run.learner.saved_weights(dtype)

    def write_more(unfinished: Path) -> None:
        run.watch.write(unfinished)
        set_dtype(unfinished, dtype)
        if state is not None:
            write_state(unfinished, _facts(run, positions), {**state, "random": generators})

    if run.accelerator.is_main_process:
        try:
            save_checkpoint(
                output_dir / name,
                run.learner.bare,
                run.tokenizer,
                run.scheduler,
                card=_card(run, bound, dtype),
                state_dict=weights,
                write_more=write_more,
            )
        except Exception as error:  # safetensors, tokenizers and torch each raise what they like for a full disk
            tidy(output_dir)
            raise TrainingError(_not_saved(run, output_dir / name, error)) from error
        prune(output_dir, run.config.checkpoints_total_limit)
        logger.info("saved %s", output_dir / name)
    run.accelerator.wait_for_everyone()
    run.meter.restart_clock()


def resume(run: Run, checkpoint: Path) -> None:
    """Has the run go on from the checkpoint. Raises `ParameterError` if it is not of this run."""
    facts, process = read_facts(checkpoint), run.accelerator.process_index
    check_same_data(facts, run.config, run.feed.fingerprint, checkpoint)
    state = read_tensors(checkpoint)
    run.learner.load_state_dict(state)
    set_random_state(state["random"][process])
    run.meter.load_state_dict(facts.meter)
    position = facts.positions[process]
    run.feed.position = None if position is None else Position(*position)
    run.step, run.num_tokens = facts.step, facts.num_tokens
    logger.info("resumed from %s at step %d of %d", checkpoint, run.step, run.config.max_train_steps)


def checkpoint_bytes(run: Run) -> int:
    """About what a checkpoint takes on disk: the weights to serve and to train on, two moments, the moving average."""
    copies = 4 + (run.learner.ema is not None)
    return 4 * copies * run.learner.bare.num_parameters()


def _facts(run: Run, positions: list[Position | None]) -> Facts:
    return Facts(
        process=run.config.process,
        num_processes=run.accelerator.num_processes,
        flags=flags_of(run.config),
        data=run.feed.fingerprint,
        step=run.step,
        num_tokens=run.num_tokens,
        meter=run.meter.state_dict(),
        positions=positions,
    )


def _not_saved(run: Run, folder: Path, error: Exception) -> str:
    steps = saved_steps(run.config.output_dir)
    whole = f"{checkpoint_name(steps[-1])} is the last whole one" if steps else "there is no whole one yet"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{folder} could not be saved at step {run.step} ({reason}); {whole}"


def _card(run: Run, bound: ValidationBound | None, dtype: str) -> str:
    config, model = run.config, run.learner.bare
    options = config.scheduler_options()
    return model_card(
        CardFacts(
            process=config.process,
            scheduler_options=options,
            weighting=config.weighting,
            architecture=type(model).__name__.removeprefix("FSDP"),
            base_model=None if config.config_name is not None else base_name(config.model_name_or_path),
            num_parameters=model.num_parameters(),
            vocab_size=model.config.vocab_size,
            max_length=config.max_length,
            packing=config.packing,
            command=command_line(run.arguments, run.accelerator.num_processes),
            code=code_version(),
            train_source=run.corpus.train_source,
            validation_source=run.corpus.validation_source,
            num_train_sequences=run.feed.num_sequences,
            step=run.step,
            max_train_steps=config.max_train_steps,
            num_tokens=run.num_tokens,
            window=run.feed.window,
            weights=run.weights,
            dtype=dtype,
            bound=bound,
            history=run.watch.history.records,
            samples=run.watch.samples.records,
            has_picture=run.watch.has_picture,
        )
    )
