"""The published schema of `report.json`: made from the types of the reports, and true of what jobs write."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator
from pydantic import ConfigDict, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from sglp_core import (
    Calibration,
    Evaluation,
    Healing,
    LayersTarget,
    Method,
    PlanTarget,
    QualityTarget,
    SweepTarget,
    Target,
    analyze,
    compress,
    estimate,
    sweep,
)
from sglp_core.options import Options
from sglp_core.reporting.report import AnalyzeReport, CompressReport, EstimateReport, Report, SweepReport
from sglp_core.run_context import RunContext
from tests.sglp_core.data.tiny_images import write_images, write_tiny_vit
from tests.worker.tiny_model import write_text, write_tiny_model

SNAPSHOT = Path(__file__).parents[3] / "docs" / "report.schema.json"


class ReportSchema(GenerateJsonSchema):
    """As pydantic makes it, but without titles that repeat names, and without the defaults of options, which mean
    nothing in a report."""

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False

    def default_schema(self, schema: Any) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])

    def dataclass_field_schema(self, schema: Any) -> dict[str, Any]:
        result = super().dataclass_field_schema(schema)
        # A field that is left out where it is None is never null.
        if schema.get("serialization_exclude_if") is not None:
            (result,) = [each for each in result["anyOf"] if each != {"type": "null"}]
        return result


def schema_of_reports() -> dict[str, Any]:
    reports: Any = TypeAdapter(
        AnalyzeReport | CompressReport | SweepReport | EstimateReport,
        config=ConfigDict(
            extra="forbid", use_attribute_docstrings=True, json_schema_serialization_defaults_required=True
        ),
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "report.json",
        "description": "The report of one job; each mode has its own.",
    } | reports.json_schema(mode="serialization", schema_generator=ReportSchema)


def test_the_published_schema_is_up_to_date() -> None:
    """`UPDATE_SNAPSHOT=1 pytest tests/sglp_core/reporting/test_report_schema.py` writes it."""
    text = json.dumps(schema_of_reports(), indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(text)
    assert SNAPSHOT.read_text() == text


def test_every_object_is_closed_and_every_field_described() -> None:
    for name, part in schema_of_reports()["$defs"].items():
        assert part["additionalProperties"] is False, name
        assert part["description"], name
        for field, content in part["properties"].items():
            # What only repeats the description of the type it refers to is left out by pydantic.
            assert content.get("description") or "$ref" in content, f"{name}.{field}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    write_tiny_model(folder / "llama")
    write_tiny_vit(folder / "vit")
    write_text(folder / "text.txt")
    write_images(folder / "images")
    return folder


@pytest.fixture
def validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SNAPSHOT.read_text()))


def text(folder: Path) -> Calibration:
    return Calibration(str(folder / "text.txt"), samples=16, sequence_length=16, batch_size=4)


def images(folder: Path) -> Calibration:
    return Calibration(str(folder / "images"), samples=16, batch_size=8)


def analyzed(folder: Path, out: Path) -> Report:
    return analyze(
        str(folder / "llama"),
        out,
        options=Options(calibration=text(folder)),
        context=RunContext(cache=folder / "cache"),
    )


def compressed(folder: Path, out: Path) -> Report:
    return compress(
        str(folder / "llama"),
        Target("layers", 0.34),
        out,
        options=Options(calibration=text(folder), evaluation=Evaluation(samples=4)),
        context=RunContext(cache=folder / "cache"),
    )


def compressed_to_a_quality_and_healed(folder: Path, out: Path) -> Report:
    return compress(
        str(folder / "llama"),
        QualityTarget("perplexity", 0.5),
        out,
        options=Options(
            method=Method(importance="taylor", repair="none", protected=(0, -1)),
            calibration=text(folder),
            evaluation=Evaluation(samples=4, controls=False),
            healing=Healing(steps=4),
        ),
        context=RunContext(cache=folder / "cache"),
    )


def compressed_by_a_given_plan(folder: Path, out: Path) -> Report:
    return compress(
        str(folder / "llama"),
        PlanTarget(remove=(2, 3)),
        out,
        options=Options(calibration=text(folder), evaluation=Evaluation(samples=4)),
        context=RunContext(cache=folder / "cache"),
    )


def compressed_images(folder: Path, out: Path) -> Report:
    return compress(
        str(folder / "vit"),
        Target("layers", 0.34),
        out,
        options=Options(calibration=images(folder), evaluation=Evaluation(samples=8)),
        context=RunContext(cache=folder / "cache"),
    )


def swept(folder: Path, out: Path) -> Report:
    return sweep(
        str(folder / "llama"),
        SweepTarget("layers", (0.34, 0.95)),
        out,
        options=Options(calibration=text(folder), evaluation=Evaluation(samples=4)),
        context=RunContext(cache=folder / "cache"),
    )


def estimated(folder: Path, out: Path) -> Report:
    return estimate(str(folder / "llama"), out, context=RunContext(cache=folder / "cache"))


def estimated_for_a_target(folder: Path, out: Path) -> Report:
    return estimate(
        str(folder / "vit"),
        out,
        target=LayersTarget(count=1),
        options=Options(calibration=images(folder)),
        context=RunContext(cache=folder / "cache"),
    )


RUNS: list[Callable[[Path, Path], Report]] = [
    analyzed,
    compressed,
    compressed_to_a_quality_and_healed,
    compressed_by_a_given_plan,
    compressed_images,
    swept,
    estimated,
    estimated_for_a_target,
]


@pytest.mark.parametrize("run", RUNS)
def test_reports_of_real_runs_are_as_the_schema_says(
    run: Callable[[Path, Path], Report], folder: Path, tmp_path: Path, validator: Draft202012Validator
) -> None:
    report = run(folder, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    validator.validate(content)
    assert content == report.to_dict()
    # The type says the same as its JSON, so a program can read it back.
    assert TypeAdapter(type(report)).validate_python(content) == report


def test_an_unknown_or_missing_field_is_found(folder: Path, tmp_path: Path, validator: Draft202012Validator) -> None:
    content = estimated(folder, tmp_path / "out").to_dict()
    assert validator.is_valid(content)
    for changed in changes_of(content):
        assert not validator.is_valid(changed)


def changes_of(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield content | {"more": 1}
    yield content | {"model": content["model"] | {"more": 1}}
    for name in content["estimate"]:
        yield content | {"estimate": {key: value for key, value in content["estimate"].items() if key != name}}
