"""What a causal language model makes of text that it has not seen, and how such text becomes its windows."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from token_diffusion.errors import ParameterError
from token_diffusion.facts import Frame
from trainer.data.corpus import read_documents
from trainer.data.sequences import tokenize
from trainer.evaluation.bound import Estimate
from trainer.evaluation.quality import Judge, Text, generative_perplexity


def bos_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """What goes before a text, as `quality.retokenize` has it. Raises `ParameterError` where there is nothing."""
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise ParameterError("tokenizer_name", "have a BOS or an EOS token", type(tokenizer).__name__)


def rows_of(tokenizer: PreTrainedTokenizerBase, flag: str, files: Sequence[Path], context: int) -> list[Any]:
    """The windows of files, the last of which may be shorter. Raises `ParameterError` for what cannot be read."""
    documents = read_documents(flag, files, packing=True)
    frame = Frame(prefix=(bos_of(tokenizer),))
    return [
        row.tolist()
        for row in tokenize(tokenizer, documents, flag=flag, packing=True, max_length=context, frame=frame).ids
    ]


def held_out(judge: Judge, flag: str, file: Path) -> dict[str, Any]:
    """Perplexity a token and bits a byte, each token scored once, with at least half a context before it but at the beginning.

    `pieces` are the same figures, with standard errors, where the text is cut into windows of the context and each is read by
    itself, as the bound of a diffusion model is that of pieces.
    """
    (text,) = read_documents(flag, [file], packing=True)
    num_bytes = len(text.encode())
    whole, pieces = (
        figures(judge, rows_of(judge.tokenizer, flag, [file], most), num_bytes)
        for most in (sys.maxsize, judge.context)
    )
    named = ("perplexity", "bits_per_byte", "num_tokens", "num_bytes")
    return {name: whole[name] for name in named} | {"pieces": pieces}


def figures(judge: Judge, rows: Sequence[list[int]], num_bytes: int) -> dict[str, Any]:
    """Of rows that begin with BOS, which is given, and together are a text of so many bytes; one row has no error (None)."""
    bos = bos_of(judge.tokenizer)
    perplexity, num_tokens = generative_perplexity(judge, [Text(row, [token != bos for token in row]) for row in rows])
    nats = Estimate(math.log(perplexity.value), perplexity.error / perplexity.value)
    bits_per_byte = nats.scaled(num_tokens / num_bytes / math.log(2))
    named = {"nats": nats, "perplexity": perplexity, "bits_per_byte": bits_per_byte}
    found: dict[str, Any] = {"num_tokens": num_tokens, "num_bytes": num_bytes}
    return found | {key: value for name, each in named.items() for key, value in each.figures(name).items()}
