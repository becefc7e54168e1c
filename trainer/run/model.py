"""The backbone and its tokenizer: loaded or made from scratch, with one vocabulary between them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from token_diffusion.checkpoint import max_positions
from token_diffusion.diffusion.scheduler import TokenDiffusionScheduler
from token_diffusion.errors import ParameterError
from token_diffusion.networks.transformer.config import SCHEDULE_OPTIONS, TokenDiffusionConfig
from token_diffusion.plain import plain

from ..config import TrainingConfig

logger = logging.getLogger(__name__)

SPECIAL_IDS = ("pad", "bos", "eos", "cls", "sep", "mask")
TIME_CONDITIONING = {"absorbing": "none", "uniform": "sigma", "hybrid": "t"}
"""How a token-diffusion network is told the time unless config_overrides say otherwise: as in MDLM, UDLM and GIDD."""


def build_tokenizer(config: TrainingConfig) -> PreTrainedTokenizerBase:
    """The tokenizer that the flags name; gets a [MASK] if it has no mask token. Raises `ParameterError`."""
    flag = "model_name_or_path" if config.tokenizer_name is None else "tokenizer_name"
    name = getattr(config, flag)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # whatever transformers raises, this name holds no tokenizer for us
        raise ParameterError(flag, f"name a tokenizer that can be loaded ({_reason(error)})", name) from error
    if tokenizer.mask_token_id is None:
        # Where words hold the space before them, so does what fills a mask.
        mask = AddedToken("[MASK]", lstrip=plain(tokenizer).holds_space, special=True)
        tokenizer.add_special_tokens({"mask_token": mask})
        logger.info("the tokenizer has no mask token: added [MASK] as token %d", tokenizer.mask_token_id)
    return tokenizer


def build_model(config: TrainingConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The masked LM that the flags name, float32, its logits as wide as the tokenizer. Raises `ParameterError`."""
    if config.config_name is not None:
        model = _from_scratch(config, config.config_name, tokenizer)
    else:
        name = config.model_name_or_path
        try:
            model = AutoModelForMaskedLM.from_pretrained(name, dtype=torch.float32)
        except Exception as error:  # as above
            rule = f"name a masked LM that can be loaded ({_reason(error)})"
            raise ParameterError("model_name_or_path", rule, name) from error
    _fit_vocabulary(model, tokenizer)
    if isinstance(model.config, TokenDiffusionConfig):
        _fit_schedule(model.config, config, tokenizer)
    longest = max_positions(model)
    if longest is not None and config.max_length > longest:
        raise ParameterError("max_length", f"be <= {longest}, the positions of the model", config.max_length)
    return model


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest token id."""
    return max(tokenizer.get_vocab().values()) + 1


def _from_scratch(config: TrainingConfig, name: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    vocabulary: dict[str, Any] = {"vocab_size": vocabulary_size(tokenizer)}
    for kind in SPECIAL_IDS:
        vocabulary[f"{kind}_token_id"] = getattr(tokenizer, f"{kind}_token_id")
    overrides = _parse_overrides(_model_config(name), config.config_overrides or "")
    if name == TokenDiffusionConfig.model_type:
        overrides.setdefault("time_conditioning", TIME_CONDITIONING[config.process])
    try:
        return AutoModelForMaskedLM.from_config(_model_config(name, **overrides, **vocabulary), dtype=torch.float32)
    except Exception as error:  # as above: a configuration can be wrong in as many ways as there are models
        rule = f"make a masked LM ({_reason(error)})"
        raise ParameterError("config_name, config_overrides", rule, (name, config.config_overrides)) from error


def _model_config(name: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a model type (`bert`) or of a folder, with changes. Raises `ParameterError`."""
    if Path(name).is_dir():
        try:
            return AutoConfig.from_pretrained(name, **changes)
        except Exception as error:  # as above
            rule = f"be a folder with the config.json of a model that is known here ({_reason(error)})"
            raise ParameterError("config_name", rule, name) from error
    if name not in CONFIG_MAPPING:
        raise ParameterError("config_name", "be a model type or a folder with config.json", name)
    return AutoConfig.for_model(name, **changes)


def _parse_overrides(config: PreTrainedConfig, text: str) -> dict[str, Any]:
    """`key=value,…` with the types that `config` has. Raises `ParameterError` that names a bad key or value."""
    keys = []
    for entry in filter(None, text.split(",")):
        key, equals, _ = (part.strip() for part in entry.partition("="))
        if not equals:
            raise ParameterError("config_overrides", "be key=value,key=value", entry)
        if key == "vocab_size" or key.removesuffix("_token_id") in SPECIAL_IDS:
            raise ParameterError("config_overrides", f"leave {key} to the tokenizer", entry)
        if isinstance(config, TokenDiffusionConfig) and key in SCHEDULE_OPTIONS:
            raise ParameterError("config_overrides", f"leave {key} to its own flag", entry)
        if not hasattr(config, key):
            raise ParameterError("config_overrides", f"name keys of {type(config).__name__}", key)
        try:
            config.update_from_string(entry.strip())
        except (ValueError, TypeError) as error:
            rule = f"hold values of the right type ({_reason(error)})"
            raise ParameterError("config_overrides", rule, entry) from error
        keys.append(key)
    return {key: getattr(config, key) for key in keys}


def _fit_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes the logits exactly as wide as the tokenizer: no token lacks a logit, no logit lacks a token."""
    size = vocabulary_size(tokenizer)
    if model.config.vocab_size == size:
        return
    logger.info("the model has %d token ids, the tokenizer %d: resized the model", model.config.vocab_size, size)
    try:
        model.resize_token_embeddings(size)
    except NotImplementedError as error:
        rule = f"be a model whose {model.config.vocab_size} token ids can be resized to the tokenizer's {size}"
        raise ParameterError("model_name_or_path", rule, model.name_or_path) from error


def _fit_schedule(
    model_config: TokenDiffusionConfig, config: TrainingConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Gives the network the run's alpha(t), from which its sigma is taken. Raises `ParameterError` if there is none."""
    options = config.scheduler_options()
    model_config.update({name: options[name] for name in SCHEDULE_OPTIONS if name in options})
    scheduler = TokenDiffusionScheduler(model_config.vocab_size, tokenizer.mask_token_id, **options)
    model_config.check_process(scheduler.process)


def _reason(error: Exception) -> str:
    """The first line of an error; that of a KeyError is only the key."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"no {line} is known" if isinstance(error, KeyError) else line
