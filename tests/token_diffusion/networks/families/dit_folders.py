"""Folders laid out as on the hub pages of MDLM, UDLM and Duo, and of the tokenizers that go with them, all tiny."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tests.token_diffusion.networks.families.recording import Recording, recording
from token_diffusion import TokenDiffusionConfig, TokenDiffusionForMaskedLM
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.networks.families import FAMILIES
from token_diffusion.networks.families.dit import layout as dit

NAMES = ("mdlm", "udlm", "udlm-labels", "duo")
ATOMS = "# ( ) - 1 2 3 4 5 = C F N O [C-] [CH-] [N+] [N-] [NH+] [NH2+] [NH3+] [O-] [c-] [cH-] [n-] [nH+] [nH] c n o"
"""QM9's, in discrete-diffusion-guidance/notebooks/qm9_vocab.json."""


def write_folder(folder: Path, recorded: Recording, **changes: Any) -> Path:
    """With their code in it, which would be heard of if it were run."""
    family = recorded.config["model_type"].lower()
    recorded.write(folder, **changes)
    for name in (f"configuration_{family}.py", f"modeling_{family}.py", "model.py", "config.py"):
        (folder / name).write_text("raise SystemExit('code of the folder was run')")
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n")
    return folder


def write_tokenizer(folder: Path, name: str) -> Path:
    """GPT-2's kind, one token before and after text and none for a mask; or molecules, as `yairschiff/qm9-tokenizer` has them."""
    folder.mkdir(parents=True, exist_ok=True)
    if name.startswith("udlm"):
        pieces = {piece: id for id, piece in enumerate([*ATOMS.split(), "S", "P", "Br", "Cl", "I"])}
        (folder / "vocab.json").write_text(json.dumps(pieces))
        settings = {
            "auto_map": {"AutoTokenizer": ["tokenizer.SMILESTokenizer", None]},
            "tokenizer_class": "SMILESTokenizer",
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "tokenizer.py").write_text("raise SystemExit('code of the folder was run')")
        return folder
    write_gpt2(folder, 60)
    return folder


def write_gpt2(folder: Path, size: int) -> Path:
    """`size` words of a tokenizer that has GPT-2's roles."""
    end, words = "<|endoftext|>", [f"w{index}" for index in range(size - 1)]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate([*words, end])}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token="w0").save_pretrained(
        folder
    )
    return folder


def load(folder: Path, name: str) -> Checkpoint:
    """The recording of that name as a folder of the hub."""
    write_folder(folder / name, recording(name))
    return load_checkpoint(folder / name, tokenizer_name=write_tokenizer(folder / f"{name}-tokenizer", name))


def network(recorded: Recording, weights: Mapping[str, Tensor] | None = None) -> TokenDiffusionForMaskedLM:
    """The network that runs a recording, with its weights or others of their names."""
    weights = recorded.weights if weights is None else weights
    known = FAMILIES[recorded.config["model_type"].lower()](recorded.config, weights.keys())
    assert known is not None
    assert isinstance(known.config, TokenDiffusionConfig)
    model = TokenDiffusionForMaskedLM(known.config).eval()
    model.load_state_dict(dit.weights(weights))
    return model


def answers(model: TokenDiffusionForMaskedLM, recorded: Recording) -> Tensor:
    """The network's logits for what was put into theirs."""
    inputs = recorded.inputs
    with torch.inference_mode():
        return model(inputs["tokens"], timesteps=inputs["t"], class_labels=inputs.get("labels")).logits
