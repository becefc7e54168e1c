"""Text files that are whole or not there, and folders that can be written to."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

from token_diffusion.errors import ParameterError


def check_output_dir(folder: Path) -> None:
    """Makes the folder and proves that it can be written to, before any work is spent. Raises `ParameterError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ParameterError("output_dir", f"be a writable folder ({error.strerror})", str(folder)) from error


def check_writable(path: Path) -> None:
    """Proves that `write_whole` can write here, and leaves nothing behind. Raises `OSError`."""
    if path.exists():
        with path.open("a"):
            pass
    if not _is_special(path):
        with TemporaryFile(dir=path.parent):
            pass


def write_whole(path: Path, text: str) -> None:
    """Writes the file beside its place first, then renames: what was there before is replaced. Raises `OSError`."""
    if _is_special(path):
        path.write_text(text, encoding="utf-8")
        return
    unfinished = path.with_name(f".{path.name}.new")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def _is_special(path: Path) -> bool:
    """Whether it has to stay what it is, as /dev/stdout has."""
    return path.is_symlink() or (path.exists() and not path.is_file())
