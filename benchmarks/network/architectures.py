"""Which masked LMs of transformers train, save, load and sample here, and how: each one tiny, through the real trainer.

    python -m benchmarks.network.architectures                  all of them, into docs/architectures.md
    python -m benchmarks.network.architectures bert fnet        some of them, printed

Each is trained for three steps on lines of different lengths, saved, loaded, sampled from as a whole and block by block, and
asked for rows of several lengths alone and among others. `tests/test_architectures.py` asks the same of each.
"""

from __future__ import annotations

import io
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.networks.transformer import TokenDiffusionConfig
from token_diffusion.sampling import sample, sample_block
from trainer.__main__ import main as train
from trainer.data.tokenizer import build_tokenizer

from .. import ROOT, command
from ..report import Table

PAGE = ROOT / "docs" / "architectures.md"

ARCHITECTURES = [TokenDiffusionConfig.model_type, *MODEL_FOR_MASKED_LM_MAPPING_NAMES]

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 96, "initializer_range": 0.2, "embedding_size": 16, "num_key_value_heads": 2,
    "head_dim": 16, "attention_head_size": 16, "feed_forward_size": 64,
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64,
    "emb_dim": 32, "d_inner": 64, "n_head": 2, "d_head": 16,
}  # fmt: skip
"""What makes a network small, where its configuration has it."""

TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TEXT |= {f"{kind}_token_id": 0 for kind in ("pad", "bos", "eos", "cls", "sep")}
PICTURE = {"model_type": "siglip_vision_model", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
"""What makes the two parts of a network that sees pictures, too, small."""

LATENTS = {"num_latents": 8, "d_latents": 32, "num_self_attention_heads": 2, "num_cross_attention_heads": 2}
AXES = {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 16], "max_position_embeddings": 256}
TABLES = {"pronunciation_vocab_size": 20, "shape_vocab_size": 20, "pronunciation_embed_dim": 8, "shape_embed_dim": 8}

OWN: dict[str, dict[str, Any]] = {
    "convbert": {"embedding_size": 32},
    "funnel": {"block_sizes": [1, 1, 1], "num_hidden_layers": None, "initializer_std": 0.2},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "modernvbert": {"text_config": {"model_type": "modernbert", **TEXT}, "vision_config": PICTURE},
    "neomme": {"layer_types": ["sliding_attention", "full_attention"]},
    "perceiver": {"num_self_attends_per_block": 2, **LATENTS},
    "reformer": {"is_decoder": False, **AXES},
    "roc_bert": TABLES,
    "squeezebert": {"embedding_size": 32},
    "ultravbert": {"text_config": {"model_type": "ultrabert", **TEXT}, "vision_config": PICTURE},
    "xmod": {"default_language": "en_XX"},
}
"""What an architecture needs beside that, or instead; None leaves a size out."""

LINES = [
    "the cat sat on the mat",
    "a dog",
    "the dog sat on a mat",
    "the cat ran to the dog and sat on the mat of the dog",
]


@dataclass
class Outcome:
    """How far an architecture came. refusal: the one line that it was refused with; remark: what else was seen."""

    name: str
    kind: str
    trains: bool = False
    saves_and_loads: bool = False
    samples: bool = False
    gathers: bool | None = None
    batching: str = ""
    refusal: str = ""
    remark: str = ""


def make_workplace(folder: Path) -> Path:
    """`folder` with a text and a tokenizer."""
    text = "\n".join(LINES * 4) + "\n"
    (folder / "text.txt").write_text(text)
    build_tokenizer([text], vocab_size=290).save_pretrained(folder / "tokenizer")
    return folder


def tiny_config(name: str) -> Any:
    """A small configuration of an architecture."""
    known = AutoConfig.for_model(name)
    sizes = {key: value for key, value in SIZES.items() if hasattr(known, key)} | OWN.get(name, {})
    return AutoConfig.for_model(name, **{key: value for key, value in sizes.items() if value is not None})


def examine(name: str, workplace: Path) -> Outcome:
    """Trains, saves, loads and samples. What is refused in one line is an outcome; anything else is raised.

    Raises:
        Exception: whatever was not refused, but failed.
        AssertionError: a row alone has other logits than among others.
    """
    outcome = Outcome(name, MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(name, "TokenDiffusionForMaskedLM"))
    try:
        config = tiny_config(name)
    except ImportError as error:
        outcome.refusal = f"needs {str(error).strip().splitlines()[0]}"
        return outcome
    folder = workplace / name
    config.save_pretrained(folder / "config")
    code, message = _train(workplace, folder)
    if code:
        outcome.refusal = _one_line(message).replace(str(folder / "config"), name)
        return outcome
    outcome.trains = True
    try:
        checkpoint = load_checkpoint(folder / "run" / "final")
    except ParameterError as error:
        outcome.refusal = _one_line(str(error))
        return outcome
    outcome.saves_and_loads = True
    outcome.gathers, outcome.batching = getattr(checkpoint.denoiser, "gathers", None), checkpoint.batching
    check_rows(checkpoint)
    _sample(checkpoint)
    outcome.samples = True
    outcome.remark = "; ".join(_remarks(checkpoint))
    return outcome


def _train(workplace: Path, folder: Path) -> tuple[int, str]:
    """The exit code of three training steps, and what was written to stderr."""
    flags = {
        "config_name": folder / "config",
        "tokenizer_name": workplace / "tokenizer",
        "train_file": workplace / "text.txt",
        "validation_file": workplace / "text.txt",
        "output_dir": folder / "run",
        "max_train_steps": 3,
        "max_length": 32,
        "per_device_train_batch_size": 4,
        "lr_warmup_steps": 0,
        "report_to": "none",
    }
    arguments = ["mdlm", *(f"--{key}={value}" for key, value in flags.items())]
    errors = io.StringIO()
    with redirect_stderr(errors), redirect_stdout(io.StringIO()), _quiet():
        code = train(arguments)
    lines = [line for line in errors.getvalue().splitlines() if "must" in line or "is nan" in line]
    return code, "\n".join(lines[-1:]) or errors.getvalue()


def check_rows(checkpoint: Checkpoint) -> None:
    """Rows of several lengths, the longest too, have the same logits alone as among others; so has one of masks alone."""
    longest = min(checkpoint.max_seq_len or 96, 96)
    lengths = torch.tensor([longest, 13, 6, 13, 1])
    vocab_size, mask = checkpoint.scheduler.config["vocab_size"], checkpoint.scheduler.config["mask_token_id"]
    tokens = torch.randint(vocab_size, (len(lengths), longest), generator=torch.Generator().manual_seed(0))
    tokens[3] = mask
    valid = torch.arange(longest) < lengths.unsqueeze(1)
    t = torch.full((len(lengths),), 0.5, dtype=torch.float64)
    together = checkpoint.denoiser(tokens, t, valid, valid.flatten().nonzero().squeeze(1)).split(lengths.tolist())
    for row, length in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        alone = checkpoint.denoiser(tokens[one, :length], t[one], valid[one, :length], torch.arange(length))
        _check_close(alone, together[row], f"row {row} of {length} tokens")


def _check_close(alone: Tensor, together: Tensor, what: str) -> None:
    if not alone.isfinite().all():
        raise AssertionError(f"{what}: logits must be numbers")
    differing = (alone - together).abs().max().item() / max(alone.abs().max().item(), 1e-30)
    if differing > 1e-3:
        raise AssertionError(f"{what}: logits alone must be those among others, they differ by {differing:.2g}")


def _sample(checkpoint: Checkpoint) -> None:
    """A text at once and one by blocks; the masks must be gone."""
    mask = checkpoint.scheduler.config["mask_token_id"]
    for output in (
        sample(checkpoint.denoiser, checkpoint.scheduler, num_samples=2, seq_len=11, num_inference_steps=4),
        sample_block(checkpoint.denoiser, checkpoint.scheduler, seq_len=11, block_size=4, num_inference_steps=3),
    ):
        if (output.sequences == mask).any():
            raise AssertionError("samples must hold no mask")


def _remarks(checkpoint: Checkpoint) -> Iterator[str]:
    if checkpoint.model.config.is_encoder_decoder:
        yield "encoder and decoder: a token is predicted from its left neighbours and the whole noisy row"
    tokens = torch.full((2, 9), 7)
    tokens[1, 1:] = 9
    valid, t = torch.ones(2, 9, dtype=torch.bool), torch.full((2,), 0.5, dtype=torch.float64)
    first, other = checkpoint.denoiser(tokens, t, valid, torch.tensor([0, 9]))
    if first.equal(other):
        yield "no position looks at another here: it learns the frequencies of tokens alone"


def _one_line(message: str) -> str:
    lines = message.strip().splitlines()
    if len(lines) != 1:
        raise AssertionError(f"a refusal must be one line, got {message!r}")
    return lines[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that transformers and PyTorch have for tiny networks."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)


def page(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as Markdown."""
    table = Table(
        [
            "architecture",
            "class",
            "trains",
            "saves & loads",
            "samples",
            "head at positions",
            "batching",
            "remark or refusal",
        ]
    )
    for each in outcomes:
        marks = [
            "yes" if mark else "no" if mark is not None else "-"
            for mark in (each.trains, each.saves_and_loads, each.samples, each.gathers)
        ]
        table.add(
            f"`{each.name}`",
            each.kind,
            *marks,
            each.batching or "-",
            (each.refusal or each.remark).replace("|", "\\|"),
        )
    good = sum(each.samples for each in outcomes)
    versions = f"transformers {transformers.__version__} and torch {torch.__version__}"
    return f"""# Masked LMs of transformers

Written by `python -m benchmarks.network.architectures` with {versions}; edit no line by hand.
Each network of `AutoModelForMaskedLM`, tiny, was trained for three steps (`mdlm`), saved, loaded and sampled from: {good} of
{len(outcomes)} do all of it, the others are refused with the line that is given.

*head at positions*: the vocabulary head runs at the asked positions alone. *batching*: which rows share a forward pass: any
(`shared`); rows of one length (`length`), as the network sees padding; none (`row`). `/models` says it too.

{table.markdown()}
"""


def main(arguments: Sequence[str]) -> int:
    parser = command.make_parser("benchmarks.network.architectures", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures; all of them without")
    parser.add_argument(
        "--output", type=Path, help=f"the page to write; {PAGE.relative_to(ROOT)} for all of them together"
    )
    asked = parser.parse_args(arguments)
    outcomes, failed = [], False
    with tempfile.TemporaryDirectory() as folder:
        workplace = make_workplace(Path(folder))
        for name in asked.names or ARCHITECTURES:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                outcomes.append(examine(name, workplace))
            except Exception as error:
                traceback.print_exc()
                outcomes.append(Outcome(name, "-", remark=f"**failed**: {type(error).__name__}"))
                failed = True
    text = page(outcomes)
    print(text)
    output = asked.output or (None if asked.names else PAGE)
    if output is not None:
        output.write_text(text, encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
