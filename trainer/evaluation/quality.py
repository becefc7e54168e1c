"""How good samples are: their variety, and what a given causal language model thinks of them.

Neither figure means much alone: text that repeats itself has a low generative perplexity and a low entropy. Held-out text
measured in the same way says what to hope for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from token_diffusion.errors import ParameterError, in_short
from token_diffusion.networks.weights.hub import local_folder
from token_diffusion.networks.weights.reading import quiet, read_causal_lm

from ..output.provenance import base_name
from .bound import Estimate, pooled_ratio

DEFAULT_CONTEXT = 1024
"""Positions of a causal model that names no bound."""


def unigram_entropy(rows: Sequence[Sequence[int]]) -> float:
    """Nats, of the token counts of all rows together."""
    counts = torch.tensor(list(Counter(token for row in rows for token in row).values()), dtype=torch.float64)
    share = counts / counts.sum()
    return -(share * share.log()).sum().item()


def distinct(rows: Sequence[Sequence[int]], n: int) -> float | None:
    """Different n-grams over all n-grams of all rows (Li et al. 2016, arXiv:1510.03055); None where no row has n tokens.

    It falls as the number of tokens grows: compare equal numbers of equally long rows only.
    """
    grams = [tuple(row[start : start + n]) for row in rows for start in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def windows(tokens: Sequence[int], seq_len: int, count: int) -> list[list[int]]:
    """`count` windows of seq_len, spread evenly over the tokens."""
    last = len(tokens) - seq_len
    starts = [last * index // max(count - 1, 1) for index in range(count)]
    return [list(tokens[start : start + seq_len]) for start in starts]


def variety(rows: Sequence[Sequence[int]]) -> dict[str, float | int | None]:
    """Entropy and distinct-n of the token ids of all rows; `sample_entropy` is the mean of each row's own entropy."""
    found: dict[str, float | int | None] = {
        "num_samples": len(rows),
        "num_tokens": sum(map(len, rows)),
        "unigram_entropy": unigram_entropy(rows),
        "sample_entropy": sum(unigram_entropy([row]) for row in rows) / len(rows),
    }
    return found | {f"distinct_{n}": distinct(rows, n) for n in (1, 2, 3)}


class Judge(NamedTuple):
    """A causal language model with its tokenizer, and the tokens it sees at a time."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context: int


def load_judge(name: str, device: str | torch.device = "cpu") -> Judge:
    """The causal LM of a folder or id. Raises `ParameterError`."""
    parameter = "generative_model_name_or_path"
    folder = str(local_folder(parameter, name, bare=True))
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever transformers raises, this name holds no tokenizer for us
        raise ParameterError(parameter, f"hold a readable tokenizer ({in_short(error)})", name) from error
    model: Any
    model, missing = read_causal_lm(parameter, folder, dtype=torch.float32, local_files_only=True)
    if missing:
        raise ParameterError(parameter, f"hold all weights of its model ({missing[0]} is missing)", name)
    config = model.config.get_text_config()
    if (largest := max(tokenizer.get_vocab().values())) >= config.vocab_size:
        rule = f"have a tokenizer with ids below the model's {config.vocab_size}"
        raise ParameterError(parameter, rule, largest)
    context = getattr(config, "max_position_embeddings", None) or DEFAULT_CONTEXT
    return Judge(base_name(name), model.to(device).eval(), tokenizer, int(context))


class Text(NamedTuple):
    """A sample as the judge reads it: `ids`, and which of them are scored."""

    ids: list[int]
    scored: list[bool]


def retokenize(judge: Judge, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> list[Text]:
    """Rows of token ids as the judge's own tokens.

    The text between special tokens is tokenised anew; where a row has its own EOS or SEP, the judge reads its EOS. A BOS
    (else the EOS) goes before the text and is given, so that the first token has a probability. Scored are all tokens
    that are not special, and the first EOS (Sahoo et al. 2024, arXiv:2406.07524).
    """
    start = judge.tokenizer.bos_token_id
    eos = judge.tokenizer.eos_token_id
    start = eos if start is None else start
    special = set(judge.tokenizer.all_special_ids)
    texts = []
    for row in rows:
        ids = [token for part in _parts(tokenizer, row) for token in (*_encode(judge, part), eos)][:-1]
        ids = [token for token in ids if token is not None]
        first = ids.index(eos) if eos in ids else None
        scored = [token not in special or index == first for index, token in enumerate(ids)]
        given = [] if start is None else [start]
        texts.append(Text([*given, *ids], [False] * len(given) + scored))
    return texts


def generative_perplexity(judge: Judge, texts: Sequence[Text], batch_size: int = 8) -> tuple[Estimate, int]:
    """Perplexity a scored token under the judge, pooled over texts, with its standard error over them; and their number.

    A text longer than the context is read in windows that overlap by half: each token is scored once, and all but
    those of the first window have at least half a context before them.
    """
    pieces = [(index, *piece) for index, text in enumerate(texts) for piece in _pieces(text, judge.context)]
    pieces.sort(key=lambda piece: len(piece[1]))  # little padding
    sums = torch.zeros(len(texts), dtype=torch.float64)
    counts = torch.zeros_like(sums)
    for start in range(0, len(pieces), batch_size):
        batch = pieces[start : start + batch_size]
        owners = torch.tensor([index for index, _, _ in batch])
        nats, scored = _score(judge, [ids for _, ids, _ in batch], [scored for _, _, scored in batch])
        sums.index_add_(0, owners, nats)
        counts.index_add_(0, owners, scored)
    if not counts.sum():
        return Estimate(math.nan, math.nan), 0
    return pooled_ratio(sums, counts).exp(), int(counts.sum())


@torch.inference_mode()
def _score(judge: Judge, ids: list[list[int]], scored: list[list[bool]]) -> tuple[Tensor, Tensor]:
    """-log p of the scored tokens of each piece, summed in nats, and their number: float64 [B] each."""
    device = judge.model.device
    tokens, chosen = _pad(ids, device), _pad(scored, device).bool()
    attention_mask = _pad([[1] * len(piece) for piece in ids], device)
    # Padding is on the right: a causal model does not see it from where it matters.
    logits = judge.model(input_ids=tokens, attention_mask=attention_mask).logits[:, :-1]
    nats = F.cross_entropy(logits.float().transpose(1, 2), tokens[:, 1:], reduction="none")
    chosen = chosen[:, 1:]
    return torch.where(chosen, nats, 0.0).double().sum(1).cpu(), chosen.double().sum(1).cpu()


def _pad(rows: Sequence[Sequence[Any]], device: torch.device) -> Tensor:
    """int64 [B, longest], zeros on the right."""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True).to(device)


def _pieces(text: Text, context: int) -> Iterator[tuple[list[int], list[bool]]]:
    """Windows of at most `context` tokens with what each scores: what no earlier one has."""
    stride = max(context // 2, 1)
    done = 0
    for start in range(0, max(len(text.ids), 1), stride):
        end = min(start + context, len(text.ids))
        scored = [flag and start + offset >= done for offset, flag in enumerate(text.scored[start:end])]
        if end - start > 1:
            yield text.ids[start:end], scored
        done = end
        if end == len(text.ids):
            return


def _parts(tokenizer: PreTrainedTokenizerBase, row: Sequence[int]) -> list[str]:
    """The texts between the row's EOS and SEP tokens, all other special tokens left out."""
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    special = set(tokenizer.all_special_ids)
    parts: list[list[int]] = [[]]
    for token in row:
        if token in ends:
            parts.append([])
        elif token not in special:
            parts[-1].append(token)
    return [str(tokenizer.decode(part)) for part in parts]


def _encode(judge: Judge, text: str) -> list[int]:
    return judge.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
