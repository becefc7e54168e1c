"""Models and tokenizers by name: a folder as it is, or a repository of the hub, fetched into the hub's own cache.

Of a repository nothing is fetched but weights, configurations and tokenizers: no code, and no pickle where there are safetensors.
Where the hub is (HF_ENDPOINT), where its files are kept (HF_HOME), who asks (HF_TOKEN) and whether anybody does (HF_HUB_OFFLINE)
is up to its own client.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import HFValidationError, validate_repo_id

from ...errors import ParameterError, in_short

logger = logging.getLogger(__name__)

TEXT = ("*.json", "*.txt", "*.model", "*.jinja", "README.md")
WEIGHTS, PICKLES = ("*.safetensors",), ("pytorch_model*.bin",)
FULL = (errno.ENOSPC, errno.EDQUOT)
"""What writing fails with, of no file by name; the network never does."""

PARTS = ("model", "tokenizer", "scheduler")
"""The subfolders that are read where a pipeline of diffusers was saved."""

REPOSITORY = re.compile(r"(?P<id>\w[\w.-]*(?P<owned>/[\w.-]+)?)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)


def local_folder(
    parameter: str,
    place: str | os.PathLike[str],
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    weights: bool = True,
    bare: bool = False,
    **options: Any,
) -> Path:
    """The folder `place`, or the one that the repository `place` of the hub is fetched into.

    A repository is `org/name` or `org/name@revision`. What the cache holds is used as it is if the hub cannot be reached.

    Args:
        parameter: what the user calls `place`.
        revision: a branch, tag or commit, if `place` names none.
        cache_dir: in the place of the hub's own cache.
        weights: fetch them; a tokenizer has none.
        bare: take a name without an organisation, such as gpt2, for a repository's, too.
        options: others of `snapshot_download`: token, force_download, local_files_only.

    Raises:
        ParameterError: neither a folder, nor a repository whose files are in the cache or can be fetched.
    """
    name = os.fspath(place)
    if os.path.exists(name):
        return Path(name)
    found = repository(name, bare=bare)
    if found is None:
        otherwise = ", or org/name or org/name@revision of the hub" if "://" in name else ""
        raise ParameterError(parameter, f"be an existing folder{otherwise}", name)
    repo_id, own = found
    if own is not None and revision not in (None, own):
        raise ParameterError(parameter, f"name the revision {revision!r}, or none", name)
    options |= {"repo_id": repo_id, "cache_dir": cache_dir, "revision": own or revision}
    try:
        return _fetched(weights, options)
    except Exception as error:  # the hub's client, and what it stands on, raise what they like
        rule = f"be an existing folder or a repository of the hub ({_reason(error, options)})"
        raise ParameterError(parameter, rule, name) from error


def tokenizer_folder(name: str | None) -> Path | None:
    """That of `--tokenizer_name`, if it is given. Raises `ParameterError`."""
    return None if name is None else local_folder("tokenizer_name", name, weights=False, bare=True)


def repository(name: str, *, bare: bool = False) -> tuple[str, str | None] | None:
    """Id and revision of a repository, if `name` looks like one's and there is nothing of that name here."""
    found = REPOSITORY.fullmatch(name)
    if found is None or not (bare or found["owned"]) or os.path.exists(name):
        return None
    try:
        validate_repo_id(found["id"])
    except HFValidationError:
        return None
    return found["id"], found["revision"]


def _fetched(weights: bool, options: dict[str, Any]) -> Path:
    """The snapshot's folder. Raises what the hub's client does."""
    unreachable = None if options.get("local_files_only") else _trouble(options)
    if unreachable is not None:
        options = options | {"local_files_only": True}
    else:
        logger.info("fetching of %s what is not in the cache", options["repo_id"])
    try:
        folder = _snapshot(weights, options)
    except LocalEntryNotFoundError:
        if unreachable is None:
            raise
        raise unreachable from None
    if unreachable is not None and not constants.HF_HUB_OFFLINE:
        logger.warning("%s is the cache's, as the hub cannot be asked: %s", options["repo_id"], in_short(unreachable))
    return folder


def _trouble(options: dict[str, Any]) -> Exception | None:
    """What keeps the hub from telling of the repository; its client would try for minutes.

    Raises:
        RevisionNotFoundError: it does tell, but of no such revision.
    """
    api = HfApi(token=options.get("token"))
    try:
        api.model_info(options["repo_id"], revision=options["revision"], timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except RevisionNotFoundError:
        raise
    except Exception as error:  # as above
        return error
    return None


def _snapshot(weights: bool, options: dict[str, Any]) -> Path:
    """Fetches the files that stand in the repository itself, and those of a pipeline's parts, all of one commit."""
    patterns = TEXT + WEIGHTS * weights
    folder = Path(snapshot_download(allow_patterns=list(patterns), ignore_patterns=["*/*"], **options))
    options = options | {"revision": folder.name}
    inside = [f"{part}/{{}}" for part in PARTS] if (folder / "model_index.json").is_file() else []
    if inside:
        snapshot_download(allow_patterns=[each.format(name) for each in inside for name in patterns], **options)
    if weights and not any(folder.rglob("*.safetensors")):
        pickles = [each.format(name) for each in ("{}", *inside) for name in PICKLES]
        snapshot_download(allow_patterns=pickles, ignore_patterns=None if inside else ["*/*"], **options)
    return folder


def _reason(error: Exception, options: dict[str, Any]) -> str:
    """Why there is no folder, in one line."""
    if isinstance(error, GatedRepoError):
        return "it is gated: its terms are to be accepted there, and HF_TOKEN to be set"
    if isinstance(error, RepositoryNotFoundError):
        return "there is none of that name, or none for this HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {options['revision'] or 'main'!r}"
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and the cache does not hold it, or not whole"
    if isinstance(error, OSError) and (error.filename is not None or error.errno in FULL):
        where = "" if error.filename is None else f": {str(error.filename)!r}"
        return f"its files cannot be kept: {error.strerror}{where}"
    told = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
    return f"the hub cannot be asked: {in_short(told or error)}"
