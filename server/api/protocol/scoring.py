"""The request for the likelihood of texts, and its answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast

from .events import Timings
from .values import Count, Label, Seed, Text, bounds


class ScoreRequest(BaseModel):
    """Texts to be scored; an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    texts: Annotated[list[Text], FailFast(), bounds(minItems=1)]
    """each is scored alone; control tokens typed in it are ordinary text"""
    prefix: Text | None = None
    """text before each of them, given: the scores are conditional on it. Its tokens and those of a text are made apart, so a text
    begins with a space only if it is written there"""
    label: Label | None = None
    """class that the model is told of all of them: the scores are conditional on it, too"""
    model: str | None = None
    """name of a loaded checkpoint; without it the default one"""
    num_times: Count = 16
    """noised versions of each text that the network is shown; the error falls at least as one over their square root"""
    estimator: Literal["times", "counts"] | None = None
    """how the noise is drawn: at times; or, absorbing alone, with its better default, by the number of masks"""
    seed: Seed | None = None
    """same seed, same scores, whatever other texts there are; without it one is drawn, and returned"""
    timeout_s: Annotated[float, bounds(exclusiveMinimum=0)] = 60.0
    """seconds after which the request is given up with an error of type timeout"""


class TextScore(BaseModel):
    """An upper bound on -log p of a text, given the prefix: an estimate.

    An error is the standard error of times and noise, not of the model, and null for num_times 1. A number is null where it is
    infinite: the model gives the text no probability.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    index: int
    """of the text in the request"""
    nats: float | None
    nats_error: float | None
    bits: float | None
    bits_error: float | None
    nats_per_token: float | None
    bits_per_token: float | None
    num_tokens: int
    """tokens that were scored"""
    num_unknown: int
    """tokens that stand for something the tokenizer does not know: given, not scored"""
    tokens: list[int]
    """the text's, without prefix and frame"""
    token_nats: list[float | None]
    """of each token; null where it is given"""
    token_nats_error: list[float | None] | None


class ScoreUsage(BaseModel):
    """What the request cost, over all texts."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    prompt_tokens: int
    """given: of the prefix before each text, and unknown ones"""
    completion_tokens: int
    """scored"""
    nfe: int
    """noised versions that the network was shown"""


class Scored(BaseModel):
    """The scores of texts, in their order, and which are likeliest."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    model: str
    seed: int
    """asked with this seed again, the same model gives the same scores"""
    num_times: int
    estimator: Literal["times", "counts"]
    """the one that was used"""
    scores: list[TextScore]
    ranking: list[int]
    """indices of the texts, the likeliest first: the one of the fewest nats in all"""
    usage: ScoreUsage
    timings: Timings
