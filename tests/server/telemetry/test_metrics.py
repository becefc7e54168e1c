from __future__ import annotations

from server.owners.owner import Owner
from server.telemetry.metrics import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_holders_of_keys_are_counted_by_name_and_addresses_are_not() -> None:
    metrics = Metrics()
    for owner in (Owner("key:alice", "alice"), Owner("key:alice", "alice"), Owner("address:10.0.0.1", "10.0.0.1")):
        metrics.answered("/sample", "demo", owner.key_name, "done")
        metrics.finished("demo", owner.key_name, 1500, tokens=64, nfe=40, skipped=24)
    assert value(metrics, "td_owner_requests_total", owner="alice", outcome="done") == 2
    assert value(metrics, "td_owner_tokens_total", owner="alice") == 128
    assert value(metrics, "td_tokens_total", model="demo") == 192
    assert value(metrics, "td_e2e_request_latency_seconds_sum", model="demo") == 4.5
    owners = {sample.labels.get("owner") for family in metrics.registry.collect() for sample in family.samples}
    assert owners == {None, "alice"}


def test_a_step_is_three_histograms() -> None:
    metrics = Metrics()
    metrics.step(0.02, rows=3, tokens=96)
    metrics.step(0.2, rows=65, tokens=3000)
    assert value(metrics, "td_step_duration_seconds_bucket", le="0.025") == 1
    assert value(metrics, "td_step_batch_size_bucket", le="64.0") == 1
    assert value(metrics, "td_step_batch_size_sum") == 68
    assert value(metrics, "td_step_tokens_sum") == 3096
