"""Guidance: what is drawn follows the network's answer with a condition, made stronger or weaker by its answer without.

A condition is a row's label, or where it has none its prompt: all that was given but the frame. The network is shown each row
twice in one forward pass, as it is and without its condition: told no label (D-CFG, arXiv 2412.10193), or with the mask in the
place of the prompt (LLaDA, arXiv 2502.09992, whose scale w is gamma - 1). With theta_c and theta_u its answers and gamma the
row's `guidance_scale` a step draws from

    absorbing          theta_c^gamma theta_u^(1 - gamma), normalised, at each position that a decoder sets
    uniform, hybrid    q_c^gamma q_u^(1 - gamma), normalised, of the posteriors q(z_s | z_t, theta) at each open position

and so from theta_c where gamma = 1, which is sampling without guidance and takes no second view, and from theta_u where it is 0,
which takes one view, the one without the condition. Those two have the laws of their branch; between and beyond them the draws
are these, and the samples have no law of the model's. Of absorbing models any decoder is guided, as all that it reads of the
logits is this mixture; temperature, top-k, top-p and min-p shape it. Posteriors read the whole vocabulary at each step (no draw
rules a position out beforehand), each branch's theta shaped; that is for ancestral sampling alone.

Impossible tokens: what theta_c excludes is never drawn. What theta_u alone excludes has no weight where gamma < 1, and where
gamma > 1 all of it, against what both allow; for that, theta_u has at least e^FLOOR of its largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...diffusion.devices import sent
from ...diffusion.processes import Masses, Process, leave_probability
from ...diffusion.shaping import inverse_cdf
from ...errors import ParameterError
from ..draws import Some, allowed, own_logprob, pieces, put, shaped, split
from ..grid import grid_times
from ..parameters import SamplingParameters
from ..randomness import Purpose, uniform
from ..rows import SampleRows
from ..sampler import Around, Decoder, Logits, Outcome, Plan
from .tail import tailed
from .thinning import Thinning

FLOOR = -1e4


def guided(decoder: Decoder, parameters: SamplingParameters) -> Any:
    """The sampler around a decoder that does what its rows' `guidance_scale` asks for; itself where that is 1.

    Raises:
        ParameterError: there is none around this decoder.
    """
    if parameters.guidance_scale == 1:
        return decoder
    if parameters.guidance_scale == 0:
        return Unguided(decoder)
    if decoder.process.name == "absorbing":
        return Guided(decoder)
    if type(decoder) is not Thinning:
        rule = f"be 0 or 1 for the sampler {parameters.sampler} of the {decoder.process.name} process"
        raise ParameterError("guidance_scale", f"{rule}: ancestral alone is guided there", parameters.guidance_scale)
    return Guided(GuidedThinning(decoder.process, decoder.vocabulary))


def _check_given(tokens: Sequence[int], parameters: SamplingParameters) -> None:
    """Raises `ParameterError` for a request of which all is open but the frame, and which has no label."""
    first, last = parameters.frame[0], len(tokens) - parameters.frame[1]
    if parameters.label is None and all(token < 0 for token in tokens[first:last]):
        rule = "be 1 where there is neither a label nor a prompt to guide by"
        raise ParameterError("guidance_scale", rule, parameters.guidance_scale)


class Unguided(Around):
    """Rows of a decoder without their condition."""

    def check(self, parameters: SamplingParameters) -> None:
        super().check(parameters)
        if parameters.label is None and self.inner.process.name == "uniform":
            rule = "be 1 without a label for the uniform process, which has no mask to show in a prompt's place"
            raise ParameterError("guidance_scale", rule, parameters.guidance_scale)

    def evaluations(self, tokens: Sequence[int], parameters: SamplingParameters) -> int:
        """Those of the decoder. Raises `ParameterError` where there is nothing to guide by."""
        _check_given(tokens, parameters)
        return super().evaluations(tokens, parameters)

    def rows(self, tokens: Sequence[int], parameters: SamplingParameters) -> Any:
        """Those of the decoder. Raises `ParameterError` where there is nothing to guide by."""
        _check_given(tokens, parameters)
        return super().rows(tokens, parameters)

    def plan(self, rows: SampleRows) -> Plan:
        plan = self.inner.plan(rows)
        _, _, tokens, _, labels = self._without(rows, plan)
        return replace(plan, tokens=tokens, labels=labels)

    def _without(self, rows: SampleRows, plan: Plan) -> tuple[Tensor, ...]:
        """Of each view of a plan its row, the tokens that it shows, those without the condition, its label, and that without."""
        of = torch.arange(len(rows)) if plan.view_of is None else plan.view_of
        shown = rows.tokens[of] if plan.tokens is None else plan.tokens
        label = rows.label[of] if plan.labels is None else plan.labels
        given = rows.valid & ~rows.open & ~rows.framed & (rows.label < 0).unsqueeze(1)
        hidden = shown.masked_fill(given[of], self.inner.mask_token_id)
        return of, shown, hidden, label, torch.full_like(label, -1)


@dataclass(frozen=True)
class GuidedPlan(Plan):
    """Each view of a decoder's plan `inner`, and beside it the same without its condition."""

    inner: Plan | None = None


class Guided(Unguided):
    """Rows of a decoder that is handed both branches mixed."""

    def __init__(self, inner: Decoder) -> None:
        super().__init__(inner)
        self.views = 2 * inner.views

    def plan(self, rows: SampleRows) -> Plan:
        plan = self.inner.plan(rows)
        of, shown, hidden, label, no_label = self._without(rows, plan)
        view, column = split(plan.positions, shown.shape[1])
        positions = torch.stack([2 * view, 2 * view + 1]) * shown.shape[1] + column
        return GuidedPlan(
            positions.flatten().sort().values,
            plan.t.repeat_interleave(2),
            tokens=torch.stack([shown, hidden], 1).flatten(0, 1),
            labels=torch.stack([label, no_label], 1).flatten(),
            view_of=of.repeat_interleave(2),
            inner=plan,
        )

    def commit(self, rows: SampleRows, plan: Plan, logits: Logits) -> Outcome:
        assert isinstance(plan, GuidedPlan) and plan.inner is not None and plan.view_of is not None
        view, _ = split(plan.positions, rows.tokens.shape[1])
        is_second = view % 2 == 1
        scale = rows.guidance_scale[plan.view_of[view[~is_second]]]
        both = BranchesInPieces if hasattr(logits, "slices") else Branches
        return super().commit(rows, plan.inner, both(logits, is_second, scale, self.inner.mask_token_id))


class Branches:
    """Logits [n, V] of two branches, mixed as they are read, in slices or at an index int64 [m]; at least in float32.

    Args:
        logits: of both. is_second: bool, which of them are the branch's without the condition; each has its in the same order.
        scale: float64 [n].
    """

    def __init__(self, logits: Logits, is_second: Tensor, scale: Tensor, mask_token_id: int) -> None:
        self.device, self.shape, self.scale = logits.device, (len(scale), logits.shape[1]), scale
        self._logits: Any = logits
        self._mask_token_id = mask_token_id
        self._places = torch.stack([each.nonzero().squeeze(1) for each in (~is_second, is_second)])

    @property
    def own(self) -> Logits:
        """Those of the branch with the condition."""
        return Some(self._logits, self._places[0])

    def __getitem__(self, some: slice | Tensor) -> Tensor:
        pair = self.pair(some)
        pair[:, :, self._mask_token_id] = -torch.inf  # before infinities could meet
        return mixed(pair, self.scale[some])

    def pair(self, some: slice | Tensor) -> Tensor:
        """Those of both, [2, m, V], which the caller may change."""
        both: Tensor = self._logits[sent(self._places[:, some], self.device)]
        return both


class BranchesInPieces(Branches):
    """The same of logits that come in pieces: they are read in blocks, of which one is kept, as large as a piece with both."""

    def __init__(self, logits: Logits, is_second: Tensor, scale: Tensor, mask_token_id: int) -> None:
        super().__init__(logits, is_second, scale, mask_token_id)
        self._size = max(1, max(each.stop - each.start for each in self._logits.slices) // 2)
        self._number, self._block = -1, torch.empty(0)

    @property
    def slices(self) -> list[slice]:
        """A block each."""
        return [slice(start, min(start + self._size, self.shape[0])) for start in range(0, self.shape[0], self._size)]

    def pair(self, some: slice | Tensor) -> Tensor:
        assert isinstance(some, slice)
        start, stop, _ = some.indices(self.shape[0])
        size, parts = self._size, []
        for number in range(start // size, max(start // size + 1, -(-stop // size))):
            parts.append(self._at(number)[:, max(0, start - number * size) : stop - number * size])
        return torch.cat(parts, dim=1)

    def _at(self, number: int) -> Tensor:
        """A block, gathered from the pieces that hold some of it."""
        if number != self._number:
            self._block = self._block[:0]  # before the next one is made
            places = self._places[:, number * self._size : (number + 1) * self._size].flatten()
            block = torch.empty(0)
            for each in self._logits.slices:
                inside = ((places >= each.start) & (places < each.stop)).nonzero().squeeze(1)
                if inside.numel():
                    piece = self._logits[each]
                    block = block if block.numel() else piece.new_empty(len(places), piece.shape[1])
                    block[sent(inside, self.device)] = piece[sent(places[inside] - each.start, self.device)]
            self._number, self._block = number, block.unflatten(0, (2, -1))
        return self._block


def mixed(pair: Tensor, scale: Tensor) -> Tensor:
    """gamma ln p_c + (1 - gamma) ln p_u [n, V] but for a constant a position, of both [2, n, V], but for one each; these change.

    gamma: `scale` [n], not 0.
    """
    pair = pair.to(torch.float64 if pair.dtype == torch.float64 else torch.float32)
    gamma = sent(scale.to(pair.dtype), pair.device).unsqueeze(-1)
    without = pair[1].sub_(pair[1].amax(-1, keepdim=True)).clamp_(min=FLOOR)
    return pair[0].mul_(gamma).add_(without.mul_(1 - gamma))


class GuidedThinning(Thinning):
    """Ancestral sampling whose posteriors are mixed: a step is one draw at each open position of the block that is filled in."""

    def plan(self, rows: Any) -> Plan:
        n = rows.num_steps
        to_come = rows.open & (rows.block >= (rows.step // n).unsqueeze(1))
        block = torch.where(to_come, rows.block, rows.num_blocks.unsqueeze(1)).amin(1)
        rows.step.copy_(torch.maximum(rows.step, block * n))  # blocks that are all fixed are passed over
        rows.blocks_done.copy_(block)
        here = to_come & (rows.block == block.unsqueeze(1))
        return Plan(here.flatten().nonzero().squeeze(1), grid_times(rows.step, n)[0])

    def commit(self, rows: Any, plan: Plan, logits: Logits) -> Outcome:
        assert isinstance(logits, Branches)
        row, column = split(plan.positions, rows.tokens.shape[1])
        t, s = grid_times(rows.step, rows.num_steps)
        rows.step.add_(1)
        shaping = tailed(rows, rows.step % rows.num_steps == 0)
        z, parts = rows.tokens.view(-1)[plan.positions], []
        u = uniform(rows.seed[row], rows.sample[row], rows.step[row], column, Purpose.TOKEN)
        for some in pieces(logits):
            pair, its, device = logits.pair(some), row[some], logits.device
            theta = (
                shaped(shaping, its, allowed(rows, its, each, self.vocabulary), self.mask_token_id) for each in pair
            )
            now, then = (self.process.masses(sent(time[its], device)) for time in (t, s))
            posteriors = [log_posterior(self.process, sent(z[some], device), each, now, then) for each in theta]
            law = mixed(torch.stack(posteriors), logits.scale[some]).softmax(-1)
            tokens = inverse_cdf(law, sent(u[some], device))
            logprob = own_logprob(rows, its, pair[0], tokens, self.mask_token_id)
            parts.append(torch.stack([tokens.double(), logprob]))
        drawn, logprob = torch.cat(parts, dim=1).cpu()
        lost = drawn < 0
        rows.failed[row[lost]] = True
        tokens = torch.where(lost, z, drawn.long())
        logprob = torch.where(tokens == self.mask_token_id, torch.nan, logprob).float()
        outcome = put(rows, plan.positions, rows.step, tokens, logprob)
        rows.blocks_done.copy_(rows.step // rows.num_steps)
        rows.t.copy_(s)
        rows.left.copy_(torch.minimum(rows.left - 1, rows.last_step - rows.step))
        rows.finished.copy_(rows.step >= rows.last_step)
        return outcome


def log_posterior(process: Process, z: Tensor, theta: Tensor, now: Masses, then: Masses) -> Tensor:
    """ln q(z_s | z_t = z [n], theta [n, V]) [n, V] for all z_s: the routes of `processes.reverse`, put together."""
    states, theta_z = process.states, theta.gather(-1, z.unsqueeze(-1)).squeeze(-1).double()
    leave = leave_probability(process, z, theta_z, now, then)
    each = leave * then.uniform / states.count
    on_mask = leave * then.mask + (0 if states.exclude_mask else each)
    alpha, each, stay = (part.to(theta.dtype).unsqueeze(-1) for part in (leave * then.alpha, each, 1 - leave))
    law = theta * alpha + each
    law[:, states.mask_token_id] = on_mask.to(theta.dtype)  # theta has none there
    return law.scatter_add_(-1, z.unsqueeze(-1), stay).log_()
