"""Every manifest is one that a cluster takes, with every file of values, in the oldest and the newest version."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus

from tests.deploy.chart import CHART, EVERYTHING, VALUES, Manifest, helm, of_kind, rendered

CUSTOM = {"keda.sh/v1alpha1": keda, "monitoring.coreos.com/v1": prometheus}
# `kubeVersion` in Chart.yaml, and the newest that there are schemas of.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]


@cache
def custom_schema(version: str, kind: str) -> Any:
    """A validator that allows no other members, as the API server allows none."""
    schema = getattr(CUSTOM[version], kind).model_json_schema()
    _close(schema)
    return jsonschema_rs.validator_for(schema)


def _close(schema: Any) -> None:
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            _close(part)
    elif isinstance(schema, list):
        for part in schema:
            _close(part)


def check(manifest: Manifest, version: str) -> None:
    if manifest["apiVersion"] in CUSTOM:
        custom_schema(manifest["apiVersion"], manifest["kind"]).validate(manifest)
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_the_linter_of_helm_finds_nothing(values: Path) -> None:
    completed = helm("lint", "--strict", "--quiet", CHART, "--values", values)
    assert (completed.returncode, completed.stdout.strip()) == (0, ""), completed.stdout


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_every_manifest_is_valid(values: Path, version: str) -> None:
    for manifest in rendered(values):
        check(manifest, version)


def test_the_examples_have_every_kind_of_manifest() -> None:
    assert {manifest["kind"] for manifest in rendered(EVERYTHING)} == {
        "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "Ingress", "ServiceMonitor", "Job",
        "NetworkPolicy", "ScaledJob", "TriggerAuthentication",
    }  # fmt: skip


def test_a_member_that_no_schema_has_is_noticed() -> None:
    for kind, error in (
        ("Deployment", kubernetes_validate.ValidationError),
        ("ScaledJob", jsonschema_rs.ValidationError),
        ("ServiceMonitor", jsonschema_rs.ValidationError),
    ):
        manifest = copy.deepcopy(next(iter(of_kind(kind, rendered(EVERYTHING)).values())))
        manifest["spec"]["replica"] = 2
        with pytest.raises(error):
            check(manifest, VERSIONS[-1])
