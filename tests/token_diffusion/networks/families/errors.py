"""How far each recorded network's logits are from its authors', as a table.

    python -m tests.token_diffusion.networks.families.errors

Each is read from a folder as its authors' hub page has it, and asked through its checkpoint's denoiser, in float32 on the CPU.
Tests hold each of them to 1e-5; this prints by how much they pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from tests.test_published import words_for
from tests.token_diffusion.networks.families.hub_folders import write_dream, write_llada
from tests.token_diffusion.networks.families.recording import NAMES, Recording, recording
from tests.token_diffusion.networks.families.turned_folders import write_turned
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.networks.families import published

WRITERS: dict[tuple[str, ...], Callable[[Path, str], Path]] = {
    ("llada",): write_llada,
    ("dream",): write_dream,
    ("a2d", "diffugpt", "diffullama"): write_turned,
}
"""By the start of a recording's name what writes its folder, if that holds its own tokenizer."""


def load(folder: Path, recorded: Recording) -> Checkpoint:
    """The recording as a folder of the hub, and a tokenizer of its size, in it or beside it."""
    place, kind = folder / recorded.name, recorded.name.partition("-")[0]
    for names, write in WRITERS.items():
        if kind in names:
            return load_checkpoint(write(place, recorded.name))
    known = published(recorded.write(place))
    assert known is not None
    words_for(known).save_pretrained(words := folder / f"{recorded.name}-words")
    return load_checkpoint(place, tokenizer_name=words)


def answers(checkpoint: Checkpoint, recorded: Recording) -> tuple[Tensor, Tensor]:
    """Ours and theirs at all tokens, [N, V]."""
    inputs, theirs = recorded.inputs, recorded.outputs["logits"]
    tokens = inputs["tokens"]
    t = inputs["t"] if inputs.get("t", tokens).dim() == 1 else torch.ones(len(tokens))
    valid = inputs.get("valid", torch.ones_like(tokens, dtype=torch.bool))
    labels = inputs.get("labels")
    if labels is not None:  # theirs for none is the last row of the table
        labels = torch.where(labels == checkpoint.num_classes, -1, labels)
    ours = checkpoint.denoiser(tokens, t.double(), valid, valid.flatten().nonzero().squeeze(1), labels)
    if checkpoint.family == "sedd":  # what they return are log scores
        scale = (inputs["sigma"].double().expm1().log() + math.log(ours.shape[-1] - 1)).view(-1, 1, 1)
        ours = (ours.view_as(theirs) - scale).scatter(-1, tokens.unsqueeze(-1), 0.0).flatten(0, 1)
    return ours, theirs[valid]


def main() -> None:
    disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads\n")
    print("| recording | family | largest logit | largest error |\n|---|---|---|---|")
    with TemporaryDirectory() as folder:
        for recorded in map(recording, NAMES):
            if "logits" not in recorded.outputs:
                continue
            checkpoint = load(Path(folder), recorded)
            ours, theirs = answers(checkpoint, recorded)
            size, error = theirs.abs().max().item(), (ours - theirs).abs().max().item()
            print(f"| {recorded.name} | {checkpoint.family} | {size:.1f} | {error:.1e} |")


if __name__ == "__main__":
    main()
