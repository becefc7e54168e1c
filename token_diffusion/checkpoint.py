"""A checkpoint is one folder: model and tokenizer of transformers, `scheduler_config.json`, and a model card.

It loads with plain `AutoModelForMaskedLM.from_pretrained` and `TokenDiffusionScheduler.from_pretrained` as well. The layout of
diffusers' pipelines, a subfolder for each part beside a `model_index.json`, is read, too.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .diffusion.scheduler import TokenDiffusionScheduler
from .errors import ParameterError, in_short
from .facts import UNKNOWN, Facts, read_facts
from .networks.behaviour import check_masks
from .networks.cpu.packing import pack_where_it_pays
from .networks.cpu.quantization import quantised
from .networks.denoiser import Denoiser, MaskedLMDenoiser
from .networks.groups import Batching
from .networks.masked_lm import max_positions as max_positions
from .networks.transformer import TokenDiffusionConfig
from .networks.weights import check_headers, check_logits, quiet, read_masked_lm
from .plain import writes_text

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.float32,  # read as that, quantised then
}
SCHEDULER_FILE = "scheduler_config.json"
FILES = {"scheduler": SCHEDULER_FILE, "model": "config.json", "tokenizer": "tokenizer_config.json"}
"""The file that each part cannot be without, by the part's name in diffusers' layout."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded folder, ready to sample from. `max_seq_len` is None where the model has no bound on positions.

    dtype: of the weights, one of `DTYPES`. batching: which rows may share a forward pass. facts: how its training sequences
    were framed, and what of them was learnt.
    denoiser: what samples are drawn from; it says which ids are `forbidden`.
    """

    name: str
    path: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    scheduler: TokenDiffusionScheduler
    denoiser: Denoiser
    max_seq_len: int | None
    dtype: str
    batching: Batching = "shared"
    facts: Facts = UNKNOWN

    @property
    def forbidden(self) -> tuple[int, ...]:
        """Ids that no sample holds: padding, control tokens that are not learnt, and ids without a token."""
        return self.facts.forbidden(self.tokenizer, self.scheduler.config.vocab_size)

    @property
    def process(self) -> str:
        """ "absorbing", "uniform" or "hybrid"."""
        return self.scheduler.config.forward_process

    @property
    def device(self) -> str:
        return str(self.model.device)

    def check_seq_len(self, seq_len: int) -> None:
        """Raises `ParameterError` when the model has fewer positions than `seq_len`."""
        if self.max_seq_len is not None and seq_len > self.max_seq_len:
            raise ParameterError("seq_len", f"be at most {self.max_seq_len}, the positions of {self.name}", seq_len)


@dataclass(frozen=True)
class Unloaded:
    """A folder of which all is read and found to fit but its weights; `load` reads those."""

    path: Path
    places: Mapping[str, Path]
    tokenizer: PreTrainedTokenizerBase
    scheduler: TokenDiffusionScheduler
    facts: Facts
    device: str
    dtype: str

    def load(self, name: str | None = None) -> Checkpoint:
        """The checkpoint, called as its folder if not otherwise. Raises `ParameterError` for what its weights show."""
        options = {"dtype": DTYPES[self.dtype], "local_files_only": True}
        folder, scheduler = str(self.path), self.scheduler.config
        model, missing = read_masked_lm("checkpoint_path", str(self.places["model"]), **options)
        if missing:
            raise ParameterError("checkpoint_path", f"hold all weights of its model ({missing[0]} is missing)", folder)
        with _available(self.device):
            model.to(self.device)  # type: ignore[arg-type]  # its decorator hides the method
        check_logits("checkpoint_path", folder, model)
        longest = max_positions(model)
        _check_frame(self.path, self.facts, scheduler.mask_token_id, longest)
        try:
            plain = MaskedLMDenoiser(model, self.facts.forbidden(self.tokenizer, scheduler.vocab_size))
            check_masks(model, scheduler.mask_token_id)
        except ParameterError as error:
            rule = f"hold a network that can be sampled from ({error})"
            raise ParameterError("checkpoint_path", rule, folder) from error
        denoiser = quantised(plain) if self.dtype == "int8" else plain
        batching: Batching = "row" if self.dtype == "int8" else plain.batching
        pack_where_it_pays(model)
        name, facts = name or self.path.resolve().name, self.facts
        return Checkpoint(
            name, self.path, model, self.tokenizer, self.scheduler, denoiser, longest, self.dtype, batching, facts
        )


def load_checkpoint(
    path: str | os.PathLike[str], *, name: str | None = None, device: str = "cpu", dtype: str = "float32"
) -> Checkpoint:
    """Reads a folder that the trainer, or one of the seed's scripts, wrote. Runs no code from the folder.

    Raises:
        ParameterError: not such a folder, or its parts do not fit each other.
    """
    return open_checkpoint(path, device=device, dtype=dtype).load(name)


def open_checkpoint(path: str | os.PathLike[str], *, device: str = "cpu", dtype: str = "float32") -> Unloaded:
    """The cheap part of `load_checkpoint`: everything that needs no weights is read and checked, of these the headers.

    Raises:
        ParameterError: as `load_checkpoint` does.
    """
    folder = Path(path)
    if dtype not in DTYPES:
        raise ParameterError("dtype", f"be one of {', '.join(DTYPES)}", dtype)
    with _available(device):
        torch.empty(0, device=device)
    places = _places(folder)
    scheduler = _load(TokenDiffusionScheduler, places["scheduler"], "a readable token diffusion scheduler")
    known = "the configuration of a model that is known here"
    config = _load(AutoConfig, places["model"], known, trust_remote_code=False)
    tokenizer = load_tokenizer(places["tokenizer"])
    _check_fit(folder, config, tokenizer, scheduler)
    facts = read_facts(folder, scheduler.config.vocab_size)
    check_headers("checkpoint_path", places["model"])
    return Unloaded(folder, places, tokenizer, scheduler, facts, device, dtype)


def load_tokenizer(path: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder. Raises `ParameterError` if there is none, or it has no mask token or no others."""
    tokenizer = _load(AutoTokenizer, Path(path), "a readable tokenizer", trust_remote_code=False)
    if tokenizer.mask_token_id is None:
        raise ParameterError("tokenizer", "have a mask token", str(path))
    if not writes_text(tokenizer):
        raise ParameterError("tokenizer", "have tokens besides control tokens", str(path))
    return tokenizer


def save_checkpoint(
    folder: str | os.PathLike[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scheduler: TokenDiffusionScheduler,
    *,
    facts: Facts | None = None,
    card: str | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
    write_more: Callable[[Path], None] | None = None,
) -> None:
    """Writes the folder whole or not at all: beside its place first, then renamed; what was there before is replaced.

    Args:
        facts: what is known of the training sequences; without it the folder says nothing of them.
        card: the text of its README.md.
        state_dict: the weights to save; without it those that `model` holds.
        write_more: adds files to the folder that it is given, before that gets its name.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    model.save_pretrained(fresh, state_dict=None if state_dict is None else dict(state_dict))
    for how_it_was_loaded in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(how_it_was_loaded, None)
    tokenizer.save_pretrained(fresh)
    scheduler.save_pretrained(fresh)
    if facts is not None:
        facts.write(fresh)
    if card is not None:
        (fresh / "README.md").write_text(card, encoding="utf-8")
    if write_more is not None:
        write_more(fresh)
    for file in fresh.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone, but whoever serves may be another user
        with file.open("rb") as opened:
            os.fsync(opened.fileno())  # a name must not outlive a power cut that its contents did not
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _places(folder: Path) -> dict[str, Path]:
    """Where each part lies: in the folder itself, or in its subfolder where a pipeline of diffusers was saved.

    Raises:
        ParameterError: a part's file is missing, or holds no JSON object.
    """
    try:
        if not folder.is_dir():
            raise ParameterError("checkpoint_path", "be an existing folder", str(folder))
        apart = (folder / "model_index.json").is_file()
        places = {part: folder / part if apart and (folder / part).is_dir() else folder for part in FILES}
        for part, place in places.items():
            _check_json(folder, (place / FILES[part]).relative_to(folder))
            _check_readable(place)
    except OSError as error:
        rule = f"be a folder that can be read ({error.strerror}: {Path(error.filename or folder).name!r})"
        raise ParameterError("checkpoint_path", rule, str(folder)) from error
    return places


def _check_json(folder: Path, file: Path) -> None:
    if not (folder / file).is_file():
        raise ParameterError("checkpoint_path", f"be a folder that holds {file.as_posix()}", str(folder))
    content = (folder / file).read_bytes()
    try:
        settings = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        rule = f"hold JSON in {file.as_posix()} ({in_short(error)})"
        raise ParameterError("checkpoint_path", rule, str(folder)) from error
    if not isinstance(settings, dict):
        raise ParameterError("checkpoint_path", f"hold a JSON object in {file.as_posix()}", str(folder))


def _check_readable(folder: Path) -> None:
    """Opens what will be read: safetensors calls a file that it may not open one that does not exist."""
    for file in folder.iterdir():
        if file.suffix in (".json", ".safetensors", ".bin") and file.is_file():
            file.open("rb").close()


def _load(kind: Any, folder: Path, what: str, **kwargs: Any) -> Any:
    try:
        with quiet():
            return kind.from_pretrained(str(folder), local_files_only=True, **kwargs)
    # transformers, diffusers and tokenizers each raise what they like for a broken file, and so do we
    except Exception as error:
        raise ParameterError("checkpoint_path", f"hold {what} ({in_short(error)})", str(folder)) from error


@contextmanager
def _available(device: str) -> Iterator[None]:
    """In here torch's complaints are about the device."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise ParameterError("device", f"be available ({in_short(error)})", device) from error


def _check_fit(
    folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, scheduler: TokenDiffusionScheduler
) -> None:
    width, vocab_size = getattr(config.get_text_config(), "vocab_size", None), scheduler.config.vocab_size
    if width != vocab_size:
        rule = f"hold a model as wide as the scheduler's vocab_size {vocab_size}, not {width}"
        raise ParameterError("checkpoint_path", rule, str(folder))
    if (largest := max(tokenizer.get_vocab().values())) >= vocab_size:
        rule = f"hold a tokenizer with ids below the model's vocab_size {vocab_size}, not up to {largest}"
        raise ParameterError("checkpoint_path", rule, str(folder))
    wanted, mask_token_id = scheduler.config.mask_token_id, tokenizer.mask_token_id
    if mask_token_id != wanted:
        rule = f"hold a tokenizer with the scheduler's mask_token_id {wanted}, not {mask_token_id}"
        raise ParameterError("checkpoint_path", rule, str(folder))
    if isinstance(config, TokenDiffusionConfig):
        config.check_process(scheduler.process)


def _check_frame(folder: Path, facts: Facts, mask_token_id: int, longest: int | None) -> None:
    """Raises `ParameterError` for a frame around which there can be no sample."""
    if mask_token_id in (*facts.frame.prefix, *facts.frame.suffix):
        raise ParameterError("checkpoint_path", f"have a frame without the mask token {mask_token_id}", str(folder))
    if longest is not None and len(facts.frame) >= longest:
        rule = f"have a frame of fewer tokens than the model's {longest} positions, not {len(facts.frame)}"
        raise ParameterError("checkpoint_path", rule, str(folder))
