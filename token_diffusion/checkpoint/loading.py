"""A folder is opened, which is quick and finds most that is wrong with it; then its weights are loaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..diffusion.scheduler import TokenDiffusionScheduler
from ..errors import ParameterError, in_short
from ..facts import Facts, Frame, read_facts
from ..networks.backends import BACKENDS, handed_over
from ..networks.behaviour import check_masks
from ..networks.cpu.packing import pack_where_it_pays
from ..networks.cpu.quantization import quantised
from ..networks.denoiser import MaskedLMDenoiser
from ..networks.families import ROLES, Published, Tokens
from ..networks.groups import Batching
from ..networks.masked_lm import max_positions
from ..networks.transformer import TokenDiffusionConfig
from ..networks.weights.files import is_bfloat16
from ..networks.weights.reading import check_headers, check_logits, read_masked_lm
from .checkpoint import DTYPES, Checkpoint
from .folder import SCHEDULER_FILE, find_places, read_part
from .precision import AUTO, choose
from .tokenizer import load_tokenizer

logger = logging.getLogger(__name__)


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
    family: str | None = None
    backend: str = "torch"
    why: str | None = None
    """this dtype, where that was left to us"""

    def load(self, name: str | None = None) -> Checkpoint:
        """The checkpoint, called as its folder if not otherwise. Raises `ParameterError` for what its weights show."""
        name = name or self.path.resolve().name
        if self.why is None:
            return self._load(name)
        found, why = self, self.why
        try:
            checkpoint = self._load(name)
        except ParameterError as error:  # FNet, for one, has no bfloat16 on a CPU
            if self.dtype == "float32":
                raise
            found, why = replace(self, dtype="float32"), f"as {self.dtype} cannot be: {error}"
            checkpoint = found._load(name)
        logger.info("dtype %s for %s: %s, %s", AUTO, name, found.dtype, why)
        return checkpoint

    def _load(self, name: str) -> Checkpoint:
        """Raises `ParameterError` as `load` does."""
        model, folder, scheduler = self.network(), str(self.path), self.scheduler.config
        longest = max_positions(model)
        check_frame(self.path, self.facts, scheduler.mask_token_id, longest)
        try:
            forbidden = self.facts.forbidden(self.tokenizer, scheduler.vocab_size)
            plain = MaskedLMDenoiser(model, forbidden, self.facts.ends(self.tokenizer))
            check_masks(model, scheduler.mask_token_id)
        except ParameterError as error:
            rule = f"hold a network that can be sampled from ({error})"
            raise ParameterError("checkpoint_path", rule, folder) from error
        batching: Batching = plain.batching
        if self.backend != "torch":
            denoiser = handed_over(self.backend, plain, self.dtype)
        else:
            denoiser = quantised(plain) if self.dtype == "int8" else plain
            pack_where_it_pays(model)
        if self.dtype == "int8":
            batching = "row"
        return Checkpoint(
            name,
            self.path,
            model,
            self.tokenizer,
            self.scheduler,
            denoiser,
            longest,
            self.dtype,
            batching,
            self.facts,
            self.family,
            self.backend,
        )

    def network(self) -> PreTrainedModel:
        """The model alone, as it came of its folder. Raises `ParameterError` if weights are missing, or are no numbers."""
        options = {"dtype": DTYPES[self.dtype], "local_files_only": True}
        model, missing = read_masked_lm("checkpoint_path", str(self.places["model"]), **options)
        if missing:
            rule = f"hold all weights of its model ({missing[0]} is missing)"
            raise ParameterError("checkpoint_path", rule, str(self.path))
        with _available(self.device):
            model.to(self.device)  # type: ignore[arg-type]  # its decorator hides the method
        check_logits("checkpoint_path", str(self.path), model)
        return model


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    backend: str = "torch",
    tokenizer_name: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """Reads a folder that the trainer, or one of the seed's scripts, wrote, or one of a format that others have published.

    Runs no code from the folder.

    Args:
        dtype: of the weights, one of `DTYPES`; without it they stay bfloat16 where they are that, and are float32 otherwise.
            "auto" is what is best for the device, which the log says with the reason and the error to expect (precision.py).
        backend: who computes the forward passes, one of `BACKENDS`.
        tokenizer_name: folder of the tokenizer, where it is not the checkpoint's own.

    Raises:
        ParameterError: not such a folder, or its parts do not fit each other.
    """
    unloaded = open_checkpoint(path, device=device, dtype=dtype, backend=backend, tokenizer_name=tokenizer_name)
    return unloaded.load(name)


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    backend: str = "torch",
    tokenizer_name: str | os.PathLike[str] | None = None,
) -> Unloaded:
    """The cheap part of `load_checkpoint`: everything that needs no weights is read and checked, of these the headers.

    Raises:
        ParameterError: as `load_checkpoint` does.
    """
    folder = Path(path)
    if dtype not in (None, AUTO, *DTYPES):
        raise ParameterError("dtype", f"be one of {', '.join([*DTYPES, AUTO])}", dtype)
    if backend not in BACKENDS:
        raise ParameterError("backend", f"be one of {', '.join(BACKENDS)}", backend)
    with _available(device):
        torch.empty(0, device=device)
    places, known = find_places(folder, needs_tokenizer=tokenizer_name is None)
    scheduler = _own_scheduler(places["scheduler"], known)
    if known is None:
        wanted = "the configuration of a model that is known here"
        config = read_part(AutoConfig, places["model"], wanted, trust_remote_code=False)
    else:
        config = known.config
        if scheduler is not None:  # which may have another mask
            known = replace(known, scheduler={**known.scheduler, "mask_token_id": scheduler.config.mask_token_id})
    if tokenizer_name is None:
        tokenizer = load_tokenizer(places["tokenizer"], known)
    else:
        tokenizer = load_tokenizer(tokenizer_name, known, "tokenizer_name")
    if scheduler is None:
        assert known is not None
        scheduler = TokenDiffusionScheduler(**{"mask_token_id": tokenizer.mask_token_id, **known.scheduler})
    check_fit(folder, config, tokenizer, scheduler, tokenizer_name)
    facts = read_facts(folder, scheduler.config.vocab_size)
    if known is not None and not facts.known:
        facts = _facts(known, tokenizer)
    check_headers("checkpoint_path", places["model"])
    stored, why = is_bfloat16(places["model"]), None
    if dtype == AUTO:
        choice = choose(device, stored)
        dtype, why = choice.dtype, choice.why
    dtype = dtype or ("bfloat16" if stored else "float32")
    family = None if known is None else known.family
    return Unloaded(folder, places, tokenizer, scheduler, facts, device, dtype, family, backend, why)


def _own_scheduler(place: Path, known: Published | None) -> TokenDiffusionScheduler | None:
    """The folder's, which one of a published format need not have; it wins over what the format is known for."""
    if known is not None and not (place / SCHEDULER_FILE).is_file():
        return None
    return read_part(TokenDiffusionScheduler, place, "a readable token diffusion scheduler")


def _facts(known: Published, tokenizer: PreTrainedTokenizerBase) -> Facts:
    """What the format is known for, in the tokenizer's ids."""

    spelt = tokenizer.get_vocab()

    def id_of(token: str | int) -> int | None:
        if isinstance(token, int):
            return token
        if token not in ROLES:
            return spelt.get(token)
        found: int | None = getattr(tokenizer, f"{token}_token_id")
        if found is None:
            rule = f"have its {token} token, as that of a {known.family} model has"
            raise ParameterError("tokenizer", rule, tokenizer.name_or_path)
        return found

    def ids(tokens: Tokens) -> tuple[int, ...]:
        return tuple(id for token in tokens if (id := id_of(token)) is not None)

    ends = None if known.ends is None else frozenset(ids(known.ends))
    frame = Frame(ids(known.prefix), ids(known.suffix))
    return Facts(frame, frozenset(ids(known.learnt)), known=True, end_tokens=ends)


@contextmanager
def _available(device: str) -> Iterator[None]:
    """In here torch's complaints are about the device."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise ParameterError("device", f"be available ({in_short(error)})", device) from error


def check_fit(
    folder: Path,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    scheduler: TokenDiffusionScheduler,
    tokenizer_name: str | os.PathLike[str] | None = None,
) -> None:
    """Raises `ParameterError` for a network, a tokenizer, which may be another folder's, and a scheduler that do not fit."""
    named, place = ("checkpoint_path", folder) if tokenizer_name is None else ("tokenizer_name", tokenizer_name)
    width, vocab_size = getattr(config.get_text_config(), "vocab_size", None), scheduler.config.vocab_size
    if width != vocab_size:
        rule = f"hold a model as wide as the scheduler's vocab_size {vocab_size}, not {width}"
        raise ParameterError("checkpoint_path", rule, str(folder))
    if (largest := max(tokenizer.get_vocab().values())) >= vocab_size:
        rule = f"hold a tokenizer with ids below the model's vocab_size {vocab_size}, not up to {largest}"
        raise ParameterError(named, rule, str(place))
    wanted, mask_token_id = scheduler.config.mask_token_id, tokenizer.mask_token_id
    if mask_token_id != wanted:
        rule = f"hold a tokenizer with the scheduler's mask_token_id {wanted}, not {mask_token_id}"
        raise ParameterError(named, rule, str(place))
    if isinstance(config, TokenDiffusionConfig):
        config.check_process(scheduler.process)


def check_frame(folder: Path, facts: Facts, mask_token_id: int, longest: int | None) -> None:
    """Raises `ParameterError` for a frame around which there can be no sample."""
    if mask_token_id in (*facts.frame.prefix, *facts.frame.suffix):
        raise ParameterError("checkpoint_path", f"have a frame without the mask token {mask_token_id}", str(folder))
    if longest is not None and len(facts.frame) >= longest:
        rule = f"have a frame of fewer tokens than the model's {longest} positions, not {len(facts.frame)}"
        raise ParameterError("checkpoint_path", rule, str(folder))
