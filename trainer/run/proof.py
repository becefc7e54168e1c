"""The proof, before the first step, that the folders of a run will load as the network that it trains."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from token_diffusion.errors import ParameterError, in_short
from token_diffusion.networks.masked_lm import forward_arguments, probe
from token_diffusion.networks.weights.reading import check_logits, quiet, read_masked_lm

from ..config import TrainingConfig
from ..output.checkpoints import FINAL
from ..output.resume import random_state, set_random_state


def prove_run(config: TrainingConfig, model: PreTrainedModel) -> None:
    """`prove_saving` in a run's own folder, of the model that its flags name."""
    named = "model_name_or_path" if config.config_name is None else "config_name"
    folder = config.output_dir / f".{FINAL}.new"
    prove_saving(model, folder, named, getattr(config, named), config.max_length)


def prove_saving(model: PreTrainedModel, folder: Path, parameter: str, name: str, length: int) -> None:
    """Saves the model to `folder`, loads that, compares the logits of a few tokens, and removes it again.

    A vocabulary that was resized may leave a bias at its old size, or weights that are one in memory and none on the disk;
    after a run of days it would be too late to find out. Its price is one writing and reading of the weights. Neither the
    random generators nor the model's mode are any different afterwards.

    Args:
        folder: in the run's `output_dir`, where there has to be room for the weights.
        parameter, name: what the user calls the model.
        length: of the rows that it will see, for a model that takes no shorter ones.

    Raises:
        ParameterError: the folder does not load, or it loads as another network; or the model gives no logits for each position.
    """
    state, was_training = random_state(), model.training
    model.eval()
    try:
        check_logits(parameter, name, model)
        inputs, logits = _ask(model, parameter, name, length)
        _save(model, folder, parameter, name)
        saved = _load(folder, parameter, name)
        with torch.inference_mode():
            found = saved(**inputs).logits
        size = logits.masked_fill(logits == -torch.inf, 0).abs().max().item()
        if not torch.allclose(found, logits, rtol=0, atol=1e-4 * size):
            raise ParameterError(parameter, "be a model that is the same when it is saved and loaded", name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        model.train(was_training)
        set_random_state(state)


def _save(model: PreTrainedModel, folder: Path, parameter: str, name: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with quiet():
            model.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        rule = f"be a folder with room for the model ({in_short(error)})"
        raise ParameterError("output_dir", rule, str(folder.parent)) from error
    except Exception as error:  # transformers refuses in its own ways
        raise ParameterError(parameter, f"be a model that can be saved ({in_short(error)})", name) from error


def _load(folder: Path, parameter: str, name: str) -> PreTrainedModel:
    try:
        saved, missing = read_masked_lm(parameter, str(folder), dtype=torch.float32, local_files_only=True)
    except ParameterError as error:
        raise ParameterError(
            parameter, f"be a model whose saved folder loads: it has to {error.rule}", name
        ) from error
    if missing:
        rule = f"be a model whose saved folder holds all of its weights ({missing[0]} is missing)"
        raise ParameterError(parameter, rule, name)
    return saved.eval()


@torch.inference_mode()
def _ask(model: PreTrainedModel, parameter: str, name: str, length: int) -> tuple[dict[str, Tensor], Tensor]:
    """The arguments of a forward pass on a few tokens, and its logits."""
    vocab_size = model.config.get_text_config().vocab_size
    row = torch.arange(length).unsqueeze(0) % vocab_size
    whole = forward_arguments(model, row, torch.tensor([0.5]), torch.ones_like(row))
    problem: Exception | None = None
    for inputs in (probe(model), whole):
        try:
            logits = model(**inputs).logits
        except Exception as error:  # whatever its own code raises
            problem = error
            continue
        wanted = [*inputs["input_ids"].shape, vocab_size]
        if list(logits.shape) != wanted:
            rule = f"be a model with logits for each position and token, {wanted}, not {list(logits.shape)}"
            raise ParameterError(parameter, rule, name)
        return inputs, logits
    assert problem is not None
    raise ParameterError(parameter, f"be a model that runs ({in_short(problem)})", name) from problem
