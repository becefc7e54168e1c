"""What may be asked: the fields of each request under their names on the wire, and their way into a body."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Literal, TypedDict

Endpoint = Literal["sample", "sample/block", "sample/hybrid"]

OnDisconnect = Literal["cancel", "keep"]


class Message(TypedDict):
    """What somebody said in a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class Decoding(TypedDict, total=False):
    """How text comes out of the model: a decoder, and what may be asked of it; `models()` tells which a checkpoint has.

    What a decoder does not know, or does not know yet, the server refuses by name.
    """

    sampler: str | None
    """ancestral, confidence, margin, entropy, random, remdm, psi, gibbs or self_correction"""
    preset: str | None
    """defaults of a published loop: llada, dream, fast-dllm or remdm; what is given is over them"""
    guidance_scale: float | None
    """how much more a text follows its prompt or label: 0 not at all, 1 as the model has it"""
    early_end: bool | None
    """a text that has ended is not filled in any further"""
    suppress_end: bool | None
    """no token is drawn that ends a text"""
    quota: Literal["even", "schedule"] | None
    """of confidence, margin, entropy and random, as are those up to grid_eps: how many a step sets"""
    threshold: float | None
    factor: float | None
    entropy_bound: float | None
    alg_temp: float | None
    ranked_by: Literal["largest", "drawn", "shaped"] | None
    grid_eps: float | None
    remask: Literal["cap", "rescale", "loop", "forward_backward", "dfm", "conf"] | None
    """of remdm: how likely a token becomes a mask again"""
    kappa: float | None
    """of psi: the probability of an ancestral step"""
    kappa_schedule: Literal["cap", "rescale", "loop"] | None
    eta: float | None
    """of remdm and psi, as are the next three: strength of remasking, or of correction"""
    t_on: float | None
    t_off: float | None
    alpha_on: float | None
    num_corrector_steps: int | None
    """of gibbs"""
    num_corrected: int | None
    """of gibbs and self_correction: positions in a step"""
    corrected: Literal["random", "least_confident"] | None
    num_correction_steps: int | None
    """of self_correction, as are the next three"""
    correction_temperature: float | None
    correction_t: float | None
    patience: int | None
    greedy_tail: bool | None
    """of ancestral, psi, gibbs and self_correction: the last step takes the most probable tokens"""


class Parameters(Decoding, total=False):
    """What a request may ask for besides its prompt. What is not given, or None, is left to the server."""

    template: str | None
    """text with [MASK] holes, everything else fixed"""
    prompt_ids: list[int] | None
    """token ids in place of a prompt"""
    template_ids: list[int] | None
    """token ids in place of a template; the mask's is a hole"""
    messages: list[Message] | None
    """a conversation in place of a prompt, for checkpoints with a chat template; texts are what is said next"""
    num_samples: int | None
    seq_len: int | None
    """tokens of a sample, prompt included"""
    num_inference_steps: int | None
    """the one None with a meaning of its own: given, it is sent, and asks for the continuous-time limit"""
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    stop: str | list[str] | None
    """strings before the first of which a text is cut"""
    label: int | None
    """class that a model with labels is told"""
    logprobs: bool | None
    """states and the end tell how probable each token was, to the network alone, when it was set"""
    seed: int | None
    block_size: int | None
    """of sample_block and stream_block alone"""
    model: str | None
    """name of a loaded checkpoint"""
    stream_every: int | None
    """updates merged into one state event"""
    include_text: bool | None
    """state events carry text"""
    keyframe_every: int | None
    """state events from one that carries all tokens to the next"""
    timeout_s: float | None
    """seconds after which the server gives up"""
    on_disconnect: OnDisconnect | None
    """of streams alone: what becomes of the request when they are left"""


class SampleRequest(Parameters, total=False):
    """One of many: its prompt and endpoint along with the rest."""

    prompt: str | None
    endpoint: Endpoint


class ScoreParameters(TypedDict, total=False):
    """What a request for scores may ask for besides its texts."""

    prefix: str | None
    """what all texts are given to follow; it is not scored itself"""
    label: int | None
    """class that a model with labels is told of all of them"""
    model: str | None
    num_times: int | None
    """noised versions of each text that the network sees: more take longer and bring a smaller error"""
    estimator: Literal["times", "counts"] | None
    """without it counts for absorbing checkpoints, whose error is smaller; times for the others"""
    seed: int | None
    timeout_s: float | None


class OpenAIParameters(Decoding, total=False):
    """OpenAI's fields that completions and chats have in common, and some of ours."""

    model: str | None
    n: int | None
    seed: int | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    stop: str | list[str] | None
    user: str | None
    stream_options: dict[str, Any] | None
    """of streams alone: {"include_usage": True} for a last chunk with the tokens counted"""
    diffusing: bool | None
    """of streams alone: each chunk is a whole text, which takes the place of the last one"""
    top_k: int | None
    min_p: float | None
    label: int | None
    num_inference_steps: int | None
    """None, given, is sent, and asks for the continuous-time limit"""
    block_size: int | None
    """None, given, is sent, and fills in everywhere at once"""
    timeout_s: float | None


class CompletionParameters(OpenAIParameters, total=False):
    """OpenAI's fields of a completion besides its prompt, and some of ours."""

    suffix: str | None
    """what is to follow: infill"""
    echo: bool | None
    logprobs: int | None
    """0 or 1: how probable each token was, to the network alone, when it was set; of no other tokens"""


class ChatParameters(OpenAIParameters, total=False):
    """OpenAI's fields of a chat besides its messages, and some of ours."""

    max_completion_tokens: int | None
    """the newer name of max_tokens"""
    logprobs: bool | None
    """how probable each token was, to the network alone, when it was set"""


NULL_SAYS = {"num_inference_steps"}
"""Fields of a request for samples whose None means something, and is sent."""

NULL_SAYS_TO_OPENAI = {"num_inference_steps", "block_size"}
"""The same of a completion or a chat."""


def body(fields: Mapping[str, Any], null_says: AbstractSet[str] = frozenset()) -> dict[str, Any]:
    """The JSON of a request, without what is None but where `null_says` something. Raises ValueError for what JSON cannot say."""
    asked = {name: value for name, value in fields.items() if value is not None or name in null_says}
    _check(asked, "")
    return asked


def sample_body(prompt: str | None, parameters: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """The JSON of a request for samples."""
    return body({"prompt": prompt, **parameters, "stream": stream}, NULL_SAYS)


def openai_body(fields: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """The JSON of a request in OpenAI's shape."""
    return body({**fields, "stream": stream or None}, NULL_SAYS_TO_OPENAI)


def _check(value: object, where: str) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            near = value[max(error.start - 20, 0) : error.start + 20]
            raise ValueError(f"{where} must be valid Unicode, got {near!r} at character {error.start}") from None
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be a finite number, got {value}")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _check(item, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{where}[{index}]")
