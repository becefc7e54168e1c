"""What the server says of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from .samplers import SamplerInfo
from .values import Process


class Health(BaseModel):
    """Answer of the probes."""

    status: str


class Version(BaseModel):
    """The version of Token Diffusion."""

    version: str


class Frame(BaseModel):
    """Token ids before and after the text of every sample, fixed: how the checkpoint's training sequences were framed."""

    prefix: list[int]
    suffix: list[int]


class ModelInfo(BaseModel):
    """A loaded checkpoint."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    family: str | None
    """the published format of its folder, mdlm for one; null for folders of Token Diffusion's own"""
    process: Process
    alpha_schedule: str | None
    """how noise grows with time; null for hybrid, which has a way of its own"""
    time_input: Literal["none", "t", "sigma"]
    """what the network is told of the time: nothing, t, or -ln alpha(t)"""
    dtype: str
    backend: str
    """who computes the forward passes: torch, or another"""
    max_seq_len: int | None
    block_size: int | None
    """positions of a block, of a network in which none sees those of later blocks; null where all see all"""
    num_classes: int
    """labels that the network knows"""
    vocab_size: int
    mask_token_id: int
    mask_token: str
    batching: Literal["shared", "length", "row"]
    """which samples share a forward pass: any (shared), those of one length alone (length), because the network sees padding,
    or none (row)"""
    frame: Frame
    end_tokens: list[int]
    """ids that the network has learnt to end a text with: what comes after the first one is not part of it"""
    samplers: list[SamplerInfo]
    """those that are for its process, the default one first"""


class Models(BaseModel):
    """All loaded checkpoints, the default one first."""

    models: list[ModelInfo]


class Limits(BaseModel):
    """Bounds of this server on one request, and on all."""

    max_seq_len: int
    max_num_inference_steps: int
    max_num_samples: int
    max_num_texts: int
    max_num_times: int
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
