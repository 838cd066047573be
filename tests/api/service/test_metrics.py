"""What `/metrics` shows, and that dashboard and alerts use only that."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore
from jobs.database import transaction
from jobs.repository import SCHEDULER, ClaimRepository, HealthRepository
from tests.api.conftest import FILES

DOCKER = Path(__file__).parents[3] / "docker"
NAME = re.compile(r"\bsglp_[a-z0-9_]+")


def metrics_of(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Value by the sample's name and label values."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_requests_are_counted_by_route_and_never_by_what_was_made_up(client: httpx.Client) -> None:
    unknown = "job_" + "0" * 26
    for _ in range(3):
        client.get(f"/v1/jobs/{unknown}")
    client.request("NONSENSE", f"/{unknown}")
    values = metrics_of(client)
    assert values["sglp_http_requests_total", "GET", "/v1/jobs/{job_id}", "404"] == 3
    assert values["sglp_http_requests_total", "other", "none", "404"] == 1
    assert values["sglp_http_request_duration_seconds_count", "/v1/jobs/{job_id}"] == 3
    assert 0 < values["sglp_http_request_duration_seconds_sum", "/v1/jobs/{job_id}"] < 60
    assert unknown not in client.get("/metrics").text


def test_bytes_are_counted_where_they_are_stored_and_where_they_are_sent(
    client: httpx.Client, submit: Callable[[], str], finish: Callable[[str], None], store: ArtifactStore
) -> None:
    finish(job_id := submit())
    client.get(f"/v1/jobs/{job_id}/artifacts/report.json")
    tar = client.get(f"/v1/jobs/{job_id}/artifacts.tar")
    # Only asked about, which is no download.
    client.head(f"/v1/jobs/{job_id}/artifacts/report.json")
    redirects = store.signed_url("anything") is not None
    values = metrics_of(client)
    stored = sum(map(len, FILES.values()))
    assert values["sglp_artifact_stored_bytes_total",] == values["sglp_artifact_kept_bytes",] == stored
    assert values["sglp_artifact_served_bytes_total",] == len(tar.content) + (
        0 if redirects else len(FILES["report.json"])
    )
    assert values["sglp_artifact_downloads_total", "redirect"] == redirects
    assert values["sglp_artifact_downloads_total", "direct"] == 2 - redirects
    client.delete(f"/v1/jobs/{job_id}")
    values = metrics_of(client)
    assert (values["sglp_artifact_stored_bytes_total",], values["sglp_artifact_kept_bytes",]) == (stored, 0)


def test_parts_that_are_not_heard_of_are_not_healthy(client: httpx.Client, sessions: sessionmaker[Session]) -> None:
    with transaction(sessions) as session:
        HealthRepository(session).record(SCHEDULER, None)
    values = metrics_of(client)
    assert (values["sglp_part_healthy", "scheduler"], values["sglp_part_healthy", "broker"]) == (1, 0)


def test_a_phase_is_a_histogram(client: httpx.Client, sessions: sessionmaker[Session]) -> None:
    with transaction(sessions) as session:
        ClaimRepository(session).count_phases([("measuring", 0.5), ("measuring", 2), ("measuring", 1e6)])
    values = metrics_of(client)
    name = "sglp_phase_duration_seconds"
    buckets = [value for key, value in values.items() if key[0] == f"{name}_bucket" and "measuring" in key]
    assert buckets == [1, 2, 2, 2, 2, 2, 2, 2, 3]
    assert (values[f"{name}_sum", "measuring"], values[f"{name}_count", "measuring"]) == (pytest.approx(1000002.5), 3)


def expressions() -> list[str]:
    dashboard = json.loads((DOCKER / "grafana" / "sglp.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())
    return shown + [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]


def test_prometheus_takes_the_rules_and_every_question() -> None:
    alerts = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    # A comma in a flow mapping would make another annotation of what follows it, and Prometheus would not start.
    assert all(list(rule["annotations"]) == ["summary"] for rule in rules)
    assert all(re.fullmatch("[a-zA-Z_]+", label) for rule in rules for label in rule["labels"])
    for expression in expressions():
        promql_parser.parse(expression)
    with pytest.raises(ValueError, match="parenthesis"):
        promql_parser.parse("max by (state (sglp_jobs)")


def test_dashboard_and_alerts_ask_for_what_there_is(
    client: httpx.Client, sessions: sessionmaker[Session], submit: Callable[[], str]
) -> None:
    finished, waiting = submit(), submit()
    client.post(f"/v1/jobs/{finished}/cancel")
    assert waiting
    with transaction(sessions) as session:
        ClaimRepository(session).count_phases([("measuring", 1)])
    # Kinds of which a new service has none to show, so that there is no sample of them either.
    families = {f.name for f in text_string_to_metric_families(client.get("/metrics").text)}
    exposed = {name for name, *_ in metrics_of(client)} | families
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    assert len(asked) >= 15
    assert asked - exposed == set()
    # And the other way round: every metric is used.
    told_names = {name.removesuffix("_total") for name in families}
    assert told_names - {re.sub("_(total|bucket|sum|count)$", "", name) for name in asked} == set()
