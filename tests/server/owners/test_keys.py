from __future__ import annotations

import logging
import os
from hashlib import sha256
from pathlib import Path

import pytest

import server.owners.keys
from server.owners.keys import Keys, read_keys
from server.owners.owner import Owner
from token_diffusion.errors import ParameterError

ALICE, BOB = '[alice]\nkey = "a-key"\n', '[bob]\nkey = "b-key"\n'


def digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(server.owners.keys, "CHECK_EVERY_S", 0.0)
    return tmp_path / "keys.toml"


def test_a_file_names_the_holders_of_keys(file: Path) -> None:
    by_digest = f'[bob]\nsha256 = "{digest("b-key").hex().upper()}"\nwork_per_s = 50.5\n'
    file.write_text(ALICE + "weight = 2\n" + by_digest)
    assert read_keys(file) == {
        digest("a-key"): Owner("key:alice", "alice", 2.0, None),
        digest("b-key"): Owner("key:bob", "bob", 1.0, 50.5),
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it has none"),
        ("[alice", r"Expected '\]' .*at end of document"),
        (ALICE + ALICE, r"Cannot declare \('alice',\) twice.*"),
        ("alice = 1", "alice: .*_Entry"),
        ("[alice]", "alice needs either key or sha256"),
        (ALICE + f'sha256 = "{"0" * 64}"', "alice needs either key or sha256"),
        ('[alice]\nkey = ""', "alice.key: String should match .*"),
        ('[alice]\nkey = "two words"', "alice.key: String should match .*"),
        ("[alice]\nkey = 5", "alice.key: Input should be a valid string"),
        ('[alice]\nsha256 = "5"', "alice.sha256: String should match .*"),
        (ALICE + "weight = 0", "alice.weight: Input should be greater than or equal to 0.001"),
        (ALICE + "weight = inf", "alice.weight: .*"),
        (ALICE + "work_per_s = -1", "alice.work_per_s: Input should be greater than 0"),
        (ALICE + "rate = 1", "alice.rate: Extra inputs are not permitted"),
        ('["a\\u001b b"]\nkey = "k"', r"a.+x1b b: String should match .*"),
        (ALICE + '[bob]\nkey = "a-key"', "bob has the key of alice"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_and_no_key(file: Path, text: str, reason: str) -> None:
    file.write_text(text)
    with pytest.raises(
        ParameterError, match=rf"^api_keys_file must be TOML with a table for each key \({reason}\)"
    ) as no:
        Keys(None, file)
    message = str(no.value)
    assert message.endswith(f"got {str(file)!r}")
    assert message.isprintable() and "a-key" not in message and "two words" not in message


def test_a_file_that_cannot_be_read_is_one_line(file: Path) -> None:
    with pytest.raises(ParameterError, match=r"\(no such file or directory\), got"):
        Keys(None, file)
    with pytest.raises(ParameterError, match=r"\(is a directory\), got"):
        Keys(None, file.parent)
    file.write_bytes(b"\xff")
    with pytest.raises(ParameterError, match=r"\('utf-8' codec can't decode"):
        Keys(None, file)


def test_a_pipe_is_refused_and_not_waited_for(file: Path) -> None:
    file.write_text(ALICE)
    keys = Keys(file=file)
    file.unlink()
    os.mkfifo(file)
    assert keys.owner("a-key") == Owner("key:alice", "alice")
    with pytest.raises(ParameterError, match="is a pipe"):
        read_keys(file)


def test_one_key_beside_those_of_a_file(file: Path) -> None:
    file.write_text(ALICE)
    keys = Keys("mine", file)
    assert keys.owner("mine") == Owner("key:api_key", "api_key")
    assert keys.owner("a-key") == Owner("key:alice", "alice")
    assert keys.owner("a-ke") is keys.owner("") is keys.owner("alice") is None
    for text in ('[api_key]\nkey = "other"', '[alice]\nkey = "mine"'):
        file.write_text(text)
        with pytest.raises(ParameterError, match="api_keys_file must leave the key and the name of api_key to it"):
            Keys("mine", file)


def test_a_new_version_is_read_and_a_broken_one_changes_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "server")
    file.write_text(ALICE)
    keys = Keys(None, file)
    assert keys.owner("b-key") is None

    file.write_text(ALICE + BOB)
    assert keys.owner("b-key") == Owner("key:bob", "bob")
    assert caplog.messages == [f"read 2 API keys from {file}"]

    caplog.clear()
    file.write_text(BOB + "[alice")
    assert keys.owner("a-key") and keys.owner("b-key")
    file.unlink()
    assert keys.owner("a-key") and keys.owner("b-key")
    assert len(caplog.messages) == 2  # one for each version, however often a key is asked for
    assert all(
        message.startswith("the former API keys stay in force: api_keys_file must") for message in caplog.messages
    )
    assert "b-key" not in caplog.text

    replacement = file.with_suffix(".new")  # as a secret is changed that is mounted
    replacement.write_text(BOB)
    os.replace(replacement, file)
    assert keys.owner("b-key") and keys.owner("a-key") is None


def test_the_file_is_looked_at_once_in_a_while(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.owners.keys, "CHECK_EVERY_S", 3600.0)
    file.write_text(ALICE)
    keys = Keys(None, file)
    file.write_text(BOB)
    assert keys.owner("a-key") and keys.owner("b-key") is None
    monkeypatch.setattr(server.owners.keys, "CHECK_EVERY_S", 0.0)
    assert keys.owner("b-key") and keys.owner("a-key") is None
