"""Where the blocks of a sequence lie, which are filled in one after the other, from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import ParameterError
from .parameters import SamplingParameters


@dataclass(frozen=True)
class Blocks:
    """Block number k has the positions [start + k size, start + (k + 1) size), as far as there are any.

    open: how many positions of each are filled in, from the first block that has some to the last; none if there are none.
    """

    start: int
    size: int
    length: int
    open: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.open)

    def number(self, position: Tensor) -> Tensor:
        """That of the block in which a position lies."""
        return (position - self.start) // self.size

    def steps(self, each: int | None) -> int:
        """Grid steps of all of them, so many of each; without a grid one a position."""
        return sum(self.open) if each is None else len(self) * each

    def span(self, number: int) -> tuple[int, int]:
        """Where a block begins and ends."""
        start = self.start + number * self.size
        return start, min(start + self.size, self.length)


def blocks_of(tokens: Sequence[int], parameters: SamplingParameters) -> Blocks:
    """The blocks of `tokens`, negative where the sampler fills in."""
    is_open = [position for position, token in enumerate(tokens) if token < 0]
    size, start = parameters.block_size or len(tokens), is_open[0] if is_open else 0
    if parameters.aligned:
        start -= start % size
    count = [0] * ((is_open[-1] - start) // size + 1 if is_open else 0)
    for position in is_open:
        count[(position - start) // size] += 1
    return Blocks(start, size, len(tokens), tuple(count))


def check_fixed(name: str, tokens: Sequence[int], block_size: int | None) -> None:
    """Raises `ParameterError` for what a block-causal network, which sees nothing to the right of a block, cannot be given.

    Fixed tokens in a later block would be no condition of what is filled in before them, but only stand there.

    Args:
        name: of `tokens`, for the error. block_size: the network's; None for one that sees everything.
    """
    if block_size is None:
        return
    first = next((position for position, token in enumerate(tokens) if token < 0), len(tokens))
    end = first - first % block_size + block_size
    fixed = next((position for position in range(end, len(tokens)) if tokens[position] >= 0), None)
    if fixed is not None:
        rule = f"have nothing fixed behind the block of {block_size} tokens that its first hole is in"
        raise ParameterError(name, f"{rule}, which this network does not see", f"a token at position {fixed}")
