"""Forward pass and head at asked positions compiled as one function (torch.compile); on CUDA recorded as graphs, a shape each.

It is compiled once, for rows, lengths and positions of any number. What is left to save on an accelerator is the launching of
kernels, which for a small network takes longer than they do: so there a pass is padded to the next of a few shapes, recorded when
that shape is first met, and replayed from then on. Padding rows and positions come last and are cut off again. The shape that a
row is computed in follows from what is asked with it, and so from the row alone where it is asked alone (rowwise.py).

`TORCHINDUCTOR_FREEZING=1` in the environment has the compiler take the weights for constants.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ParameterError, in_short
from ..behaviour import ROUNDING
from ..denoiser import PIECE_BYTES, MaskedLMDenoiser
from ..groups import Batching
from ..masked_lm import forward_arguments, max_positions, replaced
from .recorded import Recorded, Shape, bucket

logger = logging.getLogger(__name__)

MOST_GRAPHS, MOST_BYTES, MOST_TOKENS = 64, 2**31, 2**14
"""Shapes that are recorded; the logits that they keep, together; and the tokens of a pass from which on its kernels take longer
than their launching. What is beyond is computed by the same compiled function, unrecorded."""

TRIED: tuple[Shape, ...] = ((3, 44, 20), (1, 23, 1), (5, 70, 350), (2, 70, 7))
"""Passes that are compared with the plain ones. The first, in which no two numbers are the same, is what is compiled for."""

CLOSE = 1e-4
"""What rounding may change where products are float32 throughout, as a part of the logits."""


def hand_over(plain: MaskedLMDenoiser, dtype: str) -> Compiled:
    """`plain`, compiled and compared with what it was; see `backends`. Takes about as long as compiling does, half a minute.

    Raises:
        ParameterError: weights are int8, padding or neighbours change the network's answers, nothing is there that compiles, or
            the answers are not those of the plain pass.
    """
    name = type(plain.model).__name__
    if dtype == "int8":
        raise ParameterError("backend", "be torch for weights in int8", "compile")
    if plain.batching != "shared":
        raise ParameterError("backend", f"be torch for {name}, whose answers padding or neighbours change", "compile")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)  # of all checkpoints
    start, compiled = time.perf_counter(), Compiled(plain)
    try:
        off = _difference(plain, compiled, TRIED[0])
        compiled.settle()
        off = max(off, *(_difference(plain, compiled, shape) for shape in TRIED[1:]))
    except Exception as error:  # whatever the compiler raises: it wants a C++ compiler on a CPU, and triton on CUDA
        compiled.release()
        raise ParameterError("backend", f"compile {name} ({in_short(error)})", "compile") from error
    if not off <= rounding(plain):
        compiled.release()
        raise ParameterError("backend", f"be torch for {name}, whose logits compiling changes by {off:.1g}", "compile")
    logger.info("%s compiled in %.0f s; its logits differ by %.1g", name, time.perf_counter() - start, off)
    return compiled


class Asked(nn.Module):
    """A masked LM's logits [n, V] at flat positions int64 [n], as one function of tensors, without state of its own.

    The body keeps a hook, which does nothing in any other pass: one that is put there for each pass would have each compiled.
    """

    def __init__(self, model: Any, gathers: bool) -> None:
        super().__init__()
        self.model, self.gathers = model, gathers
        self.positions: Tensor | None = None
        self.ran_as_python = False
        body = getattr(model, "base_model", model)
        self.hook = body.register_forward_hook(self._gather) if self.gathers else None

    def forward(self, positions: Tensor, **given: Tensor) -> Tensor:
        """given: as `forward_arguments` makes it."""
        if not torch.compiler.is_compiling():
            self.ran_as_python = True
        if not self.gathers:
            logits: Tensor = self.model(**given).logits
            return logits.flatten(0, 1)[positions]
        self.positions = positions
        try:
            logits = self.model(**given).logits
        finally:
            self.positions = None
        return logits.flatten(0, -2)

    def _gather(self, body: nn.Module, arguments: Any, output: Any) -> Any:
        if self.positions is None:
            return None
        return replaced(output, output[0].flatten(0, 1)[self.positions].unsqueeze(0))


class Compiled:
    """A denoiser that asks the compiled network; what is too large for one answer is the plain one's to give."""

    def __init__(self, plain: MaskedLMDenoiser) -> None:
        self.plain, self.forbidden, self.ends = plain, plain.forbidden, plain.ends
        self.num_classes, self.block_size = plain.num_classes, plain.block_size
        self._asked, self._longest = Asked(plain.model, plain.gathers), max_positions(plain.model)
        self._forward = torch.compile(self._asked, dynamic=True)
        self._graphs: dict[Shape, Recorded | None] = {}
        self.records, self._stance = plain.device.type == "cuda", "default"
        self._has_told = False
        config, weight = plain.model.config.get_text_config(), next(plain.model.parameters())
        self._bytes = config.vocab_size * weight.itemsize

    @property
    def device(self) -> torch.device:
        return self.plain.device

    @property
    def batching(self) -> Batching:
        return self.plain.batching

    def settle(self) -> None:
        """Nothing is compiled any more."""
        self._stance = "eager_on_recompile"

    def release(self) -> None:
        """The network is as it was."""
        if self._asked.hook is not None:
            self._asked.hook.remove()

    @torch.inference_mode()
    def __call__(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        count = len(positions)
        if self._in_pieces(count):
            return self.plain(tokens, t, valid, positions, labels)
        rows, length = tokens.shape
        shape = bucket((rows, length, count), self._longest) if self.records else (max(rows, 2), length, max(count, 2))
        places = positions if length == shape[1] else positions // length * shape[1] + positions % length
        given = self._padded(shape, tokens, t, valid, places, labels)
        graph = self._graph(shape, given) if self.records else None
        logits: Tensor = self._compiled(**given) if graph is None else graph(given)
        return logits[:count]

    def _compiled(self, **given: Tensor) -> Tensor:
        """The compiled function, or that which was compiled, where it does not hold for this shape.

        It is never compiled anew: of two that hold for a shape, what was asked before would say which one rounds.
        """
        with torch.compiler.set_stance(self._stance):
            logits: Tensor = self._forward(**given)
        if self._asked.ran_as_python and not self._has_told:
            logger.warning(
                "the compiled network does not hold for %s: such passes run as torch has them", _sizes(given)
            )
            self._has_told = True
        return logits

    def in_pieces(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Any:
        """As `MaskedLMDenoiser.in_pieces`."""
        ask = self.plain.in_pieces if self._in_pieces(len(positions)) else self
        return ask(tokens, t, valid, positions, labels)

    def _in_pieces(self, count: int) -> bool:
        return count * self._bytes > PIECE_BYTES

    def _padded(
        self, shape: Shape, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None
    ) -> dict[str, Tensor]:
        """What the compiled function is given, in this shape. Rows that nobody asks of have one token to attend to."""
        rows, width = len(tokens), tokens.shape[1]
        more, wider = shape[0] - rows, shape[1] - width
        mask = F.pad(valid.long(), (0, wider, 0, more))
        mask[rows:, 0] = 1
        if labels is None:
            labels = torch.full((rows,), -1, device=tokens.device)
        labels = F.pad(labels, (0, more), value=-1)  # told always, as a pass without them would be compiled apart
        tokens, t = F.pad(tokens, (0, wider, 0, more)), F.pad(t, (0, more), value=1.0)
        given = forward_arguments(self.plain.model, tokens, t, mask, labels)
        return {"positions": F.pad(positions, (0, shape[2] - len(positions))), **given}

    def _graph(self, shape: Shape, given: dict[str, Tensor]) -> Recorded | None:
        """That of this shape, recorded now if it is the first time; None where there is none."""
        if shape not in self._graphs:
            kept = sum(each[2] * self._bytes for each, graph in self._graphs.items() if graph is not None)
            fits = shape[0] * shape[1] <= MOST_TOKENS and kept + shape[2] * self._bytes <= MOST_BYTES
            if not fits or len(self._graphs) >= MOST_GRAPHS:
                return None
            self._graphs[shape] = self._record(shape, given)
        return self._graphs[shape]

    def _record(self, shape: Shape, given: dict[str, Tensor]) -> Recorded | None:
        start, others = time.perf_counter(), [each for each in self._graphs.values() if each is not None]
        try:
            graph = Recorded(self._compiled, given, others[0] if others else None)
        except RuntimeError as error:  # out of memory, or something in it waits for the device, which no graph can
            logger.warning("passes of %d x %d tokens, %d positions stay unrecorded: %s", *shape, in_short(error))
            return None
        seconds = time.perf_counter() - start
        logger.info("pass of %d x %d tokens, %d positions recorded in %.1f s", *shape, seconds)
        return graph


def _sizes(given: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(each.shape)}" for name, each in given.items())


def rounding(plain: MaskedLMDenoiser) -> float:
    """What may differ between two orders of the same sums, as a part of the logits."""
    dtype = next(plain.model.parameters()).dtype
    is_full = plain.device.type == "cpu" or torch.get_float32_matmul_precision() == "highest"
    return CLOSE if dtype == torch.float32 and is_full else ROUNDING.get(dtype, CLOSE)


@torch.inference_mode()
def _difference(plain: MaskedLMDenoiser, compiled: Compiled, shape: Shape) -> float:
    """How far the logits are off, as a part of themselves, in the mean square: where rows are padded and where they are not.

    In the mean, because of one logit a narrow type may leave little.
    """
    model, device = plain.model, plain.device
    rows, length, count = shape
    length = min(length, max_positions(model) or length)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, model.config.get_text_config().vocab_size, (rows, length), generator=generator)
    t = torch.rand(rows, generator=generator, dtype=torch.float64) / 2 + 0.25
    labels = torch.arange(rows) % (plain.num_classes + 1) - 1 if plain.num_classes else None
    worst = 0.0
    for padding in (0, length // 2):
        valid = torch.ones(rows, length, dtype=torch.bool)
        valid[rows - 1, length - padding :] = False
        places = valid.flatten().nonzero().squeeze(1)
        some = places[torch.randperm(len(places), generator=generator)[:count]].sort().values
        arguments = [each if each is None else each.to(device) for each in (tokens, t, valid, some, labels)]
        ours, theirs = compiled(*arguments).double(), plain(*arguments).double()  # type: ignore[arg-type]
        if ours.shape != theirs.shape or not bool(ours.isfinite().equal(theirs.isfinite())):
            return torch.inf
        ours, theirs = (each.nan_to_num(0.0, 0.0, 0.0) for each in (ours, theirs))
        worst = max(worst, ((ours - theirs).norm() / theirs.norm().clamp(min=1e-30)).item())
    return worst
