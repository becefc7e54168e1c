"""Where the parts of a folder lie, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ParameterError, in_short
from ..networks.families import FAMILIES, OF_A_FOLDER, SCHEDULER_FILE, Published, published
from ..networks.weights.reading import quiet
from .adapter import is_adapter

FILES = {"scheduler": SCHEDULER_FILE, "model": "config.json", "tokenizer": "tokenizer_config.json"}
"""The file that each part cannot be without, by the part's name in diffusers' layout."""


def find_places(folder: Path, needs_tokenizer: bool = True) -> tuple[dict[str, Path], Published | None]:
    """Where each part lies: in the folder itself, or in its subfolder where a pipeline of diffusers was saved.

    And what is known of the folder if it is of a published format, which has to hold no more than the model.

    Raises:
        ParameterError: a part's file is missing, or holds no JSON object.
    """
    try:
        if not folder.is_dir():
            raise ParameterError("checkpoint_path", "be an existing folder", str(folder))
        if is_adapter(folder):
            merged = f"python -m token_diffusion convert --checkpoint_path {folder} --output_dir MERGED"
            rule = f"be a folder with a whole model, which {merged} makes of adapters and the model that they are for"
            raise ParameterError("checkpoint_path", rule, str(folder))
        apart = (folder / "model_index.json").is_file()
        places = {part: folder / part if apart and (folder / part).is_dir() else folder for part in FILES}
        known = published(places["model"])
        _check_known(folder, places, known)
        for part, place in places.items():
            is_needed = known is None and (part != "tokenizer" or needs_tokenizer)
            if is_needed or (place / FILES[part]).is_file():
                _check_json(folder, (place / FILES[part]).relative_to(folder))
            _check_readable(place)
    except OSError as error:
        rule = f"be a folder that can be read ({error.strerror}: {Path(error.filename or folder).name!r})"
        raise ParameterError("checkpoint_path", rule, str(folder)) from error
    return places, known


def _check_known(folder: Path, places: Mapping[str, Path], known: Published | None) -> None:
    """Raises `ParameterError` for a model without a scheduler that is of none of the published formats."""
    scheduler, config = places["scheduler"] / SCHEDULER_FILE, places["model"] / FILES["model"]
    if known is not None or scheduler.is_file():
        return
    _check_json(folder, config.relative_to(folder))
    content = json.loads(config.read_bytes())
    found = ", ".join(f"{mark} {content.get(mark)!r}" for mark in ("model_type", "architectures"))
    names = ", ".join([*FAMILIES, *OF_A_FOLDER])
    formats = f"one of a published format ({names}), of which its config.json has no mark: {found}"
    rule = f"be a folder that holds {scheduler.relative_to(folder).as_posix()}, or {formats}"
    raise ParameterError("checkpoint_path", rule, str(folder))


def _check_json(folder: Path, file: Path) -> None:
    if not (folder / file).is_file():
        raise ParameterError("checkpoint_path", f"be a folder that holds {file.as_posix()}", str(folder))
    content = (folder / file).read_bytes()
    try:
        settings = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        rule = f"hold JSON in {file.as_posix()} ({in_short(error)})"
        raise ParameterError("checkpoint_path", rule, str(folder)) from error
    if not isinstance(settings, dict):
        raise ParameterError("checkpoint_path", f"hold a JSON object in {file.as_posix()}", str(folder))


def _check_readable(folder: Path) -> None:
    """Opens what will be read: safetensors calls a file that it may not open one that does not exist."""
    for file in folder.iterdir():
        if file.suffix in (".json", ".safetensors", ".bin") and file.is_file():
            file.open("rb").close()


def read_part(kind: Any, folder: Path, what: str, parameter: str = "checkpoint_path", **kwargs: Any) -> Any:
    """What `kind.from_pretrained` makes of a folder. Raises `ParameterError` that says the folder has to hold `what`."""
    try:
        with quiet():
            return kind.from_pretrained(str(folder), local_files_only=True, **kwargs)
    # transformers, diffusers and tokenizers each raise what they like for a broken file, and so do we
    except Exception as error:
        is_code = "trust_remote_code" in str(error)
        reason = "its class is code of its own, which is not run here" if is_code else in_short(error)
        raise ParameterError(parameter, f"hold {what} ({reason})", str(folder)) from error
