"""A network from a folder or a hub, with all the weights that are there: none left over, and all of them numbers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from ...errors import ParameterError, in_short
from ..families import Published, published
from ..masked_lm import probe
from .files import read_weights, weight_files, weight_shapes

COMPUTED = ("inv_freq", "position_ids", "token_type_ids", "masked_bias")
"""Buffers that older folders hold and networks now make themselves."""

SPARE = 2**28
"""Numbers that a network may hold beside those of its folder: buffers, and a new head."""


@contextmanager
def quiet() -> Iterator[None]:
    """In here transformers and torch keep to themselves what they think of a folder: one line of ours will say it."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", FutureWarning)  # of keys that older config.json have
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def read_masked_lm(parameter: str, place: str, **options: Any) -> tuple[PreTrainedModel, list[str]]:
    """The masked LM of `place` and the names of the weights that it does not hold.

    A place is a folder, one of ours or of a published format, or a name on a hub.

    Those are random: a new head on a body that had none. Runs no code from the folder.

    Args:
        parameter: what the user calls `place`.
        options: those of `from_pretrained`.

    Raises:
        ParameterError: it cannot be read, or its weights are not those of the network in its config.json.
    """
    known = published(Path(place), parameter) if Path(place).is_dir() else None
    if known is not None:
        return read_published(parameter, Path(place), known, **options)
    return _read(AutoModelForMaskedLM, "masked", parameter, place, options)


def read_published(
    parameter: str, folder: Path, known: Published, **options: Any
) -> tuple[PreTrainedModel, list[str]]:
    """The same for a folder of a published format: its weights, under the names of the network that runs them here.

    Where their type is the asked one they are used from their files, so that none is in memory twice.
    """
    kind = MODEL_FOR_MASKED_LM_MAPPING[type(known.config)]
    options = {name: value for name, value in options.items() if name in ("dtype", "attn_implementation")}
    try:
        weights = known.weights(read_weights(folder))
    except Exception as error:  # safetensors, pickle and torch each raise what they like
        rule = f"hold readable weights of a {known.family} model ({in_short(error)})"
        raise ParameterError(parameter, rule, str(folder)) from error
    return _read(kind, "masked", parameter, None, {"config": known.config, "state_dict": weights, **options}, folder)


def read_causal_lm(parameter: str, place: str, **options: Any) -> tuple[PreTrainedModel, list[str]]:
    """The same for a causal LM."""
    return _read(AutoModelForCausalLM, "causal", parameter, place, options)


def _read(
    kind: Any, name: str, parameter: str, source: str | None, options: dict[str, Any], folder: Path | None = None
) -> tuple[PreTrainedModel, list[str]]:
    """The model of `source`, or of the `state_dict` in `options`, which came of `folder`."""
    place = source or str(folder)
    options |= {"trust_remote_code": False, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with quiet():
            if Path(place).is_dir():
                _check_size(kind, Path(place), options.get("config"))
            model, report = kind.from_pretrained(source, **options)
    except Exception as error:  # transformers, tokenizers, safetensors and torch each raise what they like
        raise ParameterError(parameter, f"hold a readable {name} language model ({in_short(error)})", place) from error
    if rule := _broken_rule(model, report, strict=folder is not None):
        raise ParameterError(parameter, rule, place)
    return model, sorted(report["missing_keys"])


def _check_size(kind: Any, folder: Path, config: PreTrainedConfig | None) -> None:
    """Raises `ValueError` for a network that is far larger than the folder's weights: whatever they lack would be made up.

    It is built without memory for that.
    """
    with torch.device("meta"):
        if config is None:
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            model = kind.from_config(config)
        else:
            model = kind(config)
    wanted = sum(tensor.numel() for tensor in chain(model.parameters(), model.buffers()))
    there = sum(map(prod, weight_shapes(folder).values()))
    if wanted > 2 * there + SPARE:
        raise ValueError(f"its config.json is of a network of {wanted:,} numbers, its weights are {there:,}")


def check_headers(parameter: str, folder: Path) -> None:
    """Raises `ParameterError` if there are no weights, or a file of them is cut off or of another kind. Reads headers alone."""
    rule = "hold a readable masked language model ({})"
    if not any(file.suffix in (".safetensors", ".bin") for file in folder.iterdir()):
        raise ParameterError(parameter, rule.format("there are no weights"), str(folder))
    try:
        files = weight_files(folder)
    except Exception as error:  # an index may be anything
        raise ParameterError(parameter, rule.format(f"its index: {in_short(error)}"), str(folder)) from error
    for file in files:
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt"):
                    pass
        except (SafetensorError, OSError) as error:
            raise ParameterError(parameter, rule.format(f"{file.name}: {in_short(error)}"), str(folder)) from error


def check_logits(parameter: str, place: str, model: PreTrainedModel) -> None:
    """Raises `ParameterError` if the answer of the network, asked once, is no distribution over tokens.

    Finite weights can do that, too, where float16 ends. One that takes no rows as short as these (Nystromformer) is not judged.
    """
    was_training = model.training
    model.eval()
    try:
        with quiet(), torch.inference_mode():
            highest = model(**probe(model)).logits.amax(-1)
    except Exception:  # whatever its own code raises
        return
    finally:
        model.train(was_training)
    if not bool(highest.isfinite().all()):  # a NaN, an inf, or nothing but -inf
        raise ParameterError(parameter, f"hold a network whose logits are numbers in {_name(model.dtype)}", place)


def _broken_rule(model: PreTrainedModel, report: Mapping[str, Any], *, strict: bool = False) -> str | None:
    """The rule that the weights break, if they do; a `strict` format is known to hold nothing that no logit needs."""
    for name, there, wanted in sorted(report["mismatched_keys"]):
        return f"hold weights as its config.json describes them ({name} is {list(there)}, not {list(wanted)})"
    for name in sorted(report["unexpected_keys"]):
        if name.rpartition(".")[2] not in COMPUTED and (strict or _is_of_a_layer(name, model)):
            return f"hold no part of a network that its config.json does not know ({name} is left over)"
    for name in _not_finite(model):
        return f"hold weights that are finite in {_name(model.dtype)} ({name} is not)"
    return None


def _is_of_a_layer(name: str, model: nn.Module) -> bool:
    """Whether a weight that the network has no place for is of a numbered layer, or of a part that the network has.

    Without it the network would be another one. Poolers, next-sentence heads and the like are released beside most masked
    LMs, and no logit needs them.
    """
    parts = name.split(".")
    modules = dict(model.named_modules())
    numbered = [".".join(parts[:place]) for place, part in enumerate(parts) if part.isdigit()]
    if any(isinstance(modules.get(prefix), nn.ModuleList) for prefix in numbered):
        return True
    owner = modules.get(".".join(parts[:-1]))
    return owner is not None and any(True for _ in owner.parameters(recurse=False))


def _not_finite(model: PreTrainedModel) -> Iterator[str]:
    """The names of the weights that are not all numbers; in the bias of the head, -inf is a way to forbid a token.

    By the largest and the smallest, as NaN is either: no other tensor of their size is made.
    """
    bias = getattr(model.get_output_embeddings(), "bias", None)
    for name, tensor in model.state_dict().items():
        if (
            not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta
        ):  # the main process alone may have them
            continue
        lowest, highest = torch.aminmax(tensor)
        forbids = isinstance(bias, torch.Tensor) and tensor.data_ptr() == bias.data_ptr() and lowest == -torch.inf
        if not (highest.isfinite() and (lowest.isfinite() or forbids)):
            yield name


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
