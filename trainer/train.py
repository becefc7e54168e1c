"""The accelerate loop: noise -> model -> loss -> optimizer, with logs, validation and complete checkpoints."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedModel, get_scheduler

from token_diffusion.checkpoint import save_checkpoint
from token_diffusion.scheduler import TokenDiffusionScheduler

from .accelerator import make_accelerator
from .card import CardFacts, base_model_name, model_card
from .config import TrainingConfig
from .data import Corpus, Sequences, check_output_dir, load_corpus, tokenize
from .evaluation import ValidationBound, evaluate, loss_sums
from .meter import Meter
from .model import build_model, build_tokenizer
from .noising import Batches, NoisyExamples, TrainingBatches, ValidationBatches, make_loader
from .optimizer import make_optimizer

logger = logging.getLogger(__name__)

QUICK_TIMES, FULL_TIMES = 2, 8


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step."""


def train(config: TrainingConfig, arguments: Sequence[str] = ()) -> ValidationBound | None:
    """Trains and saves as `config` says; `arguments` is the command line for the model card.

    Returns:
        The bound of the final model on the validation text, None without such text.

    Raises:
        ParameterError: something that was asked for cannot be done; before the first step.
        TrainingError: the loss is not finite.
    """
    check_output_dir(config.output_dir)
    accelerator = make_accelerator(config)
    corpus = load_corpus(config)
    with logging_redirect_tqdm() if accelerator.is_main_process else nullcontext():
        run = Run(config, accelerator, corpus, arguments)
        run.fit()
        bound = run.finish()
    accelerator.end_training()
    return bound


class Run:
    """One training run: what it trains, on what, and how far it has come."""

    def __init__(
        self, config: TrainingConfig, accelerator: Accelerator, corpus: Corpus, arguments: Sequence[str] = ()
    ) -> None:
        self.config, self.accelerator, self.corpus, self.arguments = config, accelerator, corpus, arguments
        set_seed(config.seed)
        self.tokenizer = build_tokenizer(config)
        model = build_model(config, self.tokenizer)
        self.scheduler = TokenDiffusionScheduler(
            vocab_size=model.config.vocab_size,
            mask_token_id=self.tokenizer.mask_token_id,
            **config.scheduler_options(),
        )
        self.train_set = self._tokenize("train_file", corpus.train)
        self.validation_set = self._tokenize("validation_file", corpus.validation) if corpus.validation else None
        micro_batches = config.gradient_accumulation_steps * accelerator.num_processes
        self.window = config.per_device_train_batch_size * micro_batches
        batches = TrainingBatches(
            num_sequences=len(self.train_set.ids),
            batch_size=config.per_device_train_batch_size,
            window=self.window,
            num_steps=config.max_train_steps,
            seed=config.seed,
        )
        self.optimizer = make_optimizer(config, model)
        self.lr_scheduler = get_scheduler(
            config.lr_scheduler, self.optimizer, config.lr_warmup_steps, config.max_train_steps
        )
        self.model, self.optimizer, self.loader = accelerator.prepare(
            model, self.optimizer, self._loader(self.train_set, batches)
        )
        self.ema = EMAModel(self.model.parameters(), decay=config.ema_decay) if config.ema_decay else None
        self.step = self.num_tokens = 0
        self.meter = Meter()
        # From here on only dropout draws from the global generators, and it should differ between processes.
        set_seed(config.seed, device_specific=True)

    def fit(self) -> None:
        """All optimizer steps, with the logs, validations and checkpoints on the way."""
        config = self.config
        sizes = self._bare_model().num_parameters(), len(self.train_set.ids), self.window, config.max_train_steps
        logger.info("training %s: %d parameters, %d sequences, %d a step, %d steps", config.process, *sizes)
        self.model.train()
        batches = iter(self.loader)
        progress = tqdm(total=config.max_train_steps, desc="train", disable=not self.accelerator.is_main_process)
        for self.step in range(1, config.max_train_steps + 1):
            loss, nelbo, count = self._optimize(list(islice(batches, config.gradient_accumulation_steps)))
            self.num_tokens += count
            self.meter.add(loss, nelbo, count)
            progress.update()
            progress.set_postfix(nelbo=f"{nelbo / count:.3f}", refresh=False)
            if self.step % config.logging_steps == 0 or self.step == config.max_train_steps:
                self._log()
            last = self.step == config.max_train_steps
            bound = None
            if config.eval_steps and self.step % config.eval_steps == 0 and not last:
                bound = self._validate(QUICK_TIMES)
            if self.step % config.checkpointing_steps == 0:
                self._save(f"checkpoint-{self.step}", bound)
        progress.close()

    def finish(self) -> ValidationBound | None:
        """Validates and writes final/."""
        bound = self._validate(FULL_TIMES)
        self._save("final", bound, self.config.save_dtype)
        return bound

    def _optimize(self, window: list[dict[str, Tensor]]) -> tuple[float, float, int]:
        """One optimizer step. Returns loss, NELBO and tokens that count, summed over the window and all processes.

        What is minimised is Σ loss / Σ tokens of the whole window, so the count comes before the first backward pass.
        """
        accelerator = self.accelerator
        counted = sum(batch["noisable"].sum() for batch in window)
        count = int(accelerator.reduce(torch.as_tensor(counted), "sum"))
        totals = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
        for i, batch in enumerate(window):
            with nullcontext() if i == len(window) - 1 else accelerator.no_sync(self.model):
                sums = loss_sums(self.model, self.scheduler, batch, self.config.weighting)
                loss, nelbo = (values.sum() for values in sums)
                # Distributed training averages gradients over processes; the sum is wanted.
                accelerator.backward(loss * (accelerator.num_processes / count))
            totals += torch.stack([loss.detach(), nelbo.detach()])
        loss, nelbo = accelerator.reduce(totals, "sum").tolist()
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {self.step}: stopped, nothing was saved for this step")
        accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        if self.ema is not None:
            self.ema.step(self.model.parameters())
        return loss, nelbo, count

    def _log(self) -> None:
        loss, nelbo, tokens_per_second = self.meter.read()
        lr = self.lr_scheduler.get_last_lr()[0]
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

    def _validate(self, num_times: int) -> ValidationBound | None:
        if self.validation_set is None:
            return None
        ids = self.validation_set.ids
        batches = ValidationBatches(
            num_sequences=len(ids), num_times=num_times, batch_size=self.config.per_device_train_batch_size
        )
        loader = self.accelerator.prepare(self._loader(self.validation_set, batches))
        with self._saved_weights():
            bound = evaluate(
                self.accelerator,
                self.model,
                self.scheduler,
                loader,
                num_sequences=len(ids),
                num_times=num_times,
                num_chars=self.validation_set.num_chars,
            )
        logger.info("step %d: validation %s", self.step, bound)
        self.accelerator.log({"validation/nelbo": bound.nelbo, "validation/ppl": bound.perplexity}, step=self.step)
        self.meter.restart_clock()
        return bound

    def _save(self, name: str, bound: ValidationBound | None, dtype: str = "float32") -> None:
        """Writes the folder `name`; with a `dtype` other than float32 the model itself is cast, so only at the end."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            with self._saved_weights():
                model = self._bare_model()
                if dtype != "float32":
                    model.to(getattr(torch, dtype))
                folder = self.config.output_dir / name
                save_checkpoint(folder, model, self.tokenizer, self.scheduler, card=self._card(bound, dtype))
            logger.info("saved %s", folder)
        self.accelerator.wait_for_everyone()
        self.meter.restart_clock()

    @contextmanager
    def _saved_weights(self) -> Iterator[None]:
        """The weights that are validated and saved: the moving average where there is one."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.model.parameters())
        self.ema.copy_to(self.model.parameters())
        yield
        self.ema.restore(self.model.parameters())

    def _card(self, bound: ValidationBound | None, dtype: str) -> str:
        config, model = self.config, self._bare_model()
        launcher = ["python", "-m"]
        if self.accelerator.num_processes > 1:
            launcher = ["accelerate", "launch", "--num_processes", str(self.accelerator.num_processes), "-m"]
        options = config.scheduler_options()
        return model_card(
            CardFacts(
                process=config.process,
                scheduler_options=options,
                weighting=config.weighting,
                architecture=type(model).__name__,
                base_model=None if config.config_name is not None else base_model_name(config.model_name_or_path),
                num_parameters=model.num_parameters(),
                vocab_size=model.config.vocab_size,
                max_length=config.max_length,
                packing=config.packing,
                command=shlex.join([*launcher, "trainer", *self.arguments]),
                train_source=self.corpus.train_source,
                validation_source=self.corpus.validation_source,
                num_train_sequences=len(self.train_set.ids),
                step=self.step,
                max_train_steps=config.max_train_steps,
                num_tokens=self.num_tokens,
                window=self.window,
                ema_decay=config.ema_decay,
                dtype=dtype,
                bound=bound,
            )
        )

    def _bare_model(self) -> PreTrainedModel:
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def _tokenize(self, flag: str, documents: Sequence[str]) -> Sequences:
        config = self.config
        flag = "text_column" if flag == "train_file" and config.dataset_name is not None else flag
        return tokenize(self.tokenizer, documents, flag=flag, packing=config.packing, max_length=config.max_length)

    def _loader(self, sequences: Sequences, batches: Batches) -> DataLoader:
        pad = self.tokenizer.pad_token_id
        return make_loader(
            NoisyExamples(sequences.ids, self.scheduler, self.tokenizer.all_special_ids),
            batches,
            pad_token_id=self.tokenizer.mask_token_id if pad is None else pad,
            num_workers=self.config.dataloader_num_workers,
        )
