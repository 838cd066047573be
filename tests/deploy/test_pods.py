"""What every pod of the chart may do, what it gets to know, and how long it may take to end."""

import json
import os
import re
import textwrap
from typing import Any

import pytest

from api.__main__ import GRACE_SECONDS
from jobs.settings import Settings
from tests.deploy.chart import CHART, EVERYTHING, VALUES, environment, helm, of_kind, pods, rendered

COMPONENTS = {"api", "worker", "scheduler", "migration"}
# What the chart or the images say themselves.
FIXED = {
    "state_dir", "database_url", "broker_url", "artifact_url", "artifact_options", "secret_keys", "sources",
    "output_destinations", "model_roots", "cache_dir", "work_dir", "gpu_class", "gpu_classes", "worker_idle_seconds",
    "worker_max_jobs", "host", "port", "require_keys",
}  # fmt: skip
# What the secrets that the chart refers to could hold.
SECRETS = {
    "SGLP_DATABASE_URL": "postgresql+psycopg://u:p@host/d",
    "SGLP_BROKER_URL": "redis://:p@host:6379/0",
    "SGLP_ARTIFACT_OPTIONS": '{"access_key_id": "a"}',
    "SGLP_SECRET_KEYS": '["' + "A" * 43 + '="]',
    "SGLP_SOURCES": '{"hf://": {"token": "hf_x"}}',
    "SGLP_OUTPUT_DESTINATIONS": "[]",
}


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_every_pod_is_restricted(values: Any) -> None:
    found = list(pods(rendered(values)))
    assert {component for component, _ in found} == COMPONENTS
    for component, template in found:
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False, component
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"}
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"], component
        assert not [port for port in container.get("ports", []) if "hostPort" in port]


def test_no_manifest_has_a_secret_value() -> None:
    secret = {f"SGLP_{name.upper()}" for name, field in Settings.model_fields.items() if not field.repr}
    assert len(secret) > 5
    assert of_kind("Secret", rendered()) == {}
    for component, template in pods(rendered()):
        for name, variable in environment(template).items():
            assert ("value" in variable) == (name not in secret), (component, name)


def test_every_process_gets_the_secrets_that_it_needs_and_no_other() -> None:
    got: dict[str, set[str]] = {}
    for component, template in pods(rendered()):
        names = {name for name, variable in environment(template).items() if "valueFrom" in variable}
        got.setdefault(component, names)
        assert got[component] == names
    assert got == {
        "api": SECRETS.keys() - {"SGLP_BROKER_URL"},
        "worker": SECRETS.keys() - {"SGLP_SECRET_KEYS"},
        "scheduler": SECRETS.keys() - {"SGLP_SOURCES", "SGLP_OUTPUT_DESTINATIONS"},
        "migration": {"SGLP_DATABASE_URL", "SGLP_SECRET_KEYS"},
    }


def test_what_values_say_is_what_the_processes_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SGLP_")]:
        monkeypatch.delenv(name)
    known = {f"SGLP_{name.upper()}" for name in Settings.model_fields} | {"HF_ENDPOINT"}
    for component, template in pods(rendered(EVERYTHING, "settings.source_max_bytes=429496729600")):
        with monkeypatch.context() as patch:
            for name, variable in environment(template).items():
                assert name in known, (component, name)
                patch.setenv(name, variable.get("value", SECRETS.get(name)))
            read = Settings()
        assert (read.max_attempts, read.allowed_hosts) == (5, ("sglp.example.org",))
        assert read.source_max_bytes == 400 << 30
        assert read.gpu_classes == ("default", "a100", "h100")
        assert read.artifact_url == "s3://sglp-artifacts/production"
        if component == "worker":
            assert read.gpu_class == template["metadata"]["labels"]["sglp/gpu-class"]


def test_every_setting_can_be_said_in_values_or_is_fixed_for_a_reason() -> None:
    """`UPDATE_SNAPSHOT=1` writes the settings that values may have into the schema."""
    assert Settings.model_fields.keys() >= FIXED
    said = sorted(Settings.model_fields.keys() - FIXED)
    file = CHART / "values.schema.json"
    if os.environ.get("UPDATE_SNAPSHOT"):
        names = textwrap.fill(json.dumps(said)[1:-1], 120, initial_indent=" " * 10, subsequent_indent=" " * 10)
        list_of_names = re.compile(r'(?<="settings": {\n)(.*?"enum": \[)[^\]]*', re.DOTALL)
        file.write_text(list_of_names.sub(lambda found: f"{found[1]}\n{names}\n        ", file.read_text(), count=1))
    assert json.loads(file.read_text())["properties"]["settings"]["propertyNames"]["enum"] == said


@pytest.mark.parametrize("wrong", ["settings.max_atempts=3", "workers[0].gpuClass=a'b", "workers[0].gpu=1", "apis=1"])
def test_values_that_the_chart_does_not_know_are_refused(wrong: str) -> None:
    completed = helm("template", "test", CHART, "--set", wrong)
    assert completed.returncode != 0
    assert "schema" in completed.stderr


def test_pods_have_the_time_that_their_processes_take_to_end() -> None:
    for component, template in pods(rendered(EVERYTHING, "settings.cancel_grace_seconds=300")):
        seconds = template["spec"].get("terminationGracePeriodSeconds")
        if component == "worker":
            # And some more to write the job's end.
            assert seconds >= 300 + 20
        elif component == "api":
            pause = template["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert seconds > GRACE_SECONDS + pause


def test_only_the_api_is_asked_whether_it_lives() -> None:
    for component, template in pods(rendered()):
        (container,) = template["spec"]["containers"]
        probes = {name: probe["httpGet"]["path"] for name, probe in container.items() if name.endswith("Probe")}
        wanted = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
        assert probes == (wanted if component == "api" else {}), component


def test_everything_that_selects_pods_selects_those_of_one_component() -> None:
    manifests = rendered()
    labels = [template["metadata"]["labels"] for _, template in pods(manifests)]
    for kind in ("Deployment", "Service", "PodDisruptionBudget"):
        for name, manifest in of_kind(kind, manifests).items():
            selector = manifest["spec"]["selector"]
            selector = selector if kind == "Service" else selector["matchLabels"]
            selected = [each for each in labels if selector.items() <= each.items()]
            assert len(selected) == 1, name


def test_the_migration_runs_before_all_else() -> None:
    manifests = rendered()
    hooks = {
        (manifest["kind"], name): int(manifest["metadata"]["annotations"]["helm.sh/hook-weight"])
        for kind in ("Job", "NetworkPolicy")
        for name, manifest in of_kind(kind, manifests).items()
        if manifest["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-install,pre-upgrade"
    }
    assert sorted(hooks, key=lambda hook: hooks[hook]) == [
        ("NetworkPolicy", "test-sglp-migration"),
        ("Job", "test-sglp-migration"),
    ]
