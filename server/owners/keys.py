"""API keys and their holders: one from the settings, others from a file that is read again when it has changed."""

from __future__ import annotations

import logging
import time
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from token_diffusion.errors import ParameterError

from ..settings import KEY
from .owner import Owner

log = logging.getLogger(__name__)

CHECK_EVERY_S = 1.0
"""Seconds for which the file is taken to be as it was when somebody last looked."""

SINGLE = "api_key"
"""Name of the holder of the settings' one key."""


class _Entry(BaseModel):
    """What the file says of a key; the name of its table is the holder's."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    key: Annotated[str, StringConstraints(pattern=f"^{KEY.pattern}$")] | None = None
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$")] | None = None
    weight: float = Field(default=1.0, ge=1e-3, le=1e3)
    work_per_s: float | None = Field(default=None, gt=0)

    @property
    def digest(self) -> bytes:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("needs either key or sha256")
        return _digest(self.key) if self.key is not None else bytes.fromhex(self.sha256 or "")


_ENTRIES = TypeAdapter(dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")], _Entry])


class Keys:
    """Finds the holder of a key; looked up by digest, so that the time it takes tells nothing of the keys.

    Args:
        key: one that is valid beside those of the file.
        file: TOML with a table for each key, as `read_keys` describes; a new version that cannot be used leaves the
            former one in force, and one line in the log.

    Raises:
        ParameterError: the file cannot be used now.
    """

    def __init__(self, key: str | None = None, file: Path | None = None) -> None:
        self._single = {} if key is None else {_digest(key): Owner(f"key:{SINGLE}", SINGLE)}
        self._file = file
        self._version: object = _version(file)
        self._owners = self._read()
        self._checked = time.monotonic()

    def owner(self, key: str) -> Owner | None:
        """Who holds `key`, or None for one that nobody holds."""
        if self._file is not None and time.monotonic() - self._checked >= CHECK_EVERY_S:
            self._checked = time.monotonic()
            self._refresh()
        return self._owners.get(_digest(key))

    def _refresh(self) -> None:
        version = _version(self._file)  # before it is read: what changes meanwhile is seen the next time
        if version == self._version:
            return
        self._version = version
        try:
            self._owners = self._read()
        except ParameterError as error:
            log.error("the former API keys stay in force: %s", error)
        else:
            log.info("read %d API keys from %s", len(self._owners) - len(self._single), self._file)

    def _read(self) -> dict[bytes, Owner]:
        if self._file is None:
            return self._single
        owners = read_keys(self._file)
        taken = {owner.id for owner in owners.values()} & {owner.id for owner in self._single.values()}
        if taken or owners.keys() & self._single.keys():
            raise ParameterError("api_keys_file", f"leave the key and the name of {SINGLE} to it", str(self._file))
        return self._single | owners


def read_keys(file: Path) -> dict[bytes, Owner]:
    """SHA-256 of each key -> its holder, from TOML:

        [alice]
        key = "…"          # or sha256 = "…", its digest in hexadecimal
        weight = 2         # of alice's share beside the others', 1 without it
        work_per_s = 5000  # token passes a second that alice may ask for; no bound without it

    Raises:
        ParameterError: it cannot be read, or holds no key, or something else. No key is quoted.
    """

    def broken(reason: str) -> ParameterError:
        return ParameterError("api_keys_file", f"be TOML with a table for each key ({reason})", str(file))

    if file.is_fifo():  # it can be read but once, and opening it would wait for a writer, in the event loop
        raise broken("is a pipe")
    try:
        entries = _ENTRIES.validate_python(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise broken((error.strerror or str(error)).lower()) from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        raise broken(f"{ascii(where)[1:-1][:100]}: {first['msg']}") from None
    except ValueError as error:
        raise broken(str(error)) from None
    if not entries:
        raise broken("it has none")
    owners: dict[bytes, Owner] = {}
    for name, entry in entries.items():
        try:
            digest = entry.digest
        except ValueError as error:
            raise broken(f"{name} {error}") from None
        if digest in owners:
            raise broken(f"{name} has the key of {owners[digest].name}")
        owners[digest] = Owner(f"key:{name}", name, entry.weight, entry.work_per_s)
    return owners


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


def _version(file: Path | None) -> object:
    """Changes with the file; None where there is none."""
    try:
        status = file.stat() if file is not None else None
    except OSError:
        return None
    return status and (status.st_mtime_ns, status.st_size, status.st_ino)
