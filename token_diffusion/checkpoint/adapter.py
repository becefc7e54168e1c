"""Low-rank adapters (LoRA) in peft's folders: put into a network, written, read, and merged into the weights that they adapt.

peft itself is imported where it is needed alone: whoever has no adapters needs none of it.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import ParameterError, in_short
from ..networks.weights.hub import local_folder
from ..networks.weights.reading import read_masked_lm

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft puts before the names of a network that it has wrapped; its files are written so."""

NAME = "default"
"""Of the adapter within a network, in peft's words; it is in no file."""


class Adapter:
    """The adapters of a network, in it; its own weights are frozen, and those of the adapters are float32.

    Args:
        base: the folder or the hub's name of the network, for who wants to merge them.
        options: those of `peft.LoraConfig`.

    Raises:
        ParameterError: peft is not installed, or it does not make such adapters for this network.
    """

    def __init__(self, model: PreTrainedModel, base: str, **options: Any) -> None:
        with _peft("lora_rank") as peft:
            self.config = peft.LoraConfig(base_model_name_or_path=base, **options)
            try:
                peft.inject_adapter_in_model(self.config, model, adapter_name=NAME)
                _check_own(model)
            except Exception as error:  # peft and torch raise what they like
                rule = f"be linear layers that peft adapts in this network ({in_short(error)})"
                raise ParameterError("lora_target_modules", rule, options.get("target_modules")) from error
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(_is_adapters(name))
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    @staticmethod
    def of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the adapters among a network's weights."""
        return {name: tensor for name, tensor in weights.items() if _is_adapters(name)}

    def save_pretrained(self, folder: str | os.PathLike[str], state_dict: Mapping[str, Tensor] | None = None) -> None:
        """peft's folder, of the adapters' weights by the network's names."""
        assert state_dict is not None
        Path(folder).mkdir(parents=True, exist_ok=True)
        values = replace(self.config, inference_mode=True).to_dict()
        sets = {
            key: sorted(value) for key, value in values.items() if isinstance(value, set)
        }  # of no order of their own
        (Path(folder) / CONFIG_FILE).write_text(json.dumps(values | sets, indent=2, sort_keys=True) + "\n")
        named = {PREFIX + name.replace(f".{NAME}.", "."): tensor.contiguous() for name, tensor in state_dict.items()}
        save_file(named, Path(folder) / WEIGHTS_FILE, metadata={"format": "pt"})


def is_adapter(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds adapters, and no network."""
    return (Path(folder) / CONFIG_FILE).is_file() and not (Path(folder) / "config.json").exists()


def base_of(parameter: str, folder: str | os.PathLike[str]) -> str:
    """What the adapters of a folder were trained on: a folder or the hub's name. Raises `ParameterError` if it does not say."""
    try:
        base = json.loads((Path(folder) / CONFIG_FILE).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(parameter, f"hold a readable {CONFIG_FILE} ({in_short(error)})", str(folder)) from error
    if not isinstance(base, str) or not base:
        raise ParameterError(parameter, f"name its model in {CONFIG_FILE} (base_model_name_or_path)", str(folder))
    return base


def merge_adapter(
    parameter: str, folder: str | os.PathLike[str], base: str | None = None, **options: Any
) -> PreTrainedModel:
    """The network that the adapters of `folder` were trained on, read with `options`, and they merged into its weights.

    Args:
        parameter: what the user calls the folder.
        base: where the network lies, if not where the folder says.

    Raises:
        ParameterError: one of the two cannot be read, or the adapters are of another network.
    """
    place = local_folder(parameter, base_of(parameter, folder) if base is None else base, bare=True)
    model, missing = read_masked_lm(parameter, str(place), **options)
    if missing:
        raise ParameterError(
            parameter, f"be of a model that holds all its weights ({missing[0]} is missing)", str(place)
        )
    with _peft(parameter) as peft:
        try:
            config = peft.PeftConfig.from_pretrained(str(folder))
            peft.inject_adapter_in_model(config, model, adapter_name=NAME)
            _check_own(model)
            _load(model, load_file(Path(folder) / WEIGHTS_FILE))
        except Exception as error:  # peft, safetensors and torch raise what they like
            rule = f"hold adapters of the model in {place} ({in_short(error)})"
            raise ParameterError(parameter, rule, str(folder)) from error
    for name, layer in list(_adapted(model)):
        layer.merge(safe_merge=True)
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, layer.get_base_layer())
    del model.peft_config  # which peft has left there
    return model.requires_grad_(True)


def _load(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Fills the adapters of a network. Raises `ValueError` unless there are weights for each of them, and no others."""
    ours = Adapter.of(model.state_dict(keep_vars=True))
    names = {PREFIX + name.replace(f".{NAME}.", "."): name for name in ours}
    if other := sorted(names.keys() ^ weights.keys()):
        raise ValueError(f"{other[0]} is in one of the two alone")
    for name, tensor in weights.items():
        into = ours[names[name]]
        if into.shape != tensor.shape:
            raise ValueError(f"{name} is {list(tensor.shape)}, not {list(into.shape)}")
        into.data = tensor.to(into.dtype)


def _adapted(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module


def _check_own(model: PreTrainedModel) -> None:
    """Raises `ValueError` for an adapted layer whose weights are another's, too: merged, the adapter would be in both."""
    owners = Counter(id(tensor) for _, tensor in model.named_parameters(remove_duplicate=False))
    for name, layer in _adapted(model):
        if owners[id(layer.get_base_layer().weight)] > 1:
            raise ValueError(f"the weights of {name} are another layer's, too, which would change with them")


def _is_adapters(name: str) -> bool:
    return ".lora_" in name


@contextmanager
def _peft(parameter: str) -> Iterator[Any]:
    """peft; it warns of what it mends, and of what is refused here. Raises `ParameterError` where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise ParameterError(parameter, "have peft installed, `pip install .[lora]`", None) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield peft
