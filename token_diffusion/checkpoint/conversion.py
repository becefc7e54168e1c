"""Any folder that loads, written as an ordinary one: the same numbers under our names, with scheduler, tokenizer and card."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..diffusion.scheduler import TokenDiffusionScheduler
from ..errors import ParameterError, in_short
from ..facts import Facts, Frame, read_facts
from ..networks.masked_lm import max_positions
from ..networks.transformer import TokenDiffusionConfig
from ..networks.transformer.config import SCHEDULE_OPTIONS
from ..networks.weights.files import stored_dtype
from ..networks.weights.hub import local_folder, tokenizer_folder
from .adapter import base_of, is_adapter, merge_adapter
from .card import Origin, card
from .checkpoint import DTYPES
from .folder import SCHEDULER_FILE, read_part
from .loading import Unloaded, check_fit, check_frame, open_checkpoint
from .saving import save_checkpoint
from .tokenizer import holds_tokenizer, load_tokenizer

WRITTEN = tuple(name for name in DTYPES if name != "int8")
"""The types that weights are written in."""

KEPT = ("vocab_size", "mask_token_id")
"""Of a scheduler: the network's own."""


def convert(
    checkpoint_path: str,
    output_dir: str | os.PathLike[str],
    *,
    tokenizer_name: str | None = None,
    base_model: str | None = None,
    dtype: str | None = None,
    scheduler_overrides: str | None = None,
    frame_prefix: Sequence[str] | None = None,
    frame_suffix: Sequence[str] | None = None,
    learnt_tokens: Sequence[str] | None = None,
    max_shard_size: str = "5GB",
) -> Path:
    """Writes the folder whole or not at all, and returns it. Its logits are those of `checkpoint_path`.

    Args:
        checkpoint_path: a folder that loads, or one of adapters, or a repository of the hub. output_dir: new, or an empty folder.
        tokenizer_name: as `checkpoint_path`, where that holds no tokenizer or another is wanted.
        base_model: as `checkpoint_path`, of the model that adapters are merged into, if not where they say.
        dtype: of the weights that are written, without it as they are.
        scheduler_overrides: `key=value,…` in place of what is known of the schedule.
        frame_prefix, frame_suffix, learnt_tokens: ids or spellings of control tokens, in place of what is known: those before
            and after every text, and those that may be in a sample.
        max_shard_size: of a file of weights, for one.

    Raises:
        ParameterError: it does not load, an argument is wrong, or the folder cannot be written.
    """
    target = _check_output(Path(output_dir), dtype, max_shard_size)
    folder = local_folder("checkpoint_path", checkpoint_path)
    words = tokenizer_folder(tokenizer_name)
    base = _base(folder, base_model)
    opened = _opened(folder, dtype, words) if base is None else _with_adapters(folder, base[1], dtype, words)
    scheduler = _overridden(opened.scheduler, scheduler_overrides)
    facts = _told(opened.facts, opened.tokenizer, frame_prefix, frame_suffix, learnt_tokens)
    if base is None:
        model = opened.network()
    else:
        options = {"dtype": DTYPES[opened.dtype], "local_files_only": True}
        model = merge_adapter("checkpoint_path", folder, str(base[1]), **options)
    _fit_schedule(model, scheduler)
    check_fit(folder, model.config, opened.tokenizer, scheduler, words)
    check_frame(folder, facts, scheduler.config.mask_token_id, max_positions(model))
    rounded = opened.dtype not in ("float32", stored_dtype(opened.places["model"]))
    origin = Origin(checkpoint_path, folder, opened.family, base, rounded)
    text = card(origin, target.resolve().name, model, scheduler, facts)
    parts: dict[str, Any] = {"facts": facts if facts.known else None, "card": text, "max_shard_size": max_shard_size}
    _check_free(target)  # still, after so long
    try:
        save_checkpoint(target, model, opened.tokenizer, scheduler, **parts)
    except Exception as error:  # safetensors and tokenizers each raise what they like for a full disk
        rule = f"be a folder that can be written ({in_short(error)})"
        raise ParameterError("output_dir", rule, str(target)) from error
    return target


def _base(folder: Path, given: str | None) -> tuple[str, Path] | None:
    """The model that a folder's adapters are for, by its name and by its folder; None for a folder of a whole model."""
    if is_adapter(folder):
        name = given or base_of("checkpoint_path", folder)
        return name, local_folder("base_model", name, bare=True)
    if given is not None:
        raise ParameterError("base_model", "be given with a folder of adapters alone", given)
    return None


def _opened(folder: Path, dtype: str | None, words: Path | None) -> Unloaded:
    """All of a folder but its weights, which stay of the type that they have if no other is asked for."""
    opened = open_checkpoint(folder, dtype=dtype, tokenizer_name=words)
    return replace(opened, dtype=dtype or stored_dtype(opened.places["model"]))


def _with_adapters(folder: Path, base: Path, dtype: str | None, words: Path | None) -> Unloaded:
    """The same of adapters and the model that they are for, which knows what their folder does not say."""
    if not (folder / SCHEDULER_FILE).is_file():
        own = folder if holds_tokenizer(folder) else None
        return _opened(base, dtype, words or own)
    scheduler = read_part(TokenDiffusionScheduler, folder, "a readable token diffusion scheduler")
    tokenizer = load_tokenizer(folder) if words is None else load_tokenizer(words, parameter="tokenizer_name")
    facts = read_facts(folder, scheduler.config.vocab_size)
    return Unloaded(folder, {"model": base}, tokenizer, scheduler, facts, "cpu", dtype or stored_dtype(base))


def _check_output(folder: Path, dtype: str | None, max_shard_size: str) -> Path:
    """Before hours of fetching. Raises `ParameterError` for what is there already, and what no file can be."""
    if dtype is not None and dtype not in WRITTEN:
        raise ParameterError("dtype", f"be one of {', '.join(WRITTEN)}", dtype)
    if not re.fullmatch(r"[1-9]\d*[KMGT]B", max_shard_size):
        raise ParameterError("max_shard_size", "be a size such as 5GB", max_shard_size)
    _check_free(folder)
    return folder


def _check_free(folder: Path) -> None:
    """Raises `ParameterError` for a folder that no other may take the place of."""
    try:
        taken = os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise ParameterError("output_dir", f"be a folder that can be read ({error.strerror})", str(folder)) from error
    if taken:
        raise ParameterError("output_dir", "be new or an empty folder", str(folder))
    if os.path.ismount(folder):
        raise ParameterError("output_dir", "be a folder in a volume, not the volume itself", str(folder))
    above = next(each for each in Path(os.path.realpath(folder)).parents if each.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ParameterError("output_dir", f"be a folder that can be written (it would be in {above})", str(folder))


def _overridden(scheduler: TokenDiffusionScheduler, text: str | None) -> TokenDiffusionScheduler:
    values: dict[str, Any] = {}
    for entry in filter(None, (text or "").split(",")):
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not equals:
            raise ParameterError("scheduler_overrides", "be key=value,key=value", entry)
        if key in KEPT:
            raise ParameterError("scheduler_overrides", f"leave {key} to the model", entry)
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    try:
        return TokenDiffusionScheduler.from_config({**scheduler.config, **values}) if values else scheduler
    except ParameterError as error:
        raise ParameterError("scheduler_overrides", f"hold settings of the scheduler ({error})", text) from error


def _fit_schedule(model: PreTrainedModel, scheduler: TokenDiffusionScheduler) -> None:
    """A network that is told sigma is told that of the scheduler."""
    if isinstance(model.config, TokenDiffusionConfig) and model.config.time_conditioning == "sigma":
        model.config.update({name: scheduler.config[name] for name in SCHEDULE_OPTIONS})


def _told(
    facts: Facts,
    tokenizer: PreTrainedTokenizerBase,
    prefix: Sequence[str] | None,
    suffix: Sequence[str] | None,
    learnt: Sequence[str] | None,
) -> Facts:
    """What is known of the folder, and what the user knows better."""
    if prefix is None and suffix is None and learnt is None:
        return facts
    before = facts.frame.prefix if prefix is None else _ids(tokenizer, "frame_prefix", prefix)
    after = facts.frame.suffix if suffix is None else _ids(tokenizer, "frame_suffix", suffix)
    may_be = facts.learnt if learnt is None else frozenset(_ids(tokenizer, "learnt_tokens", learnt))
    return replace(facts, frame=Frame(before, after), learnt=may_be, known=True)


def _ids(tokenizer: PreTrainedTokenizerBase, name: str, tokens: Sequence[str]) -> tuple[int, ...]:
    vocabulary = tokenizer.get_vocab()
    found = [int(token) if token.isdecimal() else vocabulary.get(token) for token in tokens]
    known = set(vocabulary.values())
    for token, id in zip(tokens, found, strict=True):
        if id not in known:
            raise ParameterError(name, "be ids or spellings of the tokenizer's tokens", token)
    return tuple(id for id in found if id is not None)
