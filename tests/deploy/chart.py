"""The chart as helm renders it, offline."""

import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/sglp"
VALUES = [CHART / "values.yaml", *sorted((CHART / "values").glob("*.yaml"))]
EVERYTHING = CHART / "values/gpu.yaml"

Manifest = dict[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run helm, which `make deploy-lint` names in the environment."""
    program = os.environ.get("HELM")
    if program is None:
        pytest.skip("HELM is not set; `make deploy-lint` runs these tests with it")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@cache
def rendered(values: Path = EVERYTHING, *settings: str) -> list[Manifest]:
    """The manifests for a file of values and `name=value`s."""
    more = [argument for setting in settings for argument in ("--set", setting)]
    completed = helm("template", "test", CHART, "--values", values, *more)
    assert completed.returncode == 0, completed.stderr
    return [manifest for manifest in yaml.safe_load_all(completed.stdout) if manifest]


def of_kind(kind: str, manifests: list[Manifest]) -> dict[str, Manifest]:
    """The manifests of this kind by name."""
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """The template of every pod, by the component that it is."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        template = spec.get("jobTargetRef", spec).get("template")
        if template:
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template


def environment(template: Manifest) -> dict[str, Manifest]:
    """The environment variables of a pod's only container."""
    (container,) = template["spec"]["containers"]
    return {variable["name"]: variable for variable in container["env"]}
