"""Dashboard, alerts and scrape config name what a live server exports, and the compose profile what is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from server.errors import crowded, overloaded
from server.telemetry.metrics import REASONS
from tests.live_server import LiveServer

pytest_plugins = ["tests.server_fixtures"]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "monitoring"
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in read("alerts.yml")["groups"] for rule in group["rules"]]


DASHBOARD = [target["expr"] for panel in panels() for target in panel["targets"]]
ALERTS = [rule["expr"] for rule in rules()]


def named(expressions: list[str]) -> set[str]:
    return set(re.findall(r"\b(?:td|process)_\w+", " ".join(expressions)))


@pytest.fixture(scope="module")
def exported(live: LiveServer) -> dict[str, set[str]]:
    """family -> names of its series."""
    families = text_string_to_metric_families(live.get("/metrics").text)
    return {family.name: {family.name + suffix for suffix in SUFFIXES[family.type]} for family in families}


@pytest.mark.parametrize("expressions", [DASHBOARD, ALERTS], ids=["dashboard", "alerts"])
def test_every_metric_that_is_asked_for_is_exported(exported: Mapping[str, set[str]], expressions: list[str]) -> None:
    assert len(named(expressions)) > 10
    assert named(expressions) <= set().union(*exported.values())


def test_every_metric_of_ours_is_on_the_dashboard(exported: Mapping[str, set[str]]) -> None:
    ours = {family: names for family, names in exported.items() if family.startswith("td_")}
    assert len(ours) > 20
    assert [family for family, names in ours.items() if not names & named(DASHBOARD)] == []


def test_reasons_and_outcomes_are_those_of_the_server() -> None:
    text = " ".join(ALERTS + DASHBOARD)
    types = {error(1).event.error.type for error in (overloaded, crowded)}
    assert set(re.findall(r'reason="(\w+)"', text)) <= set(REASONS.values()) | types
    assert set(re.findall(r'outcome="(\w+)"', text)) <= {"done", "left", "internal", "timeout"}


def test_panels_ask_the_chosen_source_and_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["description"] and panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
        at = panel["gridPos"]
        cells = {(at["x"] + column, at["y"] + row) for column in range(at["w"]) for row in range(at["h"])}
        assert not cells & taken and max(column for column, _ in cells) < 24
        taken |= cells


def test_alerts_say_how_bad_and_what() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules()) >= 8
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]


def test_the_profile_is_pinned_local_and_finds_its_files() -> None:
    compose = read("compose.yml")
    main = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert "deploy/monitoring/compose.yml" in main["include"]
    (job,) = read("prometheus.yml")["scrape_configs"]
    mounted = set()
    for service in compose["services"].values():
        assert service["profiles"] == ["monitoring"]
        assert re.fullmatch(r"\w+/\w+:v?\d+\.\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            source, target = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[:2]
            mounted.add(target)
            assert (FOLDER / source).is_file() if source.startswith("./") else source in compose["volumes"]
    assert job["authorization"]["credentials_file"] in mounted
    assert [name for discovery in job["dns_sd_configs"] for name in discovery["names"]] == ["server"]
    assert "server" in main["services"]
    assert read("grafana/dashboards.yml")["providers"][0]["options"]["path"] + "/token-diffusion.json" in mounted


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Prometheus")
def test_alerts_fire_where_they_should() -> None:
    result = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"], cwd=FOLDER, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
