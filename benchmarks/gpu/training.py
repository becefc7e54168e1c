"""A training step there, the papers' DiT in bfloat16: the trainer's own, compiled and not, beside a plain loop."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForMaskedLM

from token_diffusion.networks.transformer.layers import Modulation
from trainer.config import TrainingConfig
from trainer.data.feed import Batch
from trainer.run.train import Run

from ..environment import timed
from ..figures import median
from ..training.part import flops_per_token
from ..training.steps import Bench, Ours, PlainLoop
from .networks import save, vocabulary
from .notes import Notes, Setting, peak_mb, reset_peak

PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "4090": 165}
"""Of dense bfloat16 products, 10^12 a second, by what the device calls itself."""
MFU = 0.4
"""Aim for ours, compiled."""


class Textbook(PlainLoop):
    """A loop as people write it, in bfloat16 by autocast: MDLM's loss over all logits of the network as transformers loads it."""

    def __init__(self, run: Run, folder: Path) -> None:
        super().__init__(run)
        self.model = AutoModelForMaskedLM.from_pretrained(folder).to(self.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=run.config.learning_rate)

    def nats(self, batch: Batch) -> Any:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            times = {"timesteps": batch["timesteps"].float()}
            logits = self.model(input_ids=batch["noisy"], attention_mask=batch["attention_mask"], **times).logits
            loss = self.loss(self.scheduler, logits, batch["clean"], batch["noisy"], batch["timesteps"])
        return (loss * batch["attention_mask"]).sum()


@dataclass(frozen=True)
class Large(Bench):
    """Of another network than the example scripts' one: its words are other words. flags: of the trainer."""

    size: str = "110 M"
    flags: Mapping[str, Any] = field(default_factory=dict)

    def write(self) -> None:
        save(self.folder, self.size)
        count = vocabulary(self.size)[0] - 4
        words = [f"word{3 + index * 7919 % count}" for index in range(4 * self.tokens)]
        lines = [" ".join(words[start : start + 100]) for start in range(0, len(words), 100)]
        (self.folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")

    def config(self, process: str, **flags: Any) -> TrainingConfig:
        return super().config(process, **self.flags, **flags)


def training(setting: Setting, notes: Notes) -> None:
    """A row a side that is not compiled."""
    _sides(setting, notes, {"textbook": {}, "ours": {}})


def compiled_training(setting: Setting, notes: Notes) -> None:
    """Ours, compiled: in a process of its own, as accelerate decides that once."""
    _sides(setting, notes, {"ours, compiled": {"torch_compile": True}})


def _sides(setting: Setting, notes: Notes, sides: Mapping[str, Mapping[str, Any]]) -> None:
    batch_size, length = (2, 32) if setting.tiny else (32, 512)
    dtype, size = ("float32", "tiny") if setting.tiny else ("bfloat16", "110 M")
    with TemporaryDirectory(prefix="token-diffusion-") as folder:
        bench = Large(Path(folder), setting.device, dtype, batch_size, length, size)
        bench.write()
        for name, flags in sides.items():
            if setting.is_over:
                notes.say(f"No time was left for a training step of {name}.")
                continue
            with notes.trying(f"a training step of {name}"):
                reset_peak(setting.where)
                _measure(replace(bench, flags=flags), name, setting, notes)


def _measure(bench: Large, name: str, setting: Setting, notes: Notes) -> None:
    """Tokens/s, MFU and memory: a few steps before they count, as the first ones compile and allocate."""
    run = bench.run("absorbing")
    side = Textbook(run, bench.folder) if name == "textbook" else Ours(run)
    warm, repeats, rounds = (1, 1, 1) if setting.tiny else (3, 5, 3)
    with closing(run.feed.batches(0)) as batches:
        window = cycle(list(islice(batches, 4)))

        def steps(count: int) -> None:
            for _ in range(count):
                side.step(next(window))

        steps(warm)
        seconds = median([timed(lambda: steps(repeats), setting.where) / repeats for _ in range(rounds)])
    speed = bench.tokens / seconds
    mfu = speed * flops(run.learner.bare, bench.seq_len) / (peak_tflops(setting) * 1e12)
    cells = {"side": name, "parameters": bench.size, "batch": f"{bench.batch_size} x {bench.seq_len}"}
    notes.row("A training step", **cells, **{"tokens/s": speed, "MFU": mfu, "peak MB": peak_mb(setting.where)})
    if bench.flags and mfu < MFU:
        notes.fail(f"a compiled training step reaches an MFU of {mfu:.2f}, not {MFU}")


def flops(model: Any, seq_len: int) -> float:
    """Operations of a step, a token; what is made of the time is made once a sequence, and is not counted."""
    of_time = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, Modulation))
    return flops_per_token(model, seq_len) - 6 * of_time


def peak_tflops(setting: Setting) -> float:
    """NaN for a device that is not in the table."""
    name = "" if setting.tiny else torch.cuda.get_device_name(setting.where)
    return next((float(value) for part, value in PEAK_TFLOPS.items() if part in name), float("nan"))
