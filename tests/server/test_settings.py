from __future__ import annotations

from pathlib import Path

import pytest

import server.settings
from server.settings import Settings, read_settings
from token_diffusion.errors import ParameterError


def test_a_flag_beats_the_environment_and_that_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings([]).max_seq_len == 1024
    monkeypatch.setenv("TD_MAX_SEQ_LEN", "7")
    assert read_settings([]).max_seq_len == 7
    assert read_settings(["--max_seq_len", "8"]).max_seq_len == 8
    monkeypatch.setenv("TD_MAX_SEQ_LEN", "")
    assert read_settings([]).max_seq_len == 1024


def test_every_setting_is_a_flag_and_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "checkpoint_path": "a/b",
        "checkpoint": "x=c,y=d",
        "tokenizer_name": "words,x=others",
        "host": "0.0.0.0",
        "port": "1",
        "device": "cpu",
        "dtype": "bfloat16",
        "backend": "openvino",
        "num_threads": "2",
        "max_batch_tokens": "3000",
        "determinism": "exact",
        "max_request_work": "11",
        "max_outstanding_s": "12.5",
        "max_outstanding_work": "13",
        "max_resident_tokens": "14",
        "max_seq_len": "5",
        "max_num_inference_steps": "6",
        "max_num_samples": "7",
        "max_num_texts": "17",
        "max_num_times": "18",
        "max_body_bytes": "8",
        "request_timeout_s": "9.5",
        "reattach_s": "11",
        "shutdown_grace_s": "10",
        "stall_s": "11",
        "max_connections": "11",
        "header_timeout_s": "12",
        "body_timeout_s": "13",
        "send_timeout_s": "14",
        "keep_alive_s": "15",
        "api_key": "secret",
        "api_keys_file": "keys.toml",
        "allow_anonymous": "true",
        "trusted_proxies": "10.0.0.0/8,::1",
        "root_path": "/models",
        "cors_origins": "http://a,http://b",
        "pages": "false",
        "instance": "a1",
        "log_level": "debug",
        "log_format": "json",
    }
    assert set(values) == set(Settings.model_fields)
    flags = {"true": "--{name}", "false": "--no-{name}"}
    by_flag = read_settings(
        [flags.get(value, "--{name}={value}").format(name=name, value=value) for name, value in values.items()]
    )
    for name, value in values.items():
        monkeypatch.setenv(f"TD_{name.upper()}", value)
    assert read_settings([]) == by_flag
    assert by_flag.checkpoint == {"x": "c", "y": "d"}
    assert by_flag.cors_origins == ["http://a", "http://b"]
    assert "secret" not in repr(by_flag)
    default = Settings.model_construct()
    assert all(getattr(by_flag, name) != getattr(default, name) for name in values)


@pytest.mark.parametrize("key", ["", " ", "two words", "caf\u00e9", "a\tb"])
def test_a_key_that_would_guard_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    rule = "api_key: must be one or more printable ASCII characters, none of them a space"
    with pytest.raises(ValueError, match=f"^{rule}$"):
        read_settings([f"--api_key={key}"])
    monkeypatch.setenv("TD_API_KEY", key)
    with pytest.raises(ValueError, match=f"^{rule}$"):
        read_settings([])
    monkeypatch.delenv("TD_API_KEY")
    monkeypatch.setenv("TD_API_KEYS_FILE", "")
    with pytest.raises(ValueError, match=r"^api_keys_file: must be the path of a file, got ''$"):
        read_settings([])


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "::ffff:127.0.0.1", "10.0.0.1", "example.org", "127.0.0.1.example.org"]
)
def test_beyond_this_machine_there_is_a_key_or_the_word_for_none(host: str) -> None:
    with pytest.raises(
        ValueError, match=r"host must be .* without api_key and api_keys_file, unless allow_anonymous"
    ) as no:
        read_settings(["--host", host])
    assert str(no.value).endswith(f"is set, got {host!r}")
    for way_out in ("--allow_anonymous", "--api_key=k", "--api_keys_file=keys.toml"):
        assert read_settings(["--host", host, way_out]).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_this_machine_no_key_is_needed(host: str) -> None:
    assert not read_settings(["--host", host]).is_guarded


def test_checkpoints_by_flag() -> None:
    arguments = ["--checkpoint", "a=/x", "--checkpoint", "b=y", "--checkpoint_path", "/models/final"]
    folders = read_settings(arguments).checkpoint_places()
    assert list(folders.items()) == [("final", "/models/final"), ("a", "/x"), ("b", "y")]


def test_repositories_of_a_hub_by_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [
        "--checkpoint",
        "a=org/one@v1",
        "--checkpoint",
        "b=./org/two",
        "--checkpoint_path",
        "org/three@refs/pr/1",
    ]
    places = read_settings(arguments).checkpoint_places()
    assert places == {"three": "org/three@refs/pr/1", "a": "org/one@v1", "b": "./org/two"}
    (tmp_path / "org/three@main").mkdir(parents=True)
    assert read_settings(["--checkpoint_path", "org/three@main"]).checkpoint_places() == {
        "three@main": "org/three@main"
    }


def test_tokenizers_for_all_and_for_one_by_flag() -> None:
    arguments = ["--checkpoint", "a=/x", "--tokenizer_name", "gpt2", "--tokenizer_name", "a=/words"]
    assert read_settings(arguments).tokenizer_name == {"": "gpt2", "a": "/words"}
    with pytest.raises(ValueError, match=r"tokenizer_name: must be one for all .*, got \['gpt2', 'bert'\]"):
        read_settings(["--tokenizer_name", "gpt2", "--tokenizer_name", "bert"])
    with pytest.raises(ParameterError, match=r"tokenizer_name must be of a checkpoint \(a\), got 'b'"):
        read_settings(["--checkpoint", "a=/x", "--tokenizer_name", "b=/words"]).checkpoint_places()


def test_two_checkpoints_of_one_name_are_refused() -> None:
    with pytest.raises(ParameterError, match="checkpoint must not use the name"):
        read_settings(["--checkpoint", "final=/x", "--checkpoint_path", "y/final"]).checkpoint_places()


def test_without_a_checkpoint_the_demos_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.settings, "DEMO_FOLDER", tmp_path)
    with pytest.raises(ParameterError, match="checkpoint_path must be given"):
        Settings().checkpoint_places()
    processes = {"ape": "hybrid", "broken": None, "cow": "uniform", "yak": "absorbing", "zebra": "absorbing"}
    for name, process in processes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "scheduler_config.json").write_text(
            f'{{"forward_process": "{process}"}}' if process else "{"
        )
    (tmp_path / "unfinished").mkdir()
    found = {name: Path(place) for name, place in Settings().checkpoint_places().items()}
    assert list(found.items()) == [(name, tmp_path / name) for name in ("yak", "zebra", "cow", "ape", "broken")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_seq_len", "0"], "max_seq_len: Input should be greater than or equal to 1, got '0'"),
        (["--port", "many"], "port: Input should be a valid integer, .*, got 'many'"),
        (["--request_timeout_s", "nan"], "request_timeout_s: .*finite.*, got 'nan'"),
        (["--dtype", "int3"], "dtype: .*float32.*, got 'int3'"),
        (["--checkpoint", "folder"], "checkpoint: must be NAME=DIR, got 'folder'"),
        (["--checkpoint", "a=x", "--checkpoint", "a=y"], "checkpoint: must name each checkpoint once"),
        (
            ["--trusted_proxies", "10.0.0.1/8"],
            "trusted_proxies: must be addresses or networks .*host bits.*'10.0.0.1/8'",
        ),
        (["--trusted_proxies", "*"], r"trusted_proxies: must be addresses or networks .*, got '\*'"),
        (["--root_path", "/a/"], "root_path: must be a path such as .*, got '/a/'"),
        (["--root_path", "a"], "root_path: must be a path such as .*, got 'a'"),
        (["--max_batch_rows", "64"], "max_batch_rows is no setting any more; any number of rows .* max_batch_tokens"),
        (["--max_waiting=64"], "max_waiting is no setting any more; max_outstanding_s or max_outstanding_work"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--port"], "--port: expected one argument"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_settings(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["TD_MAX_BATCH_ROWS", "td_max_waiting"])
def test_a_variable_of_a_setting_that_is_gone_is_not_overlooked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "64")
    for make in (Settings, lambda: read_settings([])):
        with pytest.raises(ValueError, match="is no setting any more"):
            make()


def test_settings_are_frozen_and_know_their_fields() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1
    with pytest.raises(ValueError, match="Extra inputs"):
        Settings(max_seq_length=1)  # type: ignore[call-arg]


def test_the_log_level_may_be_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TD_LOG_LEVEL", "INFO")
    assert Settings().log_level == "info"
