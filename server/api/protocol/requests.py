"""The requests of the endpoints that sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from token_diffusion.samplers.presets import with_preset

from .samplers import SAMPLER, PresetName, SamplerName, option_fields
from .values import LARGEST, Count, Guidance, Label, Seed, Stop, Text, TokenIds, Whole, bounds, texts


class CommonFields(BaseModel):
    """What any request for samples may ask for, whichever sampler it names."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    num_inference_steps: Count | None = 128
    """steps of the time grid, for each block; null is the continuous-time limit"""
    temperature: Annotated[float, bounds(minimum=0)] = 1.0
    """divides the logits; 0 takes the most probable token"""
    top_p: Annotated[float, bounds(exclusiveMinimum=0, maximum=1)] = 1.0
    """nucleus: the smallest set of tokens with this much probability"""
    top_k: Annotated[Whole, bounds(minimum=0, maximum=LARGEST)] = 0
    """most probable tokens kept; 0 keeps all"""
    min_p: Annotated[float, bounds(minimum=0, maximum=1)] = 0.0
    """tokens kept that have at least so much of the most probable one's probability; 0 keeps all"""
    stop: Stop | None = None
    """text of a sample ends before the first of these in which something was drawn; its tokens stay whole"""
    label: Label | None = None
    """class that the model is told, below its num_classes; null is none, and other models refuse it"""
    guidance_scale: Guidance = 1.0
    """how much label or prompt count: 1 as the model has it, 0 not at all; but for these two at twice the forward passes"""
    suppress_end: bool = False
    """no token that the model has learnt to end a text with is drawn"""
    early_end: bool = False
    """a sample whose text has ended is not filled in any further"""
    seed: Seed | None = None
    """same seed, same samples; without it one is drawn, and returned"""
    model: str | None = None
    """name of a loaded checkpoint; without it the first that fits the endpoint"""
    stream_every: Count = 1
    """updates merged into one event of a stream"""
    timeout_s: Annotated[float, bounds(exclusiveMinimum=0)] = 60.0
    """seconds after which the request is given up with an error of type timeout"""
    sampler: SamplerName = SAMPLER
    """by its name in samplers of /models, where its options are, which are the fields that name it below"""
    preset: PresetName | None = None
    """defaults of these fields by the name of who has them: what is given goes before"""

    def _filled(self, values: Mapping[str, Any]) -> Self:
        """The same with these values, which nobody asked for."""
        filled = self.model_copy(update=dict(values))
        filled.model_fields_set.difference_update(values)
        return filled

    def with_preset(self) -> tuple[Self, dict[str, Any]]:
        """The same request with what its preset fills in, and that. Raises ParameterError: there is no such preset."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        asked = with_preset(self.preset, given)
        fields = type(self).model_fields
        filled = {name: value for name, value in asked.items() if name not in given and name in fields}
        return self._filled(filled), filled


if TYPE_CHECKING:

    class SamplingFields(CommonFields):
        """These, and the options of all samplers."""

else:
    SamplingFields = create_model("SamplingFields", __base__=CommonFields, **option_fields())


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class PromptMessage(BaseModel):
    """What somebody said."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    role: Literal["system", "developer", "user", "assistant"]
    """developer is another word for system"""
    content: Annotated[Text, BeforeValidator(texts, json_schema_input_type=str | list[TextPart])]
    """control tokens typed in it are ordinary text"""
    name: Text | None = None
    """for templates that read it"""

    @property
    def said(self) -> dict[str, str]:
        """As chat templates know it."""
        said = {"role": self.role, "content": self.content}
        return said if self.name is None else said | {"name": self.name}


class SampleRequest(SamplingFields):
    """One request for samples."""

    prompt: Text | None = None
    """fixed beginning of each sample"""
    template: Text | None = None
    """text with [MASK] holes, everything else fixed; without seq_len its length is that of the samples"""
    prompt_ids: TokenIds | None = None
    """prompt as token ids, frame excluded; they stand for themselves, control tokens' too"""
    template_ids: TokenIds | None = None
    """template as token ids, frame excluded; the mask's id is a hole"""
    messages: Annotated[list[PromptMessage], Field(fail_fast=True), bounds(minItems=1)] | None = None
    """prompt as a conversation, which the model's chat template writes; the text of a sample is what the assistant says next"""
    num_samples: Count = 1
    """samples drawn; sample i of a seed is the same however many are drawn beside it"""
    seq_len: Count = 64
    """length of a sample in tokens, prompt and frame included"""
    stream: bool = True
    """true: server-sent events; false: the object of the done event, as JSON"""
    include_text: bool = False
    """state events carry the text of each sample, masks shown"""
    logprobs: bool = False
    """states and the answer carry the model's own log-probability of each token, unshaped, when it was set"""
    keyframe_every: Count | None = None
    """every so many state events one carries all tokens, for a reader that joins or resumes in the middle; null: none does"""
    on_disconnect: Literal["cancel", "keep"] = "cancel"
    """what a client that leaves a stream does to its request: end it, or leave it for GET /requests/{id}/events"""

    def within(self, **limits: int | None) -> Self:
        """The same request, its defaults brought down to `limits`; what was asked for stays, to be refused."""
        lower = {
            name: min(getattr(self, name), limit)
            for name, limit in limits.items()
            if limit is not None and name not in self.model_fields_set
        }
        return self._filled(lower)


class BlockSampleRequest(SampleRequest):
    """A request whose samples are filled block by block, left to right."""

    block_size: Annotated[Whole, bounds(minimum=1, maximum=LARGEST)] = 32
    """tokens of a block; a block-causal checkpoint has its own, which is its default and takes no other"""


class HybridSampleRequest(SampleRequest):
    """A request to a checkpoint of the hybrid process, which has no continuous-time limit."""

    num_inference_steps: Count = 128
    """steps of the time grid"""
