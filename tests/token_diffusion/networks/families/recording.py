"""What the authors' own code gave for small random weights: `recorded/NAME.safetensors`, and folders laid out as theirs.

A file holds `weights.<authors' name>`, `input.<name>` and `output.<name>`; its metadata say the config.json that belongs to the
weights, and where the code is from (`recorded/README.md`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

FOLDER = Path(__file__).parent / "recorded"
NAMES = sorted(file.stem for file in FOLDER.glob("*.safetensors"))


@dataclass(frozen=True)
class Recording:
    """weights: by the authors' names. inputs, outputs: `tokens` int64 [B, L], `t` [B], …; `logits` [B, L, V], …."""

    name: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    source: dict[str, str]

    def write(self, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None, **changes: Any) -> Path:
        """The folder as on the authors' hub page: config.json, model.safetensors, and the tokenizer if theirs holds one."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config | changes), encoding="utf-8")
        save_file(self.weights, folder / "model.safetensors", metadata={"format": "pt"})
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return folder


def recording(name: str) -> Recording:
    """The one of that name."""
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "input": {}, "output": {}}
    with safe_open(FOLDER / f"{name}.safetensors", framework="pt") as file:
        source = dict(file.metadata())
        for key in file.keys():  # noqa: SIM118 (no mapping)
            part, _, rest = key.partition(".")
            parts[part][rest] = file.get_tensor(key)
    config = json.loads(source.pop("config"))
    return Recording(name, config, parts["weights"], parts["input"], parts["output"], source)
