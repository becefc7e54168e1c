"""The requests of a benchmark, and when each is sent."""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..protocol.answers import Frame, Model, Vocabulary
from ..protocol.requests import SampleRequest

LARGEST_SEED = 2**31


def prompts_of(path: str) -> list[SampleRequest]:
    """The requests in a file: JSON objects that have a prompt (.jsonl), else a prompt a line. Raises ValueError."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.rstrip("\r\n") for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"dataset_path must be UTF-8, got {path!r}: {error}") from None
    if not lines:
        raise ValueError(f"dataset_path must have a line, got {path!r}")
    if not path.endswith(".jsonl"):
        return [{"prompt": line} for line in lines]
    return [_request(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _request(line: str, where: str) -> SampleRequest:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"dataset_path must have a JSON object a line, got {line[:100]!r} in {where}")
    request: SampleRequest = value  # type: ignore[assignment]
    return request


@dataclass(frozen=True)
class Lexicon:
    """What random prompts are made of: the `words` among a checkpoint's token ids, and how many tokens its frame takes."""

    words: list[int]
    frame: int

    @classmethod
    def of(cls, vocabulary: Vocabulary, model: Model) -> Lexicon:
        """Of a checkpoint by its token pieces and its entry in /models."""
        others = {*vocabulary.special_token_ids, vocabulary.mask_token_id}
        words = [id for id, piece in enumerate(vocabulary.pieces) if piece.strip() and id not in others]
        frame = model.frame or Frame([], [])
        return cls(words, len(frame.prefix) + len(frame.suffix))


def model_for(endpoint: str, name: str | None, models: Sequence[Model]) -> Model:
    """The entry of /models that a request without `model` gets. Raises ValueError if there is none."""
    hybrid = {"sample": {False}, "sample/hybrid": {True}}.get(endpoint, {False, True})
    for model in models:
        if model.name == name or (name is None and (model.process == "hybrid") in hybrid):
            return model
    known = ", ".join(model.name for model in models)
    raise ValueError(f"model must be a loaded checkpoint that fits {endpoint}, got {name!r} of {known}")


def requests(
    options: argparse.Namespace, fields: dict[str, Any], prompts: Sequence[SampleRequest], lexicon: Lexicon
) -> list[SampleRequest]:
    """`num_prompts` of them, the same ones for the same seed: of `prompts` in turn, or else of random tokens."""
    rng = random.Random(options.seed)
    made: list[Any] = []
    for number in range(options.num_prompts):
        request: dict[str, Any] = {"endpoint": options.endpoint, "seed": rng.randrange(LARGEST_SEED)}
        if prompts:
            request |= prompts[number % len(prompts)]
        else:
            input_len = _around(rng, options.random_input_len, options.random_range_ratio)
            output_len = max(_around(rng, options.random_output_len, options.random_range_ratio), 1)
            request["seq_len"] = lexicon.frame + input_len + output_len
            if input_len:
                request["prompt_ids"] = rng.choices(lexicon.words, k=input_len)
        made.append(request | fields)
    return made


def _around(rng: random.Random, length: int, ratio: float) -> int:
    """`length`, give or take `ratio` of it."""
    return rng.randint(math.floor(length * (1 - ratio)), math.ceil(length * (1 + ratio)))


def arrivals(rate: float, number: int, seed: int) -> Iterator[float]:
    """Seconds from the beginning: all at once for an infinite rate, else a Poisson process."""
    rng, now = random.Random(seed), 0.0
    for _ in range(number):
        yield now
        now += 0.0 if math.isinf(rate) else rng.expovariate(rate)
