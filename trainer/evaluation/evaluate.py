"""`python -m trainer evaluate`: the bound of a saved folder on text, and the quality of its samples, as one JSON object."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from tqdm.contrib.logging import logging_redirect_tqdm

from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.diffusion.times import time_power
from token_diffusion.errors import ParameterError
from token_diffusion.facts import Frame
from token_diffusion.networks.behaviour import behaviour
from token_diffusion.networks.masked_lm import Head
from token_diffusion.networks.weights.hub import local_folder, tokenizer_folder
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run
from token_diffusion.text import encode

from ..accelerator import check_precision, set_up_logging, without_devices
from ..data.corpus import read_documents
from ..data.noising import NoisyExamples, ValidationBatches, make_loader, padding
from ..data.reading.labels import Labels
from ..data.sequences import special, tokenize
from ..data.spelling import spell
from ..output import journal
from ..output.files import check_writable, write_whole
from ..output.provenance import told_apart
from .bound import ValidationBound
from .evaluate_config import EvaluateConfig
from .quality import Judge, generative_perplexity, load_judge, retokenize, variety, windows
from .validation import evaluate

logger = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 256
Figures = dict[str, Any]


def evaluate_folder(config: EvaluateConfig) -> Figures | None:
    """Measures what `config` asks for. Samples are drawn by the main process alone, and it alone gets the figures.

    Raises:
        ParameterError: something that was asked for cannot be done.
    """
    accelerator = _make_accelerator(config)
    if config.output_file is not None:
        _check_output_file(config.output_file)
    device = str(accelerator.device)
    folder = local_folder("checkpoint_path", config.checkpoint_path)
    checkpoint = load_checkpoint(folder, device=device, tokenizer_name=tokenizer_folder(config.tokenizer_name))
    judge_name = config.generative_model_name_or_path
    judge = load_judge(judge_name, device) if judge_name is not None and accelerator.is_main_process else None
    max_length = _max_length(config, checkpoint)
    figures: Figures = {"checkpoint": checkpoint.name, "process": checkpoint.process}
    figures |= {"num_parameters": checkpoint.model.num_parameters(), "num_processes": accelerator.num_processes}
    validation: Sequence[np.ndarray] = ()
    with logging_redirect_tqdm() if accelerator.is_main_process else nullcontext():
        if config.validation_file:
            validation, bound = _validate(config, accelerator, checkpoint, max_length)
            figures["validation"] = _validation_figures(config, bound, max_length)
        if not accelerator.is_main_process:
            return None
        if config.num_samples:
            figures |= _quality(config, checkpoint, judge, validation, config.seq_len or max_length)
    if config.output_file is not None:
        write_whole(config.output_file, json.dumps(figures, indent=2) + "\n")
    return figures


def _make_accelerator(config: EvaluateConfig) -> Accelerator:
    try:
        accelerator = Accelerator(cpu=without_devices(), mixed_precision=config.mixed_precision, dynamo_backend="no")
    except ValueError as error:
        rule = f"be usable here ({str(error).splitlines()[0]})"
        raise ParameterError("mixed_precision", rule, config.mixed_precision) from error
    check_precision(accelerator, config.mixed_precision)
    set_up_logging(accelerator)
    return accelerator


def _check_output_file(path: Path) -> None:
    try:
        check_writable(path)
    except OSError as error:
        raise ParameterError("output_file", f"be a writable file ({error.strerror})", str(path)) from error


def _max_length(config: EvaluateConfig, checkpoint: Checkpoint) -> int:
    longest = checkpoint.max_seq_len
    if longest is not None and (config.max_length or 0) > longest:
        raise ParameterError("max_length", f"be <= {longest}, the positions of the model", config.max_length)
    if config.seq_len is not None:
        checkpoint.check_seq_len(config.seq_len)
    return config.max_length or min(DEFAULT_MAX_LENGTH, longest or DEFAULT_MAX_LENGTH)


def _validate(
    config: EvaluateConfig, accelerator: Accelerator, checkpoint: Checkpoint, max_length: int
) -> tuple[Sequence[np.ndarray], ValidationBound]:
    """The sequences and their bound; every process takes part."""
    tokenizer, packing, labels = checkpoint.tokenizer, config.packing, _labels(config, checkpoint)
    columns = config.text_column, config.label_column
    documents = read_documents("validation_file", config.validation_file, packing, *columns)
    facts = checkpoint.facts
    options: dict[str, Any] = {"packing": packing, "max_length": max_length}
    options["frame"] = facts.frame if facts.known else None
    options["learnt"], options["fill"] = facts.learnt, facts.fill
    main = accelerator.is_main_process
    with accelerator.main_process_first():  # the others then find its cache
        found = tokenize(tokenizer, documents, flag="validation_file", progress=main, labels=labels, **options)
    ids = found.ids
    batches = ValidationBatches(
        num_sequences=len(ids),
        num_times=config.num_times,
        batch_size=config.per_device_eval_batch_size,
        seed=config.seed,
        power=time_power(checkpoint.scheduler.process),
    )
    special_ids = special(tokenizer, facts.learnt).tolist()
    model = accelerator.prepare_model(checkpoint.model, evaluation_mode=True)
    about: dict[str, Any] = {"head": Head(checkpoint.model), "grouping": behaviour(checkpoint.model).grouping}
    about |= {"spelling": spell(tokenizer, documents, ids, **options), "weights": _weights(checkpoint.path)}

    def bound_of(told: np.ndarray | None) -> ValidationBound:
        examples = NoisyExamples(ids, checkpoint.scheduler, special_ids, frame=facts.frame, labels=told)
        loader = accelerator.prepare(make_loader(examples, batches, pad_token_id=padding(tokenizer), num_workers=0))
        counts: dict[str, Any] = {"num_sequences": len(ids), "num_times": config.num_times}
        return evaluate(accelerator, model, checkpoint.scheduler, loader, **counts, **about, progress=main)

    bound = bound_of(found.labels)
    if found.labels is not None:
        bound = replace(bound, unlabelled=bound_of(None).per_token)
    logger.info("validation of %s: %s", checkpoint.name, bound.counted)
    for unit, estimate in bound.estimates().items():
        logger.info("%-10s %10.4f ± %.4f", unit, estimate.value, estimate.error)
    for remark in bound.remarks:
        logger.info(remark)
    return ids, bound


def _labels(config: EvaluateConfig, checkpoint: Checkpoint) -> Labels | None:
    """What the network can be told, if that is asked for. Raises `ParameterError` if it knows no labels."""
    if config.label_column is None:
        return None
    if not checkpoint.num_classes:
        rule = f"be left out for {checkpoint.name}, which knows no labels"
        raise ParameterError("label_column", rule, config.label_column)
    return Labels.known_to(checkpoint.model, checkpoint.num_classes)


def _weights(folder: Path) -> str:
    """What the folder's weights are, as far as it tells."""
    kinds = [record["weights"] for record in journal.read(folder / journal.HISTORY) if "weights" in record]
    return f"as saved ({kinds[-1]})" if kinds else "as saved"


def _validation_figures(config: EvaluateConfig, bound: ValidationBound, max_length: int) -> Figures:
    text = {"files": told_apart(config.validation_file), "packing": config.packing}
    return {**bound.figures(), **text, "max_length": max_length, "seed": config.seed}


def _quality(
    config: EvaluateConfig,
    checkpoint: Checkpoint,
    judge: Judge | None,
    validation: Sequence[np.ndarray],
    seq_len: int,
) -> Figures:
    """Figures of the samples, and of as many pieces of the validation text."""
    fields = ("num_samples", "num_inference_steps", "temperature", "top_p", "top_k", "min_p", "seed", "block_size")
    asked = {name: getattr(config, name) for name in fields} | {"sampler": config.sampler}
    asked |= {"options": _options(config.sampler_options)}
    frame = checkpoint.facts.frame
    tokens = encode(checkpoint.tokenizer, seq_len=seq_len, frame=frame)
    framed = (len(frame.prefix), len(frame.suffix))
    parameters = SamplingParameters(seq_len=seq_len, frame=framed, **asked)
    output = run(checkpoint.denoiser, checkpoint.scheduler, parameters, tokens)
    rows = {"samples": [list(frame.inside(row)) for row in output.sequences.tolist()]}
    if reference := _reference(config, validation, seq_len, frame):
        rows["reference"] = reference
    found: Figures = {name: _measure(config, checkpoint, judge, each) for name, each in rows.items()}
    for name, figures in found.items():
        logger.info("%s: %s", name, ", ".join(f"{key} {_short(value)}" for key, value in figures.items()))
    found["samples"] |= {"seq_len": seq_len, **asked, "nfe": output.nfe}
    return found


def _options(text: str | None) -> dict[str, Any]:
    """`key=value,…` as options of a sampler, which checks names, types and values. Raises `ParameterError` for other text."""
    found: dict[str, Any] = {}
    for entry in filter(None, (text or "").split(",")):
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not (key and equals):
            raise ParameterError("sampler_options", "be key=value,key=value", entry)
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _reference(
    config: EvaluateConfig, validation: Sequence[np.ndarray], seq_len: int, frame: Frame
) -> list[list[int]]:
    """Pieces of the validation text as long as a sample's, spread evenly: of the packed stream, or of whole examples."""
    count, seq_len = config.num_samples, seq_len - len(frame)
    if not config.packing:
        chosen = windows(range(len(validation)), min(count, len(validation)), 1) if validation else []
        texts = [frame.inside(validation[index].tolist()) for row in chosen for index in row]
        return [list(text[:seq_len]) for text in texts]
    stream = [token for piece in validation for token in frame.inside(piece.tolist())]
    return windows(stream, seq_len, count) if len(stream) >= seq_len else []


def _measure(
    config: EvaluateConfig, checkpoint: Checkpoint, judge: Judge | None, rows: Sequence[Sequence[int]]
) -> Figures:
    figures: Figures = dict(variety(rows))
    if judge is not None:
        texts = retokenize(judge, checkpoint.tokenizer, rows)
        perplexity, count = generative_perplexity(judge, texts, config.per_device_eval_batch_size)
        figures |= perplexity.figures("generative_perplexity")
        figures |= {"num_generative_tokens": count, "generative_model": judge.name}
    return figures


def _short(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
