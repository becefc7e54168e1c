"""What a network is told for the labels of a text: found out before the first step, and written into its config.json."""

from __future__ import annotations

import logging

import numpy as np
from transformers import PreTrainedModel

from token_diffusion.errors import ParameterError
from token_diffusion.networks.masked_lm import num_classes

from ..config import TrainingConfig
from ..data.reading.labels import MOST_SHOWN, FoundLabels, Label, Labels, shown

logger = logging.getLogger(__name__)


def labels_for(config: TrainingConfig, model: PreTrainedModel, found: FoundLabels | None) -> Labels | None:
    """What `model` is told; its config gets the names. None without labels; `found` is None where they are streamed.

    Raises:
        ParameterError: the network knows no labels, or not so many.
    """
    if config.label_column is None:
        return None
    known = num_classes(model)
    if not known:
        rule = "be left out for a network that knows no labels (those of --config_name token-diffusion do)"
        raise ParameterError("label_column", f"{rule}: {type(model).__name__}", config.label_column)
    before = Labels.known_to(model, known)
    labels = before if found is None else before.naming(found)
    if labels != before and labels.names is not None:
        if config.lora_rank is not None:
            rule = "hold integers with lora_rank, as adapters keep no names"
            raise ParameterError("label_column", rule, config.label_column)
        model.config.update({"id2label": {number: name for name, number in labels.names.items()}})
        model.config.update({"label2id": dict(labels.names)})
    logger.info("labels of %s: %s", config.label_column, labels if found is None else _counted(labels, found))
    return labels


def classes_wanted(config: TrainingConfig, found: FoundLabels | None) -> int:
    """How many labels a network from scratch has to know where nobody says. Raises `ParameterError` where nobody can know."""
    if found is None:
        rule = "say num_classes with label_column and streaming: labels are not counted before they are read"
        raise ParameterError("config_overrides", rule, config.config_overrides)
    return found.num_classes


def _counted(labels: Labels, found: FoundLabels) -> str:
    """In words, with how many texts have each."""
    counts = np.bincount(np.asarray(found.codes), minlength=len(found.first))
    ids = [labels.id_of(Label(value, where)) for value, where in found.first.items()]
    rows = dict(zip(ids, counts.tolist(), strict=True))
    names = {number: name for name, number in (labels.names or {}).items()}
    each = [f"{f'{shown(names[id])} = ' if names else ''}{id} ({rows[id]:,})" for id in sorted(rows)]
    more = f", … ({len(each)} in all)" if len(each) > MOST_SHOWN else ""
    return f"{', '.join(each[:MOST_SHOWN])}{more}, of {labels.num_classes} that the network knows"
