"""The accelerate loop: noise -> model -> loss -> optimizer, with logs, validation and complete checkpoints."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from token_diffusion.checkpoint import Unloaded
from token_diffusion.errors import ParameterError

from ..accelerator import make_accelerator, start_trackers
from ..config import TrainingConfig
from ..data.corpus import Corpus, load_corpus
from ..data.feed import make_feed
from ..data.sequences import facts_of, with_ends
from ..errors import Stopped, TrainingError
from ..evaluation.bound import ValidationBound
from ..evaluation.validation import evaluate, loss_sums
from ..output.checkpoints import FINAL, check_space, checkpoint_name, delete_run, find_checkpoint, tidy
from ..output.files import check_output_dir
from ..output.hub import PushError, open_hub
from ..report.watch import Watch
from ..signals import StopSignals
from .labels import labels_for
from .learner import Learner, StepSums
from .model import build_adapter, build_model, build_scheduler, build_tokenizer
from .proof import prove_run
from .saving import Progress, Saver
from .start import begin, is_here
from .trial import try_network

logger = logging.getLogger(__name__)

QUICK_TIMES, FULL_TIMES = 2, 8

SETTLE_S = 0.2


def train(config: TrainingConfig, arguments: Sequence[str] = ()) -> ValidationBound | None:
    """Trains and saves as `config` says; `arguments` is the command line for the model card.

    Returns:
        The bound of the final model on the validation text, None without such text.

    Raises:
        ParameterError: something that was asked for cannot be done; before the first step.
        TrainingError: the loss or the gradient is not finite, a checkpoint could not be written or pushed, or a signal
            asked to stop.
    """
    check_output_dir(config.output_dir)
    accelerator = make_accelerator(config)
    if accelerator.is_main_process:
        tidy(config.output_dir)
    accelerator.wait_for_everyone()
    checkpoint, num_processes, start = find_checkpoint(config), accelerator.num_processes, None
    if checkpoint is None and config.resume_from_checkpoint is not None:
        logger.warning("no checkpoint in %s: starting anew", config.output_dir)
    if is_here(config):
        config, start = begin(config, checkpoint, num_processes)
    hub = open_hub(config) if accelerator.is_main_process else None
    corpus = load_corpus(config)
    if not is_here(config):  # what has to be fetched is fetched for text that can be read
        config, start = begin(config, checkpoint, num_processes)
    try:
        with logging_redirect_tqdm() if accelerator.is_main_process else nullcontext():
            run = Run(config, accelerator, corpus, arguments, checkpoint, hub.repo_id if hub else None, start)
            with run.signals:
                run.fit()
                bound = run.finish()
            if hub is not None:
                try:
                    hub.push(config.output_dir / FINAL, f"{config.process}, {run.step} steps")
                except PushError as error:
                    raise TrainingError(str(error)) from error
        accelerator.end_training()
        return bound
    finally:
        # The reducer of distributed training dies with `run`, and waits for gloo's threads with the interpreter's lock held; one
        # of them may still want it, to let go of the last barrier's tensor. While this sleeps, it gets it.
        if accelerator.num_processes > 1:
            time.sleep(SETTLE_S)


class Run:
    """One training run: what it trains, on what, and how far it has come."""

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        corpus: Corpus,
        arguments: Sequence[str] = (),
        checkpoint: Path | None = None,
        repo_id: str | None = None,
        start: Unloaded | None = None,
    ) -> None:
        self.config, self.accelerator = config, accelerator
        set_seed(config.seed)
        self.tokenizer = build_tokenizer(config, start)
        model = build_model(config, self.tokenizer, start, corpus.labels)
        labels = labels_for(config, model, corpus.labels)
        self.grouping = try_network(config, model, self.tokenizer.mask_token_id)
        adapter = build_adapter(config, model)
        if accelerator.is_main_process and adapter is None:
            prove_run(config, model)
        self.scheduler = build_scheduler(config, self.tokenizer, start)
        facts = start.facts if start and start.facts.known else facts_of(self.tokenizer, config.packing)
        if config.learn_end:
            facts = with_ends(facts, self.tokenizer)
        self.feed = make_feed(config, accelerator, corpus, self.tokenizer, self.scheduler, facts, labels)
        if config.chooses and self.feed.validation is None:
            raise ParameterError("validation_file", "be given: which step is best is found out by it", None)
        if config.num_train_epochs is not None and not config.counts_epochs:
            logger.warning("num_train_epochs has no effect: max_train_steps is given")
        config = self.config = self.feed.config = config.with_steps(self.feed.num_sequences, self.feed.window)
        self.learner = Learner(config, accelerator, model, adapter)
        self.progress, self.signals = Progress(), StopSignals()
        self.watch = Watch(config, accelerator)
        self.saver = Saver(
            config,
            accelerator,
            self.tokenizer,
            self.scheduler,
            self.feed,
            self.learner,
            self.watch,
            self.progress,
            arguments,
            repo_id,
        )
        # From here on only dropout draws from the global generators, and it should differ between processes.
        set_seed(config.seed, device_specific=True)
        if checkpoint is not None:
            self.saver.resume(checkpoint)
        check_space(config, self.saver.checkpoint_bytes(), self.step)
        start_trackers(accelerator, config)
        self.watch.start(self.step, checkpoint)

    @property
    def model(self) -> nn.Module:
        return self.learner.model

    @property
    def step(self) -> int:
        return self.progress.step

    def fit(self) -> None:
        """The optimizer steps that are left, with the logs, validations and checkpoints on the way and after the last.

        Raises:
            TrainingError: the loss or the gradient is not finite, or a checkpoint could not be written.
            Stopped: `signals` noted one, or another process did.
        """
        config = self.config
        count = self.feed.num_sequences
        text = "streamed text" if count is None else f"{count} sequences"
        sizes = self.learner.bare.num_parameters(), text, self.feed.window, config.max_train_steps
        logger.info("training %s: %d parameters, %s, %d a step, %d steps", config.process, *sizes)
        if config.overwrite_output_dir and self.accelerator.is_main_process:
            delete_run(config.output_dir)
        self.model.train()
        main = self.accelerator.is_main_process
        # None: no bar either where nobody would see it move.
        bar = tqdm(total=config.max_train_steps, initial=self.step, desc="train", disable=None if main else True)
        steps = range(self.step + 1, 1 if self._is_over else config.max_train_steps + 1)
        with closing(self.feed.batches(self.step)) as batches, bar:
            for self.progress.step in steps:
                sums = self._optimize(list(islice(batches, config.gradient_accumulation_steps)))
                bar.update()
                bar.set_postfix(nelbo=f"{sums.nelbo / sums.num_tokens:.3f}", refresh=False)
                # Alone, it need not ask the others, so even a signal at the very end of the step is heard.
                alone = self.accelerator.num_processes == 1
                self._follow(sums.stop or (alone and self.signals.received is not None))
                if self._is_over:
                    logger.info(
                        "step %d: no better validation since step %d: over", self.step, self.progress.best.step
                    )
                    break

    @property
    def _is_over(self) -> bool:
        """Whether patience has run out: before the last step, or before this run went on from a checkpoint."""
        patience = self.config.early_stopping_patience
        return patience is not None and self.progress.best.since >= patience

    def _follow(self, stop: bool) -> None:
        """What comes after a step: log, validation, checkpoint. Raises `Stopped` if a signal came."""
        config, step = self.config, self.step
        last = step == config.max_train_steps
        # Where validation has a say, none may be missing: neither the last one, nor one just before a stop.
        skipped = (last or stop) and not config.chooses
        if step % config.logging_steps == 0 or last:
            self._log()
        bound = None
        if config.eval_steps and step % config.eval_steps == 0 and not skipped:
            bound = self._validate(QUICK_TIMES)
        if bound is not None:
            self.progress.best.add(step, bound.nelbo)
        last = last or self._is_over
        if config.sample_steps and step % config.sample_steps == 0 and not last and not stop:
            self._sample()
        # The last step's is what a run goes on from that is stopped, or crashes, while it validates.
        if step % config.checkpointing_steps == 0 or stop or last:
            self.saver.save(checkpoint_name(step), bound)
        if stop:
            # Another process may have been the one that got it.
            raise self._stopped(self.signals.received or signal.SIGTERM)

    def finish(self) -> ValidationBound | None:
        """Validates and writes final/.

        Raises:
            TrainingError: it could not be written.
            Stopped: `signals` got one; `fit` has saved all that there was to lose.
        """
        try:
            with self.signals.at_once():
                if self.config.load_best_model_at_end and self.progress.best.step:
                    self.saver.load_best()
                bound = self._validate(FULL_TIMES)
                self._sample()
                self.saver.save(FINAL, bound, self.config.save_dtype)
        except KeyboardInterrupt:
            raise self._stopped(self.signals.received or signal.SIGINT) from None
        return bound

    def _stopped(self, received: signal.Signals) -> Stopped:
        folder = checkpoint_name(self.step)
        return Stopped(
            f"{received.name}: stopped after step {self.step}; {folder} is saved, --resume_from_checkpoint latest goes on",
            128 + received,
        )

    def _optimize(self, window: list[dict[str, Tensor]]) -> StepSums:
        """One optimizer step, counted and metered. Raises `TrainingError` if its loss or its gradient is not finite."""

        def sums(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            return loss_sums(model, self.scheduler, batch, self.config.weighting, self.learner.head, self.grouping)

        result = self.learner.optimize(window, sums, stopping=lambda: self.signals.received is not None)
        if not result.moved:
            what, value = ("gradient", result.gradient) if math.isfinite(result.loss) else ("loss", result.loss)
            raise TrainingError(f"the {what} is {value} at step {self.step}: stopped, nothing was saved for this step")
        self.progress.num_tokens += result.num_tokens
        self.progress.meter.add(result.loss, result.nelbo, result.num_tokens)
        return result

    def _log(self) -> None:
        loss, nelbo, tokens_per_second = self.progress.meter.read()
        lr = self.learner.lr_scheduler.get_last_lr()[0]
        perplexity = math.exp(min(nelbo, 700.0))
        values = {"train/nelbo": nelbo, "train/ppl": perplexity, "lr": lr, "tokens_per_second": tokens_per_second}
        extra = ""
        if self.config.weighting != "elbo":
            values["train/loss"] = loss
            extra = f"{self.config.weighting} loss {loss:.4f}, "
        logger.info(
            "step %d: nelbo %.4f nats/token, ppl %.2f, %slr %.3g, %.0f tokens/s",
            self.step, nelbo, perplexity, extra, lr, tokens_per_second,
        )  # fmt: skip
        self.accelerator.log(values, step=self.step)
        self.watch.trained(self.step, nelbo, lr, self.progress.num_tokens)

    def _validate(self, num_times: int) -> ValidationBound | None:
        feed = self.feed
        if feed.validation is None:
            return None

        def bound_of(loader: DataLoader) -> ValidationBound:
            assert feed.validation is not None
            return evaluate(
                self.accelerator,
                self.model,
                self.scheduler,
                loader,
                num_sequences=len(feed.validation.ids),
                num_times=num_times,
                head=self.learner.head,
                grouping=self.grouping,
                spelling=feed.spelling,
                weights=self.learner.used_weights,
                progress=self.accelerator.is_main_process,
            )

        with self.learner.averaged():
            bound = bound_of(feed.validation_loader(num_times))
            if feed.labels is not None and num_times == FULL_TIMES:  # as long again: not on the way
                unlabelled = bound_of(feed.validation_loader(num_times, unlabelled=True))
                bound = replace(bound, unlabelled=unlabelled.per_token)
        logger.info("step %d: validation %s", self.step, bound)
        self.watch.validated(self.step, bound)
        self.accelerator.log({"validation/nelbo": bound.nelbo, "validation/ppl": bound.perplexity}, step=self.step)
        self.progress.meter.restart_clock()
        return bound

    def _sample(self) -> None:
        if self.config.num_validation_samples:
            with self.learner.averaged():
                self.watch.sample(self.step, self.learner.bare, self.tokenizer, self.scheduler, self.feed.facts)
            self.accelerator.wait_for_everyone()
            self.progress.meter.restart_clock()
