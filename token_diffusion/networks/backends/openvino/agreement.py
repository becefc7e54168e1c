"""Whether a graph answers as torch does, in shapes other than the example's, too.

What torch did in one pass need not be what it does in all: a length, a number of rows or a branch may have been fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from torch import Tensor

from ....errors import ParameterError
from ...behaviour import ROUNDING
from ...cpu.memory import free
from ...denoiser import Denoiser, MaskedLMDenoiser
from ...masked_lm import max_positions

Question = tuple[Tensor, ...]
"""Arguments of a denoiser."""

CLOSE = 1e-4
"""What two ways of rounding in float32 may differ by, as a part of the largest logit."""

LONGEST = 200
"""Tokens of the longest row that is asked, where the network has no longer blocks: more than the windows of local attention."""


def check_agreement(plain: MaskedLMDenoiser, denoiser: Denoiser) -> None:
    """Raises `ParameterError` where the other denoiser's logits are not those of `plain`, in all of `questions`."""
    answers = [(question, plain(*question).float()) for question in questions(plain)]
    bound = _rounding(plain, answers)
    for question, theirs in answers:
        difference = _difference(denoiser(*question), theirs)
        if not difference <= bound:
            name, (rows, length) = type(plain.model).__name__, question[0].shape
            told = f"differ by {difference:.1g} of the largest, not by {bound:.1g} at most"
            rule = f"be torch for {name}: its logits for {rows} rows of {length} tokens {told}"
            raise ParameterError("backend", rule, "openvino")


def _rounding(plain: MaskedLMDenoiser, answers: Sequence[tuple[Question, Tensor]]) -> float:
    """What the logits of another way to compute may differ by.

    Two ways to round to bfloat16 differ about as each does from float32: how far that is each network is asked. It is not asked
    for less than what is known of ordinary networks, nor where there is no memory for its weights in float32.
    """
    weights = list(plain.model.parameters())
    dtype, room = weights[0].dtype, free()
    if dtype == torch.float32:
        return CLOSE
    if room is not None and 4 * sum(each.nbytes for each in weights) > room:
        return ROUNDING[dtype]
    exact = MaskedLMDenoiser(deepcopy(plain.model).float())
    own = max(_difference(theirs, exact(*question)) for question, theirs in answers)
    return max(ROUNDING[dtype], 4 * own)


def questions(plain: MaskedLMDenoiser) -> Iterator[Question]:
    """One row and several, short and long, with padding and without, all positions and one."""
    longest = max(LONGEST, 2 * (plain.block_size or 0) + 1)
    longest = min(longest, max_positions(plain.model) or longest)
    lengths = [[1], [9, 9], [33, 5, 16], [longest], [2] * 5]
    for number, own in enumerate(lengths):
        yield _question(plain, [min(length, longest) for length in own], number)


def _question(plain: MaskedLMDenoiser, lengths: list[int], number: int) -> Question:
    generator = torch.Generator().manual_seed(number)
    rows, length = len(lengths), max(lengths)
    vocab_size = plain.model.config.get_text_config().vocab_size
    tokens = torch.randint(vocab_size, (rows, length), generator=generator)
    valid = torch.arange(length) < torch.tensor(lengths)[:, None]
    positions = valid.flatten().nonzero().squeeze(1)
    t = torch.rand(rows, dtype=torch.float64, generator=generator)
    t[0] = (1.0, 1e-3)[number % 2]
    question = (tokens, t, valid, positions[:: (1, 2, 1, 3)[number % 4]])
    if not plain.num_classes or number % 2:
        return question
    return (*question, torch.randint(-1, plain.num_classes, (rows,), generator=generator))


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest, as a part of the largest logit; -inf, which forbids a token, is to be the same on both sides."""
    if not torch.equal(ours.isneginf(), theirs.isneginf()):
        return torch.inf
    ours, theirs = (each.masked_fill(each.isneginf(), 0.0) for each in (ours, theirs))
    scale = theirs.abs().max().item()
    return (ours - theirs).abs().max().item() / scale if scale else ours.abs().max().item()
