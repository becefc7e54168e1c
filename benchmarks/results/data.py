"""The texts and molecules that the tables are made from: what each is, where it comes from, and that it is the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from token_diffusion.errors import ParameterError

MD5 = {
    "gutenberg-simple/train.txt": "ce1845d5a09b58f9386ec336b019621a",
    "gutenberg-simple/valid.txt": "45c6bf175fe230766303d9b0e9047422",
    "gutenberg-simple/test.txt": "30637a0031e5ec354570aa30514a3ae6",
    "storybooks-ccby/train.txt": "5cff48bc27f3214518bb2d299b588658",
    "storybooks-ccby/valid.txt": "3cad9208d8eb3c03dad703e4ab38c0fd",
    "storybooks-ccby/test.txt": "80036f6f427b913a4846601d53c79736",
    "tatoeba-english/train.txt": "656a116a3a19b40147fcc8fc4e31520e",
    "tatoeba-english/valid.txt": "f4be7f94e4b9b7b173470b5765ae6df7",
    "tatoeba-english/test.txt": "13d4addd8e62e2b54c63721e2c262fa0",
    "wikitext-2/train.txt": "c311e632ddd73dad465aab3237e77095",
    "wikitext-2/valid.txt": "d756d22ab2310e7e60c094bea5c5a8eb",
    "wikitext-2/test.txt": "781c9418ab9414bd09e4aad825aae752",
    "qm9/train.txt": "1043d2756391406d914a1c6eb6943809",
    "qm9/valid.txt": "d7d6d9068879c0ddaefbeb844da1b230",
    "qm9/test.txt": "7a0d2d1ba8b0db3424ac82d8b571f4c4",
    "qm9/qm9.tsv": "3a7e1489bb3f1511a0fefa1cf47834c4",
}
"""Of the files that the published figures come from; docs/results.md names their sources and how they were cleaned."""


@dataclass(frozen=True)
class Data:
    """A folder with the files of `MD5` in it."""

    root: Path

    def file(self, name: str) -> Path:
        """Its path. Raises `ParameterError` where it is missing or holds anything else."""
        path = self.root / name
        if not path.is_file():
            raise ParameterError("data", f"hold {name} (docs/results.md says where it comes from)", str(self.root))
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if found != MD5[name]:
            raise ParameterError("data", f"hold {name} with the md5 sum {MD5[name]}, as the published figures", found)
        return path

    def files(self, *names: str) -> list[Path]:
        return [self.file(name) for name in names]
