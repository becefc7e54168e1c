"""What a request names and says, by a checkpoint: which one, its tokens, and how many may follow them."""

from __future__ import annotations

from http import HTTPStatus

from token_diffusion.checkpoint import Checkpoint
from token_diffusion.errors import ParameterError

from ...errors import APIError, parameter
from ..admission import Service, first_for
from ..protocol.samplers import SAMPLER


def find(service: Service, name: str | None, sampler: str = SAMPLER) -> Checkpoint:
    """The checkpoint called `name`, or the first whose process the sampler is for. Raises APIError, 404."""
    checkpoints = service.engine.checkpoints
    if name is None:
        return first_for(sampler, list(checkpoints.values()))
    if name not in checkpoints:
        message = parameter(ParameterError("model", f"be one of {', '.join(checkpoints)}", name)).event.error.message
        raise APIError(HTTPStatus.NOT_FOUND, "not_found", message, "model", word="model_not_found")
    return checkpoints[name]


def room(
    checkpoint: Checkpoint, most: int, num_given: int, given: str, field: str, asked: int | None, default: int
) -> int:
    """Tokens of an answer: as many as are `asked` for in `field`, or the `default`, or what is left for that.

    Raises:
        APIError: 422, there is too little room beside so many tokens of the field `given`, or more than nothing was asked for.
    """
    frame = len(checkpoint.facts.frame)
    left = most - frame - num_given
    taken = f"{num_given} tokens of {given}" + (f" and {frame} of the frame" if frame else "")
    if left < 1:
        error = ParameterError(given, f"leave room in {most} tokens, those of the answer too", f"{num_given} tokens")
    elif asked is not None and asked < 1:
        error = ParameterError(field, "be >= 1", asked)
    elif asked is not None and asked > left:
        error = ParameterError(field, f"be at most {left}, as there are {taken}, and {most} in all", asked)
    else:
        return min(default, left) if asked is None else asked
    raise parameter(error)
