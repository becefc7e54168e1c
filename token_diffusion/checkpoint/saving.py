"""A folder is written."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..diffusion.scheduler import TokenDiffusionScheduler
from ..facts import Facts


class Saved(Protocol):
    """What writes weights into a folder: a model, or adapters of one."""

    def save_pretrained(self, folder: Any, state_dict: Any = None) -> Any: ...


def save_checkpoint(
    folder: str | os.PathLike[str],
    model: PreTrainedModel | Saved,
    tokenizer: PreTrainedTokenizerBase,
    scheduler: TokenDiffusionScheduler,
    *,
    facts: Facts | None = None,
    card: str | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
    write_more: Callable[[Path], None] | None = None,
    max_shard_size: str | None = None,
) -> None:
    """Writes the folder whole or not at all: beside its place first, then renamed; what was there before is replaced.
    Where `folder` is a link, all of this is done to what it leads to.

    Args:
        facts: what is known of the training sequences; without it the folder says nothing of them.
        card: the text of its README.md.
        state_dict: the weights to save; without it those that `model` holds.
        write_more: adds files to the folder that it is given, before that gets its name.
        max_shard_size: of a file of weights, `5GB` for one; without it transformers decides.

    Raises:
        OSError: it cannot be written, or somebody else is writing it.
    """
    target = Path(os.path.realpath(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    sizes: dict[str, Any] = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    with _of_our_own(fresh):
        model.save_pretrained(fresh, state_dict=None if state_dict is None else dict(state_dict), **sizes)
        for how_it_was_loaded in ("is_local", "local_files_only"):
            tokenizer.init_kwargs.pop(how_it_was_loaded, None)
        tokenizer.save_pretrained(fresh)
        scheduler.save_pretrained(fresh)
        if facts is not None:
            facts.write(fresh)
        if card is not None:
            (fresh / "README.md").write_text(card, encoding="utf-8")
        if write_more is not None:
            write_more(fresh)
        for file in filter(Path.is_file, fresh.rglob("*")):
            file.chmod(0o644)  # safetensors writes for the owner alone, but whoever serves may be another user
            with file.open("rb") as opened:
                os.fsync(opened.fileno())  # a name must not outlive a power cut that its contents did not
        shutil.rmtree(old, ignore_errors=True)  # of a process that was killed
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _of_our_own(folder: Path) -> Iterator[None]:
    """A new folder, in the place of one that a killed process has left; gone again if something fails in here."""
    with suppress(FileNotFoundError), _locked(folder):
        shutil.rmtree(folder)
    folder.mkdir()
    with _locked(folder):
        try:
            yield
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """In here nobody else has it, which any end of a process undoes. Raises BlockingIOError if somebody has."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, "another process is writing it", str(folder)) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(opened)
