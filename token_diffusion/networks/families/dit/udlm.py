"""UDLM (arXiv 2412.10193): `kuleshov-group/udlm-lm1b` and `udlm-qm9`, a DiT with uniform noise that is told sigma = -ln alpha.

With `cfg` it is told a label, too, or that there is none, a row of its own after those of the labels.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ....diffusion.values import check_bool, check_int
from ....errors import ParameterError
from ..published import Published
from . import layout

CONTROL = {
    "cls_token": "<bos>",
    "sep_token": "<eos>",
    "mask_token": "<mask>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}
SMILES = r"\[[^\]]+\]|Br|Cl|%[0-9]{2}|\S"
"""An atom in brackets, one of two letters, a ring of two digits; anything else is one character."""


def read(config: Mapping[str, Any], names: Collection[str]) -> Published | None:
    """What is known of such a folder; None for another."""
    if config.get("model_type") != "udlm":
        return None
    labelled = config.get("cfg", False)
    check_bool("cfg", labelled)
    if not labelled and any("cond_map." in name for name in names):
        raise ParameterError("cfg", "be true where there is an embedding of labels (cond_map)", labelled)
    if labelled:
        check_int("cfg_num_classes", config["cfg_num_classes"], 1)
    told = layout.time_conditioning(config, otherwise=True)
    classes = config["cfg_num_classes"] if labelled else 0
    known = layout.published("udlm", config, "uniform", told, num_classes=classes)
    return replace(known, tokenizer_class=SMILESTokenizer) if known.tokenizer == layout.QM9.tokenizer else known


class SMILESTokenizer(PreTrainedTokenizerFast):
    """Reads `yairschiff/qm9-tokenizer`, which names code of its own: molecules in vocab.json, after five control tokens."""

    @classmethod
    def from_pretrained(cls, folder: str, **options: Any) -> PreTrainedTokenizerFast:  # type: ignore[override]
        """The tokenizer of a folder, of theirs or of one that was saved here."""
        if (Path(folder) / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(folder, **options)
        pieces = json.loads((Path(folder) / "vocab.json").read_text(encoding="utf-8"))
        control = {token: id for id, token in enumerate(CONTROL.values())}
        vocabulary = control | {piece: id + len(control) for piece, id in pieces.items()}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=CONTROL["unk_token"]))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(SMILES), "removed", invert=True)
        tokenizer.decoder = decoders.Fuse()
        start, end = ((CONTROL[role], control[CONTROL[role]]) for role in ("cls_token", "sep_token"))
        tokenizer.post_processor = processors.BertProcessing(end, start)
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **CONTROL)
