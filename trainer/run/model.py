"""The backbone and its tokenizer: loaded or made from scratch, with one vocabulary between them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from token_diffusion.checkpoint import Unloaded, max_positions
from token_diffusion.checkpoint.adapter import Adapter
from token_diffusion.diffusion.scheduler import TokenDiffusionScheduler
from token_diffusion.errors import ParameterError, in_short
from token_diffusion.networks.transformer.config import SCHEDULE_OPTIONS, TokenDiffusionConfig
from token_diffusion.networks.weights.files import is_bfloat16
from token_diffusion.networks.weights.hub import local_folder
from token_diffusion.networks.weights.reading import read_masked_lm
from token_diffusion.text.plain import plain, writes_text

from ..config import SFTConfig, TrainingConfig
from ..data.reading.labels import FoundLabels
from .labels import classes_wanted

logger = logging.getLogger(__name__)

SPECIAL_IDS = ("pad", "bos", "eos", "cls", "sep", "mask")
TIME_CONDITIONING = {"absorbing": "none", "uniform": "sigma", "hybrid": "t"}
"""How a token-diffusion network is told the time unless config_overrides say otherwise: as in MDLM, UDLM and GIDD."""


def build_tokenizer(config: TrainingConfig, start: Unloaded | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of the folder that training goes on from, or else the one that the flags name. Raises `ParameterError`."""
    tokenizer = _named_tokenizer(config) if start is None else start.tokenizer
    if isinstance(config, SFTConfig) and config.chat_template_path is not None:
        tokenizer.chat_template = read_chat_template(config.chat_template_path)
    return tokenizer


def _named_tokenizer(config: TrainingConfig) -> PreTrainedTokenizerBase:
    """It gets a [MASK] if it has no mask token."""
    flag = "model_name_or_path" if config.tokenizer_name is None else "tokenizer_name"
    name = getattr(config, flag)
    folder = local(config, flag, weights=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever transformers raises, this name holds no tokenizer for us
        raise ParameterError(flag, f"name a tokenizer that can be loaded ({in_short(error)})", name) from error
    if not writes_text(tokenizer):
        raise ParameterError(flag, "name a tokenizer that has tokens besides control tokens", name)
    if tokenizer.mask_token_id is None:
        # Where words hold the space before them, so does what fills a mask.
        mask = AddedToken("[MASK]", lstrip=plain(tokenizer).holds_space, special=True)
        tokenizer.add_special_tokens({"mask_token": mask})
        logger.info("the tokenizer has no mask token: added [MASK] as token %d", tokenizer.mask_token_id)
    return tokenizer


def read_chat_template(path: Path) -> str:
    """Of a file in Jinja, or of a folder's tokenizer. Raises `ParameterError` if there is none."""
    try:
        if not path.is_dir():
            return path.read_text(encoding="utf-8")
        template = AutoTokenizer.from_pretrained(path).chat_template
    except Exception as error:  # whatever transformers raises
        rule = f"be a readable template, or a folder of a tokenizer ({in_short(error)})"
        raise ParameterError("chat_template_path", rule, str(path)) from error
    if not isinstance(template, str):
        raise ParameterError("chat_template_path", "be of a tokenizer that has one chat template", str(path))
    return template


def build_model(
    config: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    start: Unloaded | None = None,
    labels: FoundLabels | None = None,
) -> PreTrainedModel:
    """The masked LM that the flags name, float32. Raises `ParameterError`.

    labels: those of the text, as many of which a token-diffusion network from scratch knows. The logits are as wide as the
    tokenizer, or as they were where training goes on from `start`: some are padded.
    """
    if config.config_name is not None:
        model = _from_scratch(config, config.config_name, tokenizer, labels)
    else:
        folder = local(config, "model_name_or_path")
        # Frozen weights stay of the type that they are.
        dtype = torch.bfloat16 if config.lora_rank is not None and is_bfloat16(folder) else torch.float32
        options = {"dtype": dtype, "local_files_only": True, **_attention(config)}
        try:
            model, missing = read_masked_lm("model_name_or_path", str(folder), **options)
        except ParameterError as error:
            _check_attention(config, error)
            raise
        if missing and config.lora_rank is not None:
            rule = f"hold all weights of its model with lora_rank ({missing[0]} is missing)"
            raise ParameterError("model_name_or_path", rule, config.model_name_or_path)
        if missing:
            logger.warning("%d weights are not there and start at random: %s", len(missing), ", ".join(missing[:3]))
    if start is None:
        _fit_vocabulary(config, model, tokenizer)
    if isinstance(model.config, TokenDiffusionConfig):
        _fit_schedule(model.config, config, tokenizer)
    longest = max_positions(model)
    if longest is not None and config.max_length > longest:
        raise ParameterError("max_length", f"be <= {longest}, the positions of the model", config.max_length)
    return model


def local(config: TrainingConfig, flag: str, weights: bool = True) -> Path:
    """What `flag` names, a folder or a repository of the hub, on this machine. Raises `ParameterError`."""
    revision = config.model_revision if flag == "model_name_or_path" else None
    return local_folder(flag, getattr(config, flag), revision, config.cache_dir, weights=weights, bare=True)


def _attention(config: TrainingConfig) -> dict[str, Any]:
    return {} if config.attn_implementation is None else {"attn_implementation": config.attn_implementation}


def _check_attention(config: TrainingConfig, error: Exception) -> None:
    """Raises `ParameterError` if the error is about how attention is computed."""
    name = config.attn_implementation
    if name is not None and (name in str(error) or "attention" in str(error)):
        raise ParameterError(
            "attn_implementation", f"be one that the model has here ({in_short(error.__cause__ or error)})", name
        ) from error


def build_adapter(config: TrainingConfig, model: PreTrainedModel) -> Adapter | None:
    """The adapters that the flags ask for, put into the model. Raises `ParameterError`."""
    if config.lora_rank is None:
        return None
    return Adapter(
        model,
        config.model_name_or_path,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(config.lora_target_modules) or "all-linear",
    )


def build_scheduler(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, start: Unloaded | None = None
) -> TokenDiffusionScheduler:
    """The process and schedule of the flags, over the tokens of `tokenizer` or of the model that training goes on from."""
    size = vocabulary_size(tokenizer) if start is None else start.scheduler.config.vocab_size
    return TokenDiffusionScheduler(size, tokenizer.mask_token_id, **config.scheduler_options())


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest token id."""
    return max(tokenizer.get_vocab().values()) + 1


def _from_scratch(
    config: TrainingConfig, name: str, tokenizer: PreTrainedTokenizerBase, labels: FoundLabels | None
) -> PreTrainedModel:
    vocabulary: dict[str, Any] = {"vocab_size": vocabulary_size(tokenizer)}
    for kind in SPECIAL_IDS:
        vocabulary[f"{kind}_token_id"] = getattr(tokenizer, f"{kind}_token_id")
    base = _model_config(name)
    overrides, told = _parse_overrides(base, config.config_overrides or ""), TIME_CONDITIONING[config.process]
    if isinstance(base, TokenDiffusionConfig) and config.label_column is not None:
        if "num_classes" not in overrides and not base.num_classes:
            overrides["num_classes"] = classes_wanted(config, labels)
        told = "zero" if told == "none" else told  # a label goes the way of the time
    if name == TokenDiffusionConfig.model_type:
        overrides.setdefault("time_conditioning", told)
    try:
        model_config = _model_config(name, **overrides, **vocabulary)
        return AutoModelForMaskedLM.from_config(model_config, dtype=torch.float32, **_attention(config))
    except Exception as error:  # as above: a configuration can be wrong in as many ways as there are models
        _check_attention(config, error)
        rule = f"make a masked LM ({in_short(error)})"
        raise ParameterError("config_name, config_overrides", rule, (name, config.config_overrides)) from error


def _model_config(name: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a model type (`bert`) or of a folder, with changes. Raises `ParameterError`."""
    if Path(name).is_dir():
        try:
            return AutoConfig.from_pretrained(name, **changes)
        except Exception as error:  # as above
            rule = f"be a folder with the config.json of a model that is known here ({in_short(error)})"
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
            rule = f"hold values of the right type ({in_short(error)})"
            raise ParameterError("config_overrides", rule, entry) from error
        keys.append(key)
    return {key: getattr(config, key) for key in keys}


def _fit_vocabulary(config: TrainingConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes the logits exactly as wide as the tokenizer: no token lacks a logit, no logit lacks a token."""
    size, old = vocabulary_size(tokenizer), model.config.get_text_config().vocab_size
    if old == size:
        return
    if config.lora_rank is not None:
        rule = f"be a model of the tokenizer's {size} token ids, not {old}: adapters hold none"
        raise ParameterError("model_name_or_path", rule, config.model_name_or_path)
    logger.info("the model has %d token ids, the tokenizer %d: resized the model", old, size)
    try:
        model.resize_token_embeddings(size)
        _fit_bias(model, size)
    except Exception as error:  # not every model can, and each says so in its own way
        rule = f"be a model whose {old} token ids can be resized to the tokenizer's {size} ({in_short(error)})"
        raise ParameterError("model_name_or_path", rule, model.name_or_path) from error


def _fit_bias(model: PreTrainedModel, size: int) -> None:
    """Resizes the bias that stands beside the head, `lm_head.bias` beside `lm_head.decoder`, where transformers has not.

    It leaves it as it was (RoBERTa), also where it is the one that is added to the logits (ESM), or makes it one with the
    head's own though the two are not tied (BERT), and of two such it saves one.
    """
    head = model.get_output_embeddings()
    tied = {*model.all_tied_weights_keys, *model.all_tied_weights_keys.values()}
    for name, owner in model.named_modules():
        bias = getattr(owner, "bias", None)
        if f"{name}.bias" in tied or not isinstance(bias, nn.Parameter) or head not in owner.children():
            continue
        own = getattr(head, "bias", None)
        owner.bias = nn.Parameter(_resized(bias.detach(), size) if own is None else own.detach().clone())


def _resized(bias: Tensor, size: int) -> Tensor:
    """New tokens get the mean, as transformers gives them the mean embedding."""
    return torch.cat([bias[:size], bias.mean().expand(max(0, size - len(bias)))])


def _fit_schedule(
    model_config: TokenDiffusionConfig, config: TrainingConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Gives the network the run's alpha(t), from which its sigma is taken. Raises `ParameterError` if there is none."""
    options = config.scheduler_options()
    model_config.update({name: options[name] for name in SCHEDULE_OPTIONS if name in options})
    model_config.check_process(build_scheduler(config, tokenizer).process)
