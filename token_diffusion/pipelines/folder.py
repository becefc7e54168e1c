"""Where a pipeline is written to: a folder, and perhaps a repository of the hub; and what of the hub it may be asked."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

from ..checkpoint import SCHEDULER_FILE
from ..errors import ParameterError

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "token")


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
