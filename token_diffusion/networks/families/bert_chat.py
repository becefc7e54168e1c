"""BERTs that dLLM has taught to answer: `dllm-hub/ModernBERT-base-chat-v0.1` and `-large-`, ordinary masked LMs to look at.

Any masked LM can be asked to fill in a page of masks, and only one that has learnt that answers well. So one without a scheduler
is taken for such a model if its tokenizer has a chat template, which nothing else needs. Its noise is linear, it is not told the
time, and the padding that fills what is left of an answer is learnt (examples/bert/sft.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from .published import Published, tokenizer_says

KINDS = ("bert", "modernbert", "roberta")
"""Those that dLLM has a chat template for (dllm/utils/models.py)."""


def read(config: Mapping[str, Any], names: Collection[str], folder: Path) -> Published | None:
    """What is known of such a folder; None for another."""
    kind = config.get("model_type")
    has_template = (folder / "chat_template.jinja").is_file() or bool(tokenizer_says(folder, "chat_template"))
    if kind not in KINDS or not has_template:
        return None
    network = CONFIG_MAPPING[kind].from_dict(dict(config))
    return Published(
        "bert-chat",
        network,
        dict,
        scheduler={"vocab_size": network.vocab_size, "forward_process": "absorbing", "alpha_schedule": "linear"},
        learnt=("pad",),
        ends=("pad",),
    )
