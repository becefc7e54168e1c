"""The compose files and the Dockerfile: every setting is handed on, all is bounded, what is installed is what is tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from server.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SERVICES = ["server", "server-gpu", "trainer", "trainer-gpu"]
VARIABLES = {f"TD_{name.upper()}" for name in Settings.model_fields}
HUB = {"HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"}
LISTS = ["server", "trainer", "tools"]


@pytest.mark.parametrize("name", ["server", "server-gpu"])
def test_every_setting_is_handed_on(name: str) -> None:
    """The image sets where it listens, and compose what of that is published."""
    assert sorted(COMPOSE["services"][name]["environment"]) == sorted(VARIABLES - {"TD_HOST", "TD_PORT"} | HUB)


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_fetched_of_a_hub_is_kept_where_who_runs_it_may_write(name: str) -> None:
    service = COMPOSE["services"][name]
    assert set(service["environment"]) >= HUB
    (home,) = re.findall(r"\bHF_HOME=(\S+)", DOCKERFILE)
    assert f"hub:{home}" in service["volumes"] and "hub" in COMPOSE["volumes"]
    (folders,) = re.findall(r"install --directory --owner=(\w+) --group=\w+ (.+)", DOCKERFILE)
    assert folders[0] in re.findall(r"^USER (\w+)", DOCKERFILE, re.MULTILINE) and home in folders[1].split()
    assert "HF_HUB_OFFLINE=" not in DOCKERFILE


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_bounded_and_has_no_rights(name: str) -> None:
    service = COMPOSE["services"][name]
    assert {"mem_limit", "cpus", "pids_limit", "logging"} <= set(service)
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["build"]["target"] in re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert set(service["build"]["args"]) <= set(re.findall(r"^ARG (\w+)=", DOCKERFILE, re.MULTILINE))


def test_ports_are_published_on_this_machine_alone() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_a_server_is_given_longer_to_stop_than_it_gives_its_requests() -> None:
    assert int(COMPOSE["x-server"]["stop_grace_period"].removesuffix("s")) > Settings().shutdown_grace_s + 3


def test_keys_come_from_a_secret_that_is_there() -> None:
    keys = yaml.safe_load((ROOT / "deploy/compose.keys.yml").read_text(encoding="utf-8"))
    assert set(keys["services"]) == {"server", "server-gpu"} <= set(COMPOSE["services"])
    for service in keys["services"].values():
        (secret,) = service["secrets"]
        assert service["environment"]["TD_API_KEYS_FILE"] == f"/run/secrets/{secret}"
        assert secret in keys["secrets"]


def pins(path: str) -> dict[str, str]:
    """name -> version of a list of requirements, whose hashes it checks."""
    found: dict[str, str] = {}
    for entry in re.findall(r"^\w[^\n]*(?:\n +[^\n]*)*", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE):
        requirement, *hashes = entry.replace("\\\n", " ").split()
        assert path == "constraints.txt" or hashes, f"{path}: {requirement} has no hash"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", text) for text in hashes), entry
        name, _, version = requirement.partition("==")
        found[canonicalize_name(name)] = version
    return found


def dependencies(*extras: str) -> set[str]:
    """Names of what pyproject.toml asks for."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(line).name) for line in asked}


@pytest.mark.parametrize("name", LISTS)
def test_what_the_images_install_is_what_is_tested(name: str) -> None:
    """Renewed by `make lock`."""
    found, tested = pins(f"requirements/{name}.txt"), pins("constraints.txt")
    assert {each: version for each, version in found.items() if tested.get(each) != version} == {}
    if name != "tools":
        assert dependencies(name) - set(found) == {"torch"}
    assert f"requirements/{name}.txt" in DOCKERFILE
