"""The model card of a saved folder: what it is, how it was made, how good it is, what it cannot do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import ModelCard

from token_diffusion.samplers.parameters import SEQ_LEN, default_seq_len

from ..output.journal import Record
from . import curve
from .metadata import HubFacts, metadata
from .visible import visible

LOSSES = {
    "elbo": "NELBO",
    "clip": "NELBO with its weights cut off at 1 (`clip`); what is reported is the NELBO itself",
    "dynamic": "GIDD's `dynamic` weights of the NELBO's terms; what is reported is the NELBO itself",
}

NAMES = {"absorbing": "MDLM (absorbing)", "uniform": "UDLM (uniform)", "hybrid": "GIDD (hybrid)"}

UNITS = {
    "nats/token": "NELBO (nats/token)",
    "perplexity": "perplexity",
    "bits/token": "bits/token",
    "bits/char": "bits/character",
    "bits/byte": "bits/byte",
}

PROCESS_LIMITS = {
    "absorbing": "A token that is written is never revised while sampling.",
    "uniform": "While sampling, nothing marks which tokens are still noise: it has to guess that too.",
    "hybrid": "It was trained at times no closer to 0 and 1 than `t_eps`; the bound counts them all.",
}
COMMANDS = {"absorbing": "sample", "uniform": "sample", "hybrid": "sample-hybrid"}
SNIPPET = """```python
from token_diffusion.pipelines import TokenDiffusionPipeline

pipe = TokenDiffusionPipeline.from_pretrained("{place}")
for text in pipe(num_samples=4, seq_len={seq_len}, seed=0).texts:
    print(text)
```"""
MERGE = """```
pip install .[lora]
python -m token_diffusion convert --checkpoint_path THIS_FOLDER --output_dir MERGED
```"""
MAX_SAMPLE_CHARS = 600


@dataclass(frozen=True)
class CardFacts:
    """What the card reports. Data sources are names, never paths; `command` is shown as it is.

    start: what training started from, in words; None from scratch. place: where the folder will be found, for its snippet.
    num_dropped_tokens: of documents longer than max_length; None where nobody counted. answers: whether the text is prompts and
    answers, and these alone are learnt. ends_learnt: whether end tokens fill documents up. adapters: of which kind, if the folder
    holds adapters of `start` and no model. labels: what the network was told of each text, in words.
    """

    hub: HubFacts
    place: str
    scheduler_options: dict[str, object]
    weighting: str
    architecture: str
    start: str | None
    num_parameters: int
    vocab_size: int
    max_length: int
    packing: bool
    command: str
    code: str
    train_source: str
    num_train_sequences: int | None
    step: int
    max_train_steps: int
    num_tokens: int
    window: int
    weights: str
    dtype: str
    precision: str
    optimizer: str
    num_dropped_tokens: int | None
    answers: bool = False
    ends_learnt: bool = False
    adapters: str | None = None
    labels: str | None = None
    history: Sequence[Record] = ()
    samples: Sequence[Record] = ()
    has_picture: bool = False


def model_card(facts: CardFacts) -> str:
    """The card as Markdown with its YAML head."""
    return str(ModelCard(f"---\n{metadata(facts.hub).to_yaml()}\n---\n\n{_body(facts)}"))


def _body(facts: CardFacts) -> str:
    sections = [
        _summary(facts),
        _use(facts),
        f"## Validation\n\n{_validation(facts)}",
        _training(facts),
        _samples(facts),
        f"## How it was made\n\n```\n{facts.command}\n```\n\nCode: Token Diffusion, {facts.code}.",
        _limits(facts),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _summary(facts: CardFacts) -> str:
    options = ", ".join(f"{name} = {value}" for name, value in facts.scheduler_options.items())
    start = "from scratch" if facts.start is None else f"started from `{facts.start}`"
    source = facts.train_source.replace("|", "\\|")  # which would end the cell
    uncounted = (
        "prompts"
        if facts.answers
        else "special tokens but the end"
        if facts.ends_learnt
        else "special tokens and padding"
    )
    holds = "model," if facts.adapters is None else f"{facts.adapters} and not the model itself,"
    return f"""# {NAMES[facts.hub.process]} token diffusion language model

A `{facts.architecture}` with {facts.num_parameters:,} parameters and {facts.vocab_size:,} tokens, {start},
that generates text by undoing noise on all positions at once. The folder holds {holds}
tokenizer and `scheduler_config.json`.

| | |
|---|---|
| Process | {options} |
| Training loss | {LOSSES[facts.weighting]} |
| Training text | {source}; {_sequences(facts)} |{_labels(facts)}
| Steps | {facts.step:,} of {facts.max_train_steps:,}, {facts.window} sequences each |
| Tokens seen | {facts.num_tokens:,} ({uncounted} neither noised nor counted) |
| Optimizer | {facts.optimizer} |
| Precision | {facts.precision} |
| Weights | {facts.weights}; {facts.dtype} |"""


def _labels(facts: CardFacts) -> str:
    """A row of the table, if the network was told labels."""
    if facts.labels is None:
        return ""
    words = facts.labels.replace("|", "\\|")
    return f"\n| Labels | {words}; `--label N` or `label=N` asks for texts of one |"


def _sequences(facts: CardFacts) -> str:
    """How many sequences of which text it learnt from, in words."""
    if facts.answers:
        kind = f"{facts.max_length} tokens, an answer behind its prompt, filled up with end tokens, which are learnt"
    elif facts.ends_learnt:
        kind = f"{facts.max_length} tokens, one document an example, filled up with end tokens, which are learnt"
    else:
        kind = f"at most {facts.max_length} tokens, {'packed' if facts.packing else 'one document an example'}"
    if facts.num_dropped_tokens:
        longer = "conversations" if facts.answers else "documents"
        kind += f" ({facts.num_dropped_tokens:,} tokens of longer {longer} were cut off)"
    count = "streamed, " if facts.num_train_sequences is None else f"{facts.num_train_sequences:,} "
    return f"{count}sequences of {kind}"


def _use(facts: CardFacts) -> str:
    """How a stranger samples from the folder, with what, and what else it can be loaded with."""
    seq_len = default_seq_len(facts.max_length)
    flag = "" if seq_len == SEQ_LEN else f" --seq_len {seq_len}"
    needs = f"It needs the code of Token Diffusion ({facts.code}), which is not on PyPI. In a copy of its repository:"
    if facts.adapters is not None:
        return "\n\n".join(
            ["## Use", needs, MERGE, "MERGED is a folder that serves, with a card that says how to use it."]
        )
    paragraphs = [
        "## Use",
        needs,
        "```\npip install .\n```",
        SNIPPET.format(place=facts.place, seq_len=seq_len),
        "From a shell, in that repository, with this folder as THIS_FOLDER:",
        f"```\npython -m token_diffusion {COMMANDS[facts.hub.process]} --checkpoint_path THIS_FOLDER{flag}\n"
        "python -m server --checkpoint_path THIS_FOLDER\n```",
        _elsewhere(facts.hub),
    ]
    return "\n\n".join(paragraphs)


def _elsewhere(hub: HubFacts) -> str:
    """What transformers make of the folder."""
    if hub.is_native:
        return (
            f"The network is Token Diffusion's own (`{hub.model_type}`): `AutoModelForMaskedLM.from_pretrained` knows it after "
            "`import token_diffusion` only."
        )
    loads = "`AutoModelForMaskedLM.from_pretrained` loads the network alone"
    if hub.fills_masks:
        return f'{loads}, and `pipeline("fill-mask")` of transformers fills in single masks; neither samples texts.'
    return f'{loads}. It has not learnt what a mask is: `pipeline("fill-mask")` says nothing.'


def _validation(facts: CardFacts) -> str:
    bound = facts.hub.bound
    if bound is None:
        return "Not validated: the quality of this model is unknown."
    rows = [f"| {UNITS[unit]} | {each.value:.4f} | {each.error:.4f} |" for unit, each in bound.estimates().items()]
    remarks = " ".join(
        [
            "All of them are upper bounds, of the negative log-likelihood or of its exponential. "
            + (
                "Prompts are given, not predicted, and do not count; the end tokens behind an answer do."
                if facts.answers
                else "The end tokens behind a document, which say how long it is, count."
                if facts.ends_learnt
                else "Special tokens and padding are given, not predicted, and do not count."
            ),
            *bound.remarks,
        ]
    )
    return "\n".join(
        [
            f"On {facts.hub.validated_on}: {bound.counted}.",
            "",
            "| | bound | standard error over sequences |",
            "|---|---|---|",
            *rows,
            "",
            remarks,
        ]
    )


def _training(facts: CardFacts) -> str:
    """How the NELBO fell: in words, in a picture if there is one, in a small table."""
    trained = [record for record in facts.history if "nelbo" in record]
    if not trained:
        return ""
    first, last = trained[0], trained[-1]
    parts = [
        "## Training",
        f"The NELBO on the training text went from {first['nelbo']:.4f} nats a token (mean of the first "
        f"{first['step']:,} steps) to {last['nelbo']:.4f} (mean up to step {last['step']:,}).",
        f"![NELBO over steps]({curve.FILE_NAME})" if facts.has_picture else "",
        curve.table(facts.history),
    ]
    return "\n\n".join(filter(None, parts))


def _samples(facts: CardFacts) -> str:
    """The first sample text of the run beside the last, from the same noise."""
    shown = [record for record in facts.samples if record["samples"]]
    if not shown:
        return ""
    parts = ["## Samples", "Not chosen: the first of each set, drawn from the same noise."]
    for record in [shown[0], shown[-1]] if len(shown) > 1 else shown:
        text = visible(record["samples"][0][:MAX_SAMPLE_CHARS])
        parts += [f"After {record['step']:,} steps:", "\n".join(f"    {line}" for line in text.splitlines() or [""])]
    return "\n\n".join(parts)


def _limits(facts: CardFacts) -> str:
    lines = [
        "## Limits\n",
        "- It repeats what its training text holds, mistakes and prejudices included, and knows nothing else.",
        f"- Sequences longer than {facts.max_length} tokens were never seen.",
        f"- {PROCESS_LIMITS[facts.hub.process]}",
        "- Its perplexity is a bound: compare it with other bounds on the same text, tokens and length of sequences only.",
        "- No filter checks what it writes.",
    ]
    return "\n".join(lines)
