"""What is learned and how it moves: model, AdamW, learning rate, moving average, on one process or sharded over many."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as sharded
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, get_scheduler

from token_diffusion.checkpoint.adapter import Adapter
from token_diffusion.errors import ParameterError
from token_diffusion.networks.masked_lm import Head, probe

from ..config import TrainingConfig
from ..output.resume import random_state, set_random_state
from .attention import ProductAttention
from .optimizer import make_optimizer

logger = logging.getLogger(__name__)

Batch = dict[str, Tensor]
SequenceSums = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]


class StepSums(NamedTuple):
    """Of one optimizer step, summed over its tokens and all processes; `stop` if a process was asked to stop.

    gradient: its norm before it was scaled down.
    moved: whether the step was made; it is not where the loss or the gradient is not finite.
    """

    loss: float
    nelbo: float
    num_tokens: int
    stop: bool
    gradient: float
    moved: bool


class Learner:
    """The weights of a run and what moves them. `model` may be wrapped for several processes; `bare` never is.

    head: the model's, to be run only where the loss reads logits; None where it has to be run everywhere.
    adapter: what learns in the model's place, and is all that is kept.
    """

    def __init__(
        self, config: TrainingConfig, accelerator: Accelerator, model: PreTrainedModel, adapter: Adapter | None = None
    ) -> None:
        self.adapter = adapter
        self.accelerator, self.max_grad_norm, self.ema_decay = accelerator, config.max_grad_norm, config.ema_decay
        self.chosen_step: int | None = None
        self._by_products = (
            accelerator.device.type == "cpu" and config.mixed_precision == "bf16" and not config.torch_compile
        )
        if config.gradient_checkpointing:
            if not model.supports_gradient_checkpointing:
                raise ParameterError("gradient_checkpointing", "be off for this model", type(model).__name__)
            # transformers has renamed it; the older name warns.
            name = "activation_checkpointing_enable"
            enable = getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")
            # What is computed again is so on the way back, where no mode of the way there holds.
            again = {"context_fn": lambda: (nullcontext(), self._attention())} if self._by_products else {}
            enable({"use_reentrant": False, **again})
        # A compiled forward pass would not see the head's hook.
        self.head = None if config.torch_compile else Head(model)
        if accelerator.num_processes > 1:
            freeze_unused(model)
        self.is_sharded = bool(accelerator.is_fsdp2)
        if self.is_sharded and adapter is not None:
            raise ParameterError("lora_rank", "be left out where weights are sharded", config.lora_rank)
        if self.is_sharded:
            _choose_shards(accelerator, model)
            if config.optim == "adafactor":
                raise ParameterError(
                    "optim", "be adamw_torch or adamw_torch_fused where weights are sharded", config.optim
                )
        optimizer = make_optimizer(config, model)
        self.lr_scheduler = get_scheduler(
            config.lr_scheduler, optimizer, config.lr_warmup_steps, config.max_train_steps
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.ema = EMAModel(self._parameters(), decay=config.ema_decay) if config.ema_decay else None

    @property
    def bare(self) -> PreTrainedModel:
        """The model without what accelerate or torch.compile put around it.

        Its forward pass keeps accelerate's mixed precision: taking that off takes it off the model that trains, too.
        """
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=True, keep_torch_compile=False)

    @property
    def used_weights(self) -> str:
        """What is validated and saved, in words."""
        kind = f"moving average, decay {self.ema_decay:g}" if self.ema_decay else "as trained"
        return (
            kind if self.chosen_step is None else f"{kind}; of step {self.chosen_step}, the best validation on the way"
        )

    def optimize(self, window: Sequence[Batch], sums: SequenceSums, stopping: Callable[[], bool]) -> StepSums:
        """One optimizer step on this process's batches of the window; `sums` gives loss and NELBO of each sequence.

        What is minimised is Σ loss / Σ tokens of the whole window, so the count comes before the first backward pass.
        A step whose loss or gradient is not finite changes nothing; with fp16, whose scaler makes up for gradients that
        are not, its loss alone decides.
        """
        accelerator = self.accelerator
        counted = sum(batch["noisable"].sum() for batch in window)
        count = int(accelerator.reduce(torch.as_tensor(counted), "sum"))
        totals = torch.zeros(4, dtype=torch.float64, device=accelerator.device)
        for i, batch in enumerate(window):
            with self._attention(), nullcontext() if i == len(window) - 1 else accelerator.no_sync(self.model):
                loss, nelbo = ((values * batch["weight"]).sum() for values in sums(self.model, batch))
                # Distributed training averages gradients over processes; the sum is wanted.
                accelerator.backward(loss * (accelerator.num_processes / count))
            totals[:2] += torch.stack([loss.detach(), nelbo.detach()])
        totals[2] = stopping()
        # Summed like the rest, though all processes have the same: so they decide alike, and the device is asked once.
        totals[3] = self._clip() / accelerator.num_processes
        loss_sum, nelbo_sum, stop, gradient = accelerator.reduce(totals, "sum").tolist()
        moved = math.isfinite(loss_sum) and (accelerator.scaler is not None or math.isfinite(gradient))
        if moved:
            self._move()
        return StepSums(loss_sum, nelbo_sum, count, bool(stop), gradient, moved)

    def _attention(self) -> AbstractContextManager[Any]:
        return ProductAttention() if self._by_products else nullcontext()

    def _clip(self) -> Tensor:
        """Scales the gradient down to its highest norm; returns what the norm was."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _move(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        if self.ema is not None:
            self.ema.step(self._parameters())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The weights that are validated and saved: the moving average where there is one."""
        if self.ema is None:
            yield
            return
        self.ema.store(self._parameters())
        self.ema.copy_to(self._parameters())
        try:
            yield
        finally:
            self.ema.restore(self._parameters())

    def weights(self) -> dict[str, Tensor]:
        """All weights that learn by the bare model's names, whole even where sharded (then filled on the main process only).

        Every process must ask at once.
        """
        if self.adapter is not None:
            return self.adapter.of(self.bare.state_dict())
        return self.accelerator.get_state_dict(self.model if self.is_sharded else self.bare)

    def saved_weights(self, dtype: str = "float32") -> dict[str, Tensor]:
        """A copy of the weights that are saved, see `averaged` and `weights`; tied ones share their memory."""
        with self.averaged():
            weights = {
                name: tensor.to(getattr(torch, dtype) if tensor.is_floating_point() else tensor.dtype, copy=True)
                for name, tensor in self.weights().items()
            }
        # Other processes than the main one have none of sharded weights.
        for name, source in self.bare.all_tied_weights_keys.items() if weights and self.adapter is None else ():
            weights[name] = weights[source] = weights[source if source in weights else name]
        return weights

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next steps but the data and the random generators. Every process must ask at once."""
        state: dict[str, Any] = {"model": self.weights(), "optimizer": self._optimizer_state()}
        state["lr_scheduler"] = self.lr_scheduler.state_dict()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if self.ema is not None:
            state["ema_steps"], state["ema"] = self.ema.optimization_step, self.saved_weights()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave, on every process."""
        self._load_all_weights(state)
        if self.is_sharded:
            sharded.set_optimizer_state_dict(self.model, self.optimizer.optimizer, state["optimizer"], options=_WHOLE)
        else:
            self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def choose(self, step: int, state: Mapping[str, Any]) -> None:
        """Ends with the weights of `state`, which `state_dict` gave at `step`. Every process must call it."""
        self._load_all_weights(state)
        self.chosen_step = step

    def _load_all_weights(self, state: Mapping[str, Any]) -> None:
        """Those that train, and their moving average."""
        if self.ema is not None:
            self._load_weights(state["ema"])
            self.ema.shadow_params = [parameter.detach().clone() for parameter in self._parameters()]
            self.ema.optimization_step = state["ema_steps"]
        self._load_weights(state["model"])

    def _parameters(self) -> list[nn.Parameter]:
        """The parameters that learn, each process's share of them where they are sharded: a forward pass leaves some whole."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def num_kept(self) -> int:
        """How many numbers a saved folder holds."""
        kept = self.bare.parameters() if self.adapter is None else self._parameters()
        return sum(parameter.numel() for parameter in kept)

    def _optimizer_state(self) -> dict[str, Any]:
        if not self.is_sharded:
            return self.optimizer.state_dict()
        return sharded.get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=_WHOLE)

    def _load_weights(self, weights: Mapping[str, Tensor]) -> None:
        if not self.is_sharded:
            self.bare.load_state_dict(weights, strict=self.adapter is None)
            return
        known = self.model.state_dict().keys()
        whole: dict[str, Any] = {name: tensor for name, tensor in weights.items() if name in known}
        sharded.set_model_state_dict(self.model, whole, options=_WHOLE)


def freeze_unused(model: PreTrainedModel) -> None:
    """Freezes the parameters that no logit depends on (ESM's contact head, a pooler): no step would change them anyway.

    Several processes have to know: they would wait for these gradients, and for the optimizer's memory of them on a resume.
    Neither the random generators nor the model's mode are any different afterwards.
    """
    state, was_training = random_state(), model.training
    model.eval()
    model(**probe(model)).logits.sum().backward()
    unused = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.grad is None]
    for parameter in unused:
        parameter.requires_grad_(False)
    model.zero_grad()
    model.train(was_training)
    set_random_state(state)
    if unused:
        count = sum(parameter.numel() for parameter in unused)
        logger.info("%d parameters of the model have no part in its logits: frozen", count)


def _choose_shards(accelerator: Accelerator, model: PreTrainedModel) -> None:
    """Shards layer by layer, but not the embeddings by themselves: the head shares their weights."""
    plugin, embeddings = accelerator.state.fsdp_plugin, model.get_input_embeddings()
    if plugin.transformer_cls_names_to_wrap is None:
        names = {type(module).__name__ for module in model.modules() if embeddings not in list(module.modules())}
        plugin.transformer_cls_names_to_wrap = sorted(names & set(model._no_split_modules or ()))
    # BERT's kind of head names its bias twice and uses it once; PyTorch wants the two in one shard, accelerate parts them.
    head = model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if module is not head and parameter is bias:
                setattr(module, name, None)


_WHOLE = sharded.StateDictOptions(full_state_dict=True, cpu_offload=True)
