"""Diffusion language models that others have published and that are not run here, each by its name and with the reason.

They are told by what their config.json calls them: its `model_type`, its `architectures`, the classes of its `auto_map`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import CONFIG_MAPPING


@dataclass(frozen=True)
class Refused:
    """name: what it is known as. marks: what its config.json may call it. reason: what of it is not here."""

    name: str
    marks: frozenset[str]
    reason: str


EXPERTS = "it is a mixture of experts, which no network here is"
BLOCKS = "it is a decoder under block-causal attention, which the decoders here do not have"
IMAGES = "it reads images, which nothing here does"

REFUSED = tuple(
    Refused(name, frozenset(marks.split()), reason)
    for name, marks, reason in (
        (
            "DiffusionGemma",
            "diffusion_gemma DiffusionGemmaForBlockDiffusion",
            "it denoises a canvas behind a causal encoder and is fed its own last answer, which no sampler here keeps",
        ),
        ("LLaDA-MoE", "lladamoe llada_moe LLaDAMoEModel LLaDAMoEModelLM", EXPERTS),
        ("LLaDA2", "llada2_moe llada21_moe llada2_moe_veomni LLaDA2MoeModelLM LLaDA21MoeModelLM", EXPERTS),
        ("RND1", "rnd1 RND1LM", EXPERTS),
        ("SDAR", "sdar SDARForCausalLM", BLOCKS),
        ("SDAR-MoE", "sdar_moe SDARMoeForCausalLM", EXPERTS),
        ("Fast-dLLM v2", "Fast_dLLM_Qwen Fast_dLLM_QwenForCausalLM", BLOCKS),
        ("Stable-DiffCoder", "StableDiffcoderForCausalLM", BLOCKS),
        ("Nemotron-Labs-Diffusion", "NemotronLabsDiffusionModel", BLOCKS),
        (
            "WeDLM",
            "wedlm WeDLMForCausalLM",
            "it is causal over tokens put in another order, which no network here does",
        ),
        (
            "LFM2 diffusion",
            "lfm2_diffusion Lfm2ForBlockDiffusion",
            "it is fed its own last answer, which no sampler here keeps",
        ),
        ("GIDD of 3B and more", "gidd GiddForDiffusionLM", "it is another network than GIDD's small and base one"),
        ("LLaDA-V or LaViDa", "llava_llada LlavaLLaDAModelLM LlavaLladaForMaskedDiffusion", IMAGES),
        ("MMaDA", "mmada MMadaModelLM", IMAGES),
        ("Dimple", "dimple DimpleModel", IMAGES),
        ("DiMamba", "bimamba BiMambaForMaskedLM DiMamba", "it is a state-space network, which none is here"),
        ("U-Net", "unet UNet", "it is a network for pixels"),
        (
            "Edit Flows",
            " ".join(f"editflow-{network}" for network in ("llada", "dream", "qwen2", "qwen3", "modernbert")),
            "it inserts and deletes tokens, and here a sample keeps its length",
        ),
    )
)

BASELINES = ("mdlm", "udlm", "bd3lm", "duo")
"""Whose folders may hold their autoregressive baseline."""


def reason(config: Mapping[str, Any]) -> str | None:
    """Why the model of this config.json is not run here, if it is one of these."""
    found = _called(config)
    for each in REFUSED:
        if found & each.marks:
            return f"this is {each.name}: {each.reason}"
    if config.get("model_type") in BASELINES and (config.get("causal") or config.get("causal_attention")):
        return f"this is the autoregressive baseline of {config['model_type']}, which has learnt no masks"
    return None


def unknown_code(config: Mapping[str, Any]) -> str | None:
    """What the model of this config.json is, if that is said by code in its folder alone."""
    auto_map, model_type = config.get("auto_map"), str(config.get("model_type"))
    if not isinstance(auto_map, Mapping) or model_type in CONFIG_MAPPING:
        return None
    code = ", ".join(sorted({str(each) for each in auto_map.values()}))
    return f"it is {model_type!r}, which is described by the folder's own code alone ({code}), and that is never run"


def _called(config: Mapping[str, Any]) -> set[str]:
    auto_map, architectures = config.get("auto_map"), config.get("architectures")
    classes = auto_map.values() if isinstance(auto_map, Mapping) else ()
    names = architectures if isinstance(architectures, list) else ()
    return {str(config.get("model_type")), *map(str, names), *(str(each).rpartition(".")[2] for each in classes)}
