"""The hub: checked before training, so that a missing token is not found out hours later, and pushed to at the end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token

from token_diffusion.errors import ParameterError

from ..config import TrainingConfig

logger = logging.getLogger(__name__)


class PushError(RuntimeError):
    """The folder is saved, but could not be pushed."""


class Hub:
    """The repository that a run's final folder goes to."""

    def __init__(self, api: HfApi, repo_id: str) -> None:
        self.api, self.repo_id = api, repo_id

    def push(self, folder: Path, message: str) -> str:
        """Uploads the folder in one commit, and returns the repository's address. Raises `PushError`."""
        try:
            commit = self.api.upload_folder(folder_path=folder, repo_id=self.repo_id, commit_message=message)
        except Exception as error:  # whatever the hub's client raises, training is done and the folder is there
            raise PushError(f"saved {folder}, but not pushed to {self.repo_id}: {_reason(error)}") from error
        logger.info("pushed %s to %s", folder, commit.repo_url)
        return str(commit.repo_url)


def open_hub(config: TrainingConfig) -> Hub | None:
    """The repository, made if need be; None unless --push_to_hub.

    Raises:
        ParameterError: there is no token, it may not write, or the hub cannot be reached; before any work is spent.
    """
    if not config.push_to_hub:
        return None
    token = get_token() if config.hub_token is None else config.hub_token.get_secret_value()
    if not token:
        raise ParameterError("hub_token", "be given, or HF_TOKEN set, or a login stored (hf auth login)", None)
    api = HfApi(token=token)
    name = config.hub_model_id or config.output_dir.resolve().name
    try:
        if _role(api.whoami()) == "read":
            raise ParameterError("hub_token", "be one that may write", "a token with the role read")
        repo = api.create_repo(name, private=config.hub_private_repo or None, exist_ok=True)
    except ParameterError:
        raise
    except Exception as error:  # as above, but nothing is lost yet
        raise ParameterError("push_to_hub", f"name a hub that answers ({_reason(error)})", name) from error
    return Hub(api, repo.repo_id)


def _role(identity: dict[str, Any]) -> str | None:
    """ "read", "write" or "fineGrained", as far as the hub tells."""
    return identity.get("auth", {}).get("accessToken", {}).get("role")


def _reason(error: Exception) -> str:
    """An error in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
