"""The model card of a saved folder: what it is, how it was made, how good it is, what it cannot do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from .evaluation import ValidationBound

LOSSES = {
    "elbo": "NELBO",
    "clip": "NELBO with its weights cut off at 1 (`clip`); what is reported is the NELBO itself",
    "dynamic": "GIDD's `dynamic` weights of the NELBO's terms; what is reported is the NELBO itself",
}

NAMES = {"absorbing": "MDLM (absorbing)", "uniform": "UDLM (uniform)", "hybrid": "GIDD (hybrid)"}


@dataclass(frozen=True)
class CardFacts:
    """What the card reports. Data sources are names, never paths; `command` is the command line as it was typed."""

    process: str
    scheduler_options: dict[str, object]
    weighting: str
    architecture: str
    base_model: str | None
    num_parameters: int
    vocab_size: int
    max_length: int
    packing: bool
    command: str
    train_source: str
    validation_source: str
    num_train_sequences: int
    step: int
    max_train_steps: int
    num_tokens: int
    window: int
    ema_decay: float
    dtype: str
    bound: ValidationBound | None


def model_card(facts: CardFacts) -> str:
    """The card as Markdown with its YAML head."""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=facts.base_model,
        tags=["token-diffusion", "discrete-diffusion", facts.process],
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(facts)}"))


def _body(facts: CardFacts) -> str:
    options = ", ".join(f"{name} = {value}" for name, value in facts.scheduler_options.items())
    start = "from scratch" if facts.base_model is None else f"started from `{facts.base_model}`"
    text = f"at most {facts.max_length} tokens, {'packed' if facts.packing else 'one document an example'}"
    weights = f"moving average of the weights, decay {facts.ema_decay:g}" if facts.ema_decay else "as trained"
    return f"""# {NAMES[facts.process]} token diffusion language model

A `{facts.architecture}` with {facts.num_parameters:,} parameters and {facts.vocab_size:,} tokens, {start},
that generates text by undoing noise on all positions at once. The folder holds model, tokenizer and
`scheduler_config.json`.

| | |
|---|---|
| Process | {options} |
| Training loss | {LOSSES[facts.weighting]} |
| Training text | {facts.train_source}; {facts.num_train_sequences:,} sequences of {text} |
| Steps | {facts.step:,} of {facts.max_train_steps:,}, {facts.window} sequences each |
| Tokens seen | {facts.num_tokens:,} (special tokens and padding neither noised nor counted) |
| Weights | {weights}; {facts.dtype} |

## Validation

{_validation(facts)}

## How it was made

```
{facts.command}
```

## Use

```
python -m token_diffusion sample --checkpoint_path THIS_FOLDER
python -m server --checkpoint_path THIS_FOLDER
```

## Limits

It repeats what its training text holds, mistakes and prejudices included, and knows nothing else. Sequences
longer than {facts.max_length} tokens were never seen. No filter checks what it writes.
"""


def _validation(facts: CardFacts) -> str:
    bound = facts.bound
    if bound is None:
        return "Not validated: the quality of this model is unknown."
    per_char = "" if bound.bits_per_char is None else f", or {bound.bits_per_char:.4f} bits per character"
    return f"""On {facts.validation_source}: {bound.num_sequences:,} sequences, {bound.num_tokens:,} tokens,
{bound.num_times} stratified times a sequence, fixed noise.

| NELBO (nats/token) | standard error over sequences | perplexity | bits/token |
|---|---|---|---|
| {bound.nelbo:.4f} | {bound.standard_error:.4f} | {bound.perplexity:.2f} | {bound.bits_per_token:.4f} |

That is an upper bound on the negative log-likelihood{per_char}. Special tokens and padding are given, not predicted,
and do not count."""


def base_model_name(model_name_or_path: str) -> str:
    """A hub id as it is; of a folder its last name only."""
    return Path(model_name_or_path).resolve().name if Path(model_name_or_path).is_dir() else model_name_or_path
