"""What goes over the wire: the requests of the three endpoints and the events that answer them.

Types are checked here, ranges by `SamplingParameters` and by the limits of the server, so that each rule has one home;
the bounds in `json_schema_extra` are for the reader of /docs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from token_diffusion.text import has_surrogates

from ..errors import ErrorDetail, ErrorEvent


def _bounds(**bounds: Any) -> Any:
    return Field(json_schema_extra=bounds)


def _whole_characters(text: str) -> str:
    if has_surrogates(text):
        raise ValueError("hold no half of a surrogate pair")
    return text


def _whole_number(value: object) -> object:
    """2.0 is an integer in JSON, whose numbers are of one type."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Process = Annotated[str, _bounds(enum=["absorbing", "uniform", "hybrid"])]
Text = Annotated[str, AfterValidator(_whole_characters)]
Whole = Annotated[int, BeforeValidator(_whole_number)]
LARGEST = 2**31 - 1
Count = Annotated[Whole, _bounds(minimum=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(_whole_number)]


class SampleRequest(BaseModel):
    """One request for samples; an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    prompt: Text | None = None
    """fixed beginning of each sample"""
    template: Text | None = None
    """text with [MASK] holes, everything else fixed; without seq_len its length is that of the samples"""
    num_samples: Count = 1
    """samples drawn; sample i of a seed is the same however many are drawn beside it"""
    seq_len: Count = 64
    """length of a sample in tokens, prompt and frame included"""
    num_inference_steps: Count | None = 128
    """steps of the time grid, for each block; null is the continuous-time limit"""
    temperature: Annotated[float, _bounds(minimum=0)] = 1.0
    """divides the logits; 0 takes the most probable token"""
    top_p: Annotated[float, _bounds(exclusiveMinimum=0, maximum=1)] = 1.0
    """nucleus: the smallest set of tokens with this much probability"""
    top_k: Annotated[Whole, _bounds(minimum=0, maximum=LARGEST)] = 0
    """most probable tokens kept; 0 keeps all"""
    seed: Seed | None = None
    """same seed, same samples; without it one is drawn, and returned"""
    model: str | None = None
    """name of a loaded checkpoint; without it the first that fits the endpoint"""
    stream: bool = True
    """true: server-sent events; false: the object of the done event, as JSON"""
    stream_every: Count = 1
    """updates merged into one state event"""
    include_text: bool = False
    """state events carry the text of each sample, masks shown"""
    keyframe_every: Count | None = None
    """every so many state events one carries all tokens, for a reader that joins or resumes in the middle; null: none does"""
    timeout_s: Annotated[float, _bounds(exclusiveMinimum=0)] = 60.0
    """seconds after which the request is given up with an error of type timeout"""
    on_disconnect: Literal["cancel", "keep"] = "cancel"
    """what a client that leaves a stream does to its request: end it, or leave it for GET /requests/{id}/events"""

    def within(self, **limits: int | None) -> Self:
        """The same request, its defaults brought down to `limits`; what was asked for stays, to be refused."""
        lower = {
            name: min(getattr(self, name), limit)
            for name, limit in limits.items()
            if limit is not None and name not in self.model_fields_set
        }
        fitted = self.model_copy(update=lower)
        fitted.model_fields_set.difference_update(lower)
        return fitted


class BlockSampleRequest(SampleRequest):
    """A request whose samples are filled block by block, left to right."""

    block_size: Annotated[Whole, _bounds(minimum=1, maximum=LARGEST)] = 32
    """tokens of a block"""


class HybridSampleRequest(SampleRequest):
    """A request to a checkpoint of the hybrid process, which has no continuous-time limit."""

    num_inference_steps: Count = 128
    """steps of the time grid"""


class StartEvent(BaseModel):
    """First event: what is sampled, and the state that the changes start from."""

    id: str
    model: str
    process: Process
    seed: int
    seq_len: int
    num_inference_steps: int | None
    tokens: list[list[int]]
    """token ids of the initial state, [num_samples][seq_len]"""

    model_config = ConfigDict(use_attribute_docstrings=True)


class StateEvent(BaseModel):
    """Some steps were taken. A change sets a position, also one that was set before."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    step: int
    """steps done by the slowest sample"""
    t: float
    """time after it, from 1 (noise) to 0 (text)"""
    nfe: int
    """forward passes so far that this request had a part in"""
    changes: list[tuple[int, int, int]]
    """[sample, position, token id]"""
    text: list[str] | None = None
    """with include_text: one text a sample"""
    keyframe: list[list[int]] | None = None
    """with keyframe_every, now and then: token ids of the whole state after the changes, [num_samples][seq_len]"""


class BlockEvent(BaseModel):
    """Positions start to end (exclusive) of every sample are final."""

    block: int
    start: int
    end: int


class Sample(BaseModel):
    """One finished sample."""

    text: str
    tokens: list[int]


class Usage(BaseModel):
    """What the request cost; tokens are without the frame's, and completion_tokens are summed over the samples."""

    prompt_tokens: int
    completion_tokens: int
    nfe: int
    forwards_skipped: int


class Timings(BaseModel):
    """Milliseconds since the request was read: until its first step began, until its first state, until its end."""

    queue_ms: float
    first_state_ms: float
    total_ms: float


class DoneEvent(BaseModel):
    """Last event of a request that ended well; with `"stream": false` the whole answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    model: str
    seed: int
    """asked with this seed again, the same model gives the same samples"""
    samples: list[Sample]
    step_map: list[list[int]]
    """[num_samples][seq_len]: the step that last set the position, 0 if it was fixed"""
    finish_reason: Literal["stop"]
    usage: Usage
    timings: Timings


Event = StartEvent | StateEvent | BlockEvent | DoneEvent | ErrorEvent

EVENT_NAMES: dict[type[Event], str] = {
    StartEvent: "start",
    StateEvent: "state",
    BlockEvent: "block",
    DoneEvent: "done",
    ErrorEvent: "error",
}
"""The `event:` field of each."""


class RequestStatus(BaseModel):
    """How far a request is: a state without changes, and the answer once there is one."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    model: str
    status: Literal["waiting", "running", "done", "failed"]
    """waiting: for its first forward pass"""
    step: int
    t: float
    nfe: int
    num_inference_steps: int | None
    done: DoneEvent | None
    error: ErrorDetail | None


class Health(BaseModel):
    """Answer of the probes."""

    status: str


class Frame(BaseModel):
    """Token ids before and after the text of every sample, fixed: how the checkpoint's training sequences were framed."""

    prefix: list[int]
    suffix: list[int]


class ModelInfo(BaseModel):
    """A loaded checkpoint."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    process: Process
    max_seq_len: int | None
    vocab_size: int
    mask_token_id: int
    mask_token: str
    batching: Literal["shared", "length", "row"]
    """which samples share a forward pass: any (shared), those of one length alone (length), because the network sees padding,
    or none (row)"""
    frame: Frame


class Models(BaseModel):
    """All loaded checkpoints, the default one first."""

    models: list[ModelInfo]


class Limits(BaseModel):
    """Bounds of this server on one request, and on all."""

    max_seq_len: int
    max_num_inference_steps: int
    max_num_samples: int
    max_body_bytes: int
    max_batch_tokens: int | None
    max_request_work: int
    max_outstanding_s: float
    max_outstanding_work: int | None
    max_resident_tokens: int
    request_timeout_s: float


class Load(BaseModel):
    """What the engine has to do, now."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    rows: int
    """samples that are denoised, of all requests"""
    running: int
    """requests that have had a step"""
    waiting: int
    """requests that have had none"""
    outstanding_work: int
    """token passes that all of them may still need"""
    work_per_s: float
    """token passes that the engine gets done a second while it is busy"""
    ticks: int
    """forward passes so far"""


class Info(BaseModel):
    """What is running here."""

    version: str
    torch: str
    device: str
    dtype: str
    determinism: str
    models: list[ModelInfo]
    limits: Limits
    load: Load
