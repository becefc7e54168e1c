"""What is found out about a network before its first step, and mended where it can be."""

from __future__ import annotations

import logging

import torch
from transformers import PreTrainedModel

from token_diffusion.errors import ParameterError, in_short
from token_diffusion.networks.behaviour import behaviour, check_masks, seeded
from token_diffusion.networks.groups import SHARED, Grouping
from token_diffusion.networks.masked_lm import forward_arguments

from ..config import TrainingConfig

logger = logging.getLogger(__name__)

SHORT = 33
"""Tokens of the row that a network is tried with where rows have lengths of their own."""


def try_network(config: TrainingConfig, model: PreTrainedModel, mask_token_id: int) -> Grouping:
    """Tries the network on a few rows; the random generators are as before. Returns which rows share a pass in training.

    Raises:
        ParameterError: it cannot be trained, or what comes out could not be sampled from.
    """
    _switch_off_token_dropout(model)
    flag = "model_name_or_path" if config.config_name is None else "config_name"
    name = config.model_name_or_path if config.config_name is None else config.config_name
    try:
        check_masks(model, mask_token_id)
        for length in {config.max_length} if config.packing else {config.max_length, min(config.max_length, SHORT)}:
            _train_on(model, mask_token_id, length)
    except ParameterError as error:
        raise ParameterError(flag, f"be a network that can be trained here ({error})", name) from error
    found = behaviour(model)
    # What it draws differs from pass to pass in training: that rows of one length share it does no harm.
    grouping = Grouping("length", found.grouping.shortest) if found.random else found.grouping
    if grouping != SHARED and not config.packing:
        which = "sequences of one length share" if grouping.batching == "length" else "each sequence has its own"
        logger.info("the network sees padding or other sequences: %s a forward pass; faster with --packing", which)
    return grouping


def _switch_off_token_dropout(model: PreTrainedModel) -> None:
    """ESM's: it scales a row by one over the share of it that is not masked, which is made for 15 % of masks, not for all."""
    if not getattr(model.config, "token_dropout", False):
        return
    model.config.update({"token_dropout": False})
    for module in filter(lambda module: hasattr(module, "token_dropout"), model.modules()):
        module.token_dropout = False  # type: ignore[assignment]
    logger.info("token_dropout of the network switched off: a row of masks alone would have no logits")


@torch.no_grad()
def _train_on(model: PreTrainedModel, mask_token_id: int, length: int) -> None:
    """A forward pass in training mode. Raises `ParameterError` if that fails: Reformer then takes but one length."""
    device, was_training = next(model.parameters()).device, model.training
    tokens = torch.full((1, length), mask_token_id, device=device)
    t = torch.full((1,), 0.5, device=device)
    model.train()
    try:
        with seeded(model):
            logits = model(**forward_arguments(model, tokens, t, torch.ones_like(tokens))).logits
    except Exception as error:  # whatever a network's own code raises
        rule = f"learn from rows of {length} tokens ({in_short(error)})"
        raise ParameterError("network", rule, type(model).__name__) from error
    finally:
        model.train(was_training)
    if logits.isnan().any():
        raise ParameterError("network", "give logits that are numbers in training", type(model).__name__)
