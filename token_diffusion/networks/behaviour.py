"""What a network does with padding, with the rows beside a row, and with masks: found out by asking it, not by its name.

FNet has no attention mask, and its Fourier transform runs over the padding; so do the convolutions of ConvBERT and
Nystromformer; Funnel pools a row's last token with the first of its padding; Reformer hashes by random planes, in evaluation
mode too. None of them says so. So a few short rows are asked alone, with padding, and beside others.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ParameterError, in_short
from .groups import SHARED, Grouping
from .masked_lm import evaluated, forward_arguments, max_positions

LENGTHS, LONGER = (16, 9, 5), (200, 33, 7)
"""Tokens of the rows that are asked: odd ones too, so that pooling shows. Networks whose configuration speaks of hashing do it
from the third piece of 64 tokens on; those are asked the longer ones."""

LONGEST = 512
"""Tokens with which a network is asked at last that takes no fewer, where it does not say how many it takes."""

ROUNDING = {torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}
"""What rounding may change where the shape is another, as a part of the largest logit; float32's may be tf32."""

SEED = 0
"""Where torch's random generator starts each forward pass of a network that draws from it in evaluation mode."""


@dataclass(frozen=True)
class Behaviour:
    """random: the network draws from torch's random generator in evaluation mode; `seeded`, it gives one answer."""

    grouping: Grouping
    random: bool = False


_known: weakref.WeakKeyDictionary[nn.Module, tuple[object, Behaviour]] = weakref.WeakKeyDictionary()


def behaviour(model: Any) -> Behaviour:
    """What `model` does. Costs six short forward passes, 127 tokens together, the first time; some more if it is not "shared".

    Raises:
        ParameterError: it cannot be asked at some length, or gives no logit for each token, or another answer each time.
    """
    weights = list(model.parameters())
    state = (weights[0].device, weights[0].dtype, len(weights))  # int8's layers have none
    known = _known.get(model)
    if known is None or known[0] != state:
        with seeded(model):
            known = _known[model] = (state, _study(_Asked(model)))
    return known[1]


def check_masks(model: Any, mask_token_id: int) -> None:
    """Raises `ParameterError` unless a row of masks alone, with which sampling starts, gets logits that can be sampled from.

    ESM's `token_dropout` divides by the share of a row that is not masked; and where the mask is the padding token, RoBERTa's
    kind of network puts all masks at one position.
    """
    grouping, ask = behaviour(model).grouping, _Asked(model)
    ask.shortest, length = grouping.shortest, ask.lengths[1]
    pad = getattr(model.config, "pad_token_id", None)
    plain = next(token for token in range(ask.vocab_size) if token not in (mask_token_id, pad))
    with seeded(model):
        (reference,) = ask([[plain] * length])
        masks = ask([[mask_token_id] * length])
        if grouping == SHARED:
            masks += ask([[mask_token_id] * each for each in ask.lengths], padding=mask_token_id)
    if not _is_usable(reference):
        raise ParameterError("network", "give logits that are numbers", ask.name)
    if not all(_is_usable(logits) for logits in masks):
        raise ParameterError("network", "give logits that are numbers for a row of masks alone", ask.name)
    if _is_constant(masks[0]) and not _is_constant(reference, ask.rounding):
        rule = f"tell positions under the mask token {mask_token_id} apart, so that may not be its padding token"
        raise ParameterError("network", rule, ask.name)


@contextmanager
def seeded(model: nn.Module) -> Iterator[None]:
    """In here torch's random generators of the CPU and of the model's device start from `SEED`; afterwards they are as before."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(SEED)
        yield


class _Asked:
    """A model that is asked for the logits of a few rows."""

    def __init__(self, model: Any) -> None:
        self.model, self.name = model, type(model).__name__
        self.vocab_size: int = model.config.get_text_config().vocab_size
        self.longest = most = max_positions(model)
        hashes = any("hash" in key for key in vars(model.config))
        wanted = enumerate(LONGER if hashes else LENGTHS, start=1)
        self.lengths = [length if most is None else min(length, max(most // part, 1)) for part, length in wanted]
        self.shortest = 1
        self.rounding = ROUNDING.get(next(model.parameters()).dtype, 0.0)

    def row(self, length: int, number: int) -> list[int]:
        """Some tokens, others for each number."""
        return [(number * 31 + 7 * place * (place + 1)) % self.vocab_size for place in range(length)]

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Sequence[int]], padding: int = 0) -> list[Tensor]:
        """Logits float32 [length, V] of each row, the rows in one forward pass, padded with this token to `shortest` at least."""
        device = next(self.model.parameters()).device
        longest = max(self.shortest, *map(len, rows))
        tokens = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        t = torch.full((len(rows),), 0.5, device=device)
        try:
            with evaluated(self.model):
                logits = self.model(**forward_arguments(self.model, tokens, t, mask)).logits
        except Exception as error:  # whatever a network's own code raises
            rule = f"take rows of {longest} tokens ({in_short(error)})"
            raise ParameterError("network", rule, self.name) from error
        if logits.shape != (*tokens.shape, self.vocab_size):
            rule = f"give logits of shape {(*tokens.shape, self.vocab_size)} for tokens of shape {tuple(tokens.shape)}"
            raise ParameterError("network", rule, tuple(logits.shape))
        return [part[: len(row)].float() for part, row in zip(logits, rows, strict=True)]

    def near(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
        """Whether the logits differ by no more than rounding does in passes of different shapes."""
        return self._differ(ours, theirs) <= self.rounding

    def same(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
        """Whether the logits differ by no more than a few bits: in passes of one shape nothing rounds differently."""
        return self._differ(ours, theirs) <= self.rounding / 20

    def _differ(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
        """The largest difference, as a part of the largest logit."""
        one, other = (torch.cat(tuple(part)).nan_to_num(0.0, 0.0, 0.0) for part in (ours, theirs))
        scale = one.abs().max().item()
        return (one - other).abs().max().item() / scale if scale else other.abs().max().item()


def _study(ask: _Asked) -> Behaviour:
    ask.shortest = shortest = _shortest(ask)
    long, middle, short = (ask.row(length, number) for number, length in enumerate(ask.lengths))
    together = ask([long, middle, short])
    # In the same shape, what stays differs only if it sees what has changed: padding, or the row below.
    beside = ask([long, middle, ask.row(len(short), 3)], padding=ask.vocab_size - 1)
    alone = [*ask([long]), *ask([middle]), *ask([short])]
    if ask.same(together[:2], beside[:2]) and ask.near(alone, together) and shortest == 1:
        return Behaviour(SHARED)
    if not ask.same(ask([long]), alone[:1]):
        _check_seeded(ask, long)
        return Behaviour(Grouping("row", shortest), random=True)
    pairs = [ask([long, ask.row(len(long), number)]) for number in (1, 2)]
    apart = ask.near(alone[:1], pairs[0][:1]) and ask.same(pairs[0][:1], pairs[1][:1])
    return Behaviour(Grouping("length" if apart else "row", shortest))


def _shortest(ask: _Asked) -> int:
    """The fewest tokens that the network takes, and from which on it takes any.

    Funnel, which pools four into one, fails on four; Perceiver takes whole sequences alone.
    """
    most = ask.longest or LONGEST
    few = [*range(1, ask.lengths[-1] + 1), *(2**power for power in range(3, most.bit_length())), most]
    reason: ParameterError | None = None
    for length in few:
        try:
            ask([ask.row(length, 0)])
        except ParameterError as error:
            reason = reason or error
        else:
            if 1 < length < most:
                ask([ask.row(length + 1, 0)])
            return length
    assert reason is not None
    raise reason


def _check_seeded(ask: _Asked, row: Sequence[int]) -> None:
    answers = []
    for _ in range(2):
        with seeded(ask.model):
            answers.append(ask([row]))
    if not ask.near(*answers):
        raise ParameterError(
            "network", "give the same logits for the same tokens, where nothing random is left", ask.name
        )


def _is_usable(logits: Tensor) -> bool:
    """Whether each position has a distribution: -inf forbids a token, nothing else may be infinite."""
    return not (logits.isnan() | logits.isposinf()).any() and bool((logits > -torch.inf).any(-1).all())


def _is_constant(logits: Tensor, rounding: float = 1e-4) -> bool:
    """Whether all positions of a row [L, V] have the same logits, up to so much of the largest.

    Of one token over and over they have, where positions are told apart by rotation alone: its values are the same everywhere.
    """
    finite = logits.nan_to_num(0.0, 0.0, 0.0)
    return len(logits) > 1 and (finite - finite[:1]).abs().max().item() <= rounding * finite.abs().max().item()
