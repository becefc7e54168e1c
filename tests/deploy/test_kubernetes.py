"""deploy/kubernetes: as Kubernetes' own schemas want it, and about a server that there is."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.app import create_app
from server.settings import Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
COMPOSE = FOLDER.parent / "compose.scale.yml"

OLDEST = "1.29"
"""Version of Kubernetes that the manifests are checked for, besides the newest whose schema is installed."""


def documents(*names: str) -> Iterator[dict[str, Any]]:
    for name in names:
        yield from yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))


def resource(kind: str) -> dict[str, Any]:
    kustomization = next(documents("kustomization.yaml"))
    (found,) = (each for each in documents(*kustomization["resources"]) if each["kind"] == kind)
    return found


def container() -> dict[str, Any]:
    (only,) = resource("Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def settings() -> dict[str, str]:
    lines = (FOLDER / "settings.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize(
    "file", sorted(set(FOLDER.glob("*.yaml")) - {FOLDER / "kustomization.yaml", FOLDER / "keda.yaml"})
)
def test_manifests_fit_the_schemas_of_kubernetes(file: Path) -> None:
    checker = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for version in (OLDEST, checker.latest_version()):
        for document in documents(file.name):
            checker.validate(document, version, strict=True)
    with pytest.raises(checker.ValidationError):
        checker.validate(document | {"specification": {}}, OLDEST, strict=True)


def test_every_file_is_a_resource_or_one_of_two_that_exclude_each_other() -> None:
    kustomization = next(documents("kustomization.yaml"))
    others = {"kustomization.yaml", "hpa.yaml", "keda.yaml"}
    assert {*kustomization["resources"], *others} == {file.name for file in FOLDER.glob("*.yaml")}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_puts_them_together() -> None:
    command = ["kubectl", "kustomize", str(FOLDER)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    built = {document["kind"]: document for document in yaml.safe_load_all(out)}
    (only,) = built["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert only["envFrom"] == [{"configMapRef": {"name": built["ConfigMap"]["metadata"]["name"]}}]
    assert built["ConfigMap"]["data"] == settings()


def test_settings_are_the_servers_own() -> None:
    given = {*settings(), *(variable["name"] for variable in container()["env"])}
    compose = COMPOSE.read_text(encoding="utf-8").replace("!reset ", "")
    given |= set(yaml.safe_load(compose)["services"]["server"]["environment"])
    assert given <= {f"TD_{name.upper()}" for name in Settings.model_fields}


def test_probes_ask_for_endpoints_at_the_port_where_the_server_listens() -> None:
    paths = create_app(Settings()).openapi()["paths"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"]["path"] in paths
    assert [port["containerPort"] for port in container()["ports"]] == [int(settings()["TD_PORT"])]
    assert settings()["TD_HOST"] == "0.0.0.0"


def test_a_pod_may_take_as_long_to_stop_as_its_server() -> None:
    pod = resource("Deployment")["spec"]["template"]["spec"]
    (*_, code) = container()["lifecycle"]["preStop"]["exec"]["command"]
    pause = float(code.partition("sleep(")[2].rstrip(")"))
    assert pod["terminationGracePeriodSeconds"] >= pause + float(settings()["TD_SHUTDOWN_GRACE_S"]) + 5


def test_threads_follow_the_limit_and_labels_select_the_pods() -> None:
    assert container()["resources"]["limits"]["cpu"] == settings()["TD_NUM_THREADS"]
    labels = resource("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert resource("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert resource("Service")["spec"]["selector"] == labels
    assert resource("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert resource("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
