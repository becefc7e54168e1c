"""The head of a model card, which the hub reads: only what is true of the folder, and ids that the hub knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCardData

from token_diffusion.networks.transformer import TokenDiffusionConfig

from ..evaluation.bound import ValidationBound

NATIVE = TokenDiffusionConfig.model_type


@dataclass(frozen=True)
class HubFacts:
    """What the hub is told. `base_model` and `datasets` are ids on the hub, `license` and `language` what the user said.

    name: of the model, for its results. validated_on: words. has_adapters: and no model.
    """

    name: str
    process: str
    model_type: str
    base_model: str | None = None
    datasets: Sequence[str] = ()
    license: str | None = None
    language: Sequence[str] = ()
    validated_on: str = ""
    has_adapters: bool = False
    bound: ValidationBound | None = None

    @property
    def is_native(self) -> bool:
        """Whether the network is one that transformers know only after `import token_diffusion`."""
        return self.model_type == NATIVE

    @property
    def fills_masks(self) -> bool:
        """Whether `pipeline("fill-mask")` works: it knows the network, and that has learnt what a mask is."""
        return not self.is_native and self.process != "uniform" and not self.has_adapters


def metadata(facts: HubFacts) -> ModelCardData:
    """The head. No pipeline of transformers samples from a diffusion: the one that fills a mask is named where it works."""
    return ModelCardData(
        model_name=None if facts.bound is None else facts.name,
        library_name="peft" if facts.has_adapters else "token-diffusion" if facts.is_native else "transformers",
        pipeline_tag="fill-mask" if facts.fills_masks else None,
        base_model=facts.base_model,
        datasets=list(facts.datasets) or None,
        license=facts.license,
        language=list(facts.language) or None,
        tags=["token-diffusion", "discrete-diffusion", facts.process],
        eval_results=None if facts.bound is None else [_result(facts, facts.bound)],
    )


def _result(facts: HubFacts, bound: ValidationBound) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type=facts.datasets[0] if facts.datasets else "text",
        dataset_name=facts.validated_on,
        metric_type="perplexity",
        metric_name="perplexity (an upper bound, by the NELBO)",
        metric_value=round(bound.perplexity, 4),
        verified=False,
    )
