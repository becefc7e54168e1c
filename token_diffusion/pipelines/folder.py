"""Where a pipeline is read from and written to: a folder, or a repository of the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download

from ..checkpoint import SCHEDULER_FILE
from ..errors import ParameterError

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md"]
"""What of a repository is fetched: no code, no pickles."""

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "token")


def fetched(name: str | os.PathLike[str], hub: dict[str, Any]) -> Path:
    """A folder that is there, or a snapshot of the hub's repository of that name."""
    what = "be an existing folder or a repository of the hub"
    if Path(name).exists():
        return Path(name)
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise ParameterError("pretrained_model_name_or_path", what, str(name))
    try:
        return Path(snapshot_download(str(name), allow_patterns=FILES, **hub))
    except (OSError, ValueError) as error:  # what the hub's client raises, its HTTP errors included, is one of them
        reason = str(error).strip().splitlines() or [type(error).__name__]
        rule = f"{what} ({reason[0][:200]})"
        raise ParameterError("pretrained_model_name_or_path", rule, str(name)) from error


def check_place(folder: Path) -> None:
    """Raises `ParameterError` for a folder with something in it that is no checkpoint: saving would replace it."""
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not (folder / SCHEDULER_FILE).is_file():
        raise ParameterError("save_directory", "be new, empty or a checkpoint to replace", str(folder))


def push(
    folder: Path,
    repo_id: str | None = None,
    token: str | None = None,
    private: bool | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> None:
    """Uploads a folder in one commit, to a repository of its name by default, which is made if need be."""
    api = HfApi(token=token)
    name = api.create_repo(repo_id or folder.resolve().name, private=private, exist_ok=True).repo_id
    api.upload_folder(folder_path=folder, repo_id=name, commit_message=commit_message, create_pr=create_pr or None)
