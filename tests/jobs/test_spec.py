"""What a job specification may say."""

from typing import Any

import pytest
from pydantic import ValidationError

from jobs.settings import Settings
from jobs.spec import HealingSpec, JobSpec

SMALLEST: dict[str, Any] = {"model": {"uri": "hf://org/name"}, "target": {"kind": "parameters", "ratio": 0.25}}


def test_only_model_and_target_are_required() -> None:
    spec = JobSpec.model_validate(SMALLEST)
    assert (spec.mode, spec.method.segments, spec.method.importance) == ("compress", "auto", "proposals")
    assert (spec.method.repair, spec.healing.steps, spec.healing.trained) == ("auto", 0, "neighbours")
    assert (spec.calibration.source, spec.evaluation.source, spec.deadline_seconds) == ("self", "held_out", 86400)


def test_the_request_of_the_contract_is_one() -> None:
    """With every field it shows, nulls too."""
    asked = {
        "mode": "compress",
        "model": {
            "uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
            "revision": "7e27bd9f9532",
        },
        "target": {"kind": "parameters", "ratio": 0.25},
        "method": {"segments": "auto", "importance": "grad_norm", "repair": "none"},
        "calibration": {"source": "self", "samples": 64, "sequence_length": 256, "seed": 0},
        "evaluation": {"source": "file:///data/eval.txt"},
        "healing": None,
        "output": {"dtype": "keep", "uri": None},
        "gpu_class": "default",
        "deadline_seconds": 86400,
        "metadata": {"pipeline": "nightly"},
    }
    spec = JobSpec.model_validate(asked)
    assert spec.healing == HealingSpec()
    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec
    with pytest.raises(ValidationError):
        JobSpec.model_validate({**asked, "output": {"dtype": "float16"}})


def test_a_stored_spec_reads_back_as_it_was() -> None:
    spec = JobSpec.model_validate(SMALLEST | {"method": {"segments": 4, "protected": [0, -1]}, "metadata": {"a": [1]}})
    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize("ratio", [0, 0.0, 1, 1.0, -1, 1.5, float("nan"), float("inf"), "abc", "0.5", None, True, []])
def test_a_ratio_must_be_a_number_between_0_and_1(ratio: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({**SMALLEST, "target": {"kind": "parameters", "ratio": ratio}})
    assert caught.value.errors()[0]["loc"] == ("target", "parameters", "ratio")


@pytest.mark.parametrize(
    ("metric", "max_drop", "allowed"),
    [
        ("perplexity", 0.1, True),
        ("perplexity", 3, True),
        ("accuracy", 0, True),
        ("agreement", 0.999, True),
        ("agreement", 1, False),
        ("accuracy", 1.5, False),
        ("perplexity", -0.1, False),
        ("perplexity", float("nan"), False),
        ("perplexity", float("inf"), False),
        ("perplexity", "0.1", False),
        ("perplexity", True, False),
        ("kl", 0.1, False),
    ],
)
def test_a_quality_target_names_a_metric_and_what_may_be_lost_of_it(metric: str, max_drop: Any, allowed: bool) -> None:
    spec = SMALLEST | {"target": {"kind": "quality", "metric": metric, "max_drop": max_drop}}
    if allowed:
        stored = JobSpec.model_validate(spec)
        assert JobSpec.model_validate(stored.model_dump(mode="json")) == stored
        return
    with pytest.raises(ValidationError):
        JobSpec.model_validate(spec)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"kind": "layers", "ratio": 0.25}, ""),
        ({"kind": "layers", "count": 8}, ""),
        ({"kind": "layers", "left": 24}, ""),
        ({"kind": "plan", "remove": [3, -2]}, ""),
        ({"kind": "plan", "keep": [0, 1], "layers": 3}, ""),
        ({"kind": "layers", "ratio": 2}, "give `count` to remove a number of layers"),
        ({"kind": "layers"}, "give one of ratio, count and left"),
        ({"kind": "layers", "count": 8, "left": 24}, "give one of ratio, count and left"),
        ({"kind": "layers", "count": 0}, "greater than or equal to 1"),
        ({"kind": "layers", "count": 1.0}, "valid integer"),
        ({"kind": "layers", "left": True}, "valid integer"),
        ({"kind": "parameters", "count": 8}, "Extra inputs are not permitted"),
        ({"kind": "plan"}, "give one of remove and keep"),
        ({"kind": "plan", "remove": [1], "keep": [2]}, "give one of remove and keep"),
        ({"kind": "plan", "remove": []}, "at least 1 item"),
        ({"kind": "plan", "remove": [1, 1]}, "names layer 1 more than once"),
        ({"kind": "plan", "remove": [1, -3], "layers": 4}, "names layer 1 more than once"),
        ({"kind": "plan", "keep": [0, 4], "layers": 4}, "4 is no layer of a model that has 4"),
        ({"kind": "plan", "remove": [0, 1, -1, -2], "layers": 4}, "names all 4 layers"),
        ({"kind": "plan", "remove": ["1"]}, "valid integer"),
    ],
    ids=str,
)
def test_layers_are_said_in_one_way_that_fits_itself(target: dict[str, Any], message: str) -> None:
    if not message:
        stored = JobSpec.model_validate({**SMALLEST, "target": target}).model_dump(mode="json")
        # What was not said is not stored: a worker of an earlier release reads a ratio as it always did.
        assert stored["target"] == target
        assert JobSpec.model_validate(stored).model_dump(mode="json") == stored
        return
    with pytest.raises(ValidationError, match=message):
        JobSpec.model_validate({**SMALLEST, "target": target})


def test_a_layer_is_not_both_removed_and_protected() -> None:
    plan = {"kind": "plan", "remove": [3, -1]}
    with pytest.raises(ValidationError, match=r"target.remove and method.protected both name layer -1"):
        JobSpec.model_validate({**SMALLEST, "target": plan, "method": {"protected": [0, -1]}})
    assert JobSpec.model_validate({**SMALLEST, "target": plan, "method": {"protected": [0]}}).method.protected == (0,)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/etc/passwd",
        "ftp://host/x",
        "https:///x",
        "https://user:secret@host/x",
        "https://host/x?token=secret",
        "https://host/a/../b",
        "https://host/a/%2e%2e/b",
        "https://host/a%2fb",
        "s3://bucket//x",
        "s3://",
        "file://host/etc/passwd",
        "file:relative",
        "file:///a%00b",
        "file:///a?b",
        "file:///a#b",
        "hf://name",
        "hf://a/b/c",
        "hf://a/b@",
        "hf://user:secret@org/name",
        "hf://",
        "x" * 3000,
    ],
)
def test_a_uri_of_another_form_is_refused(uri: str) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate({**SMALLEST, "model": {"uri": uri}})


@pytest.mark.parametrize("kind", ["none", "compensate", "least_squares", "refit", "batch_norm", "auto"])
def test_a_kind_of_repair_travels(kind: str) -> None:
    assert JobSpec.model_validate({**SMALLEST, "method": {"repair": kind}}).method.repair == kind


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"method": {"surprise": 1}},
        {"mode": "destroy"},
        {"mode": "analyze"},
        {"target": None},
        {"target": {"kind": "layers"}},
        {"target": {"kind": "bytes", "ratio": 0.5}},
        {"method": {"segments": 0}},
        {"method": {"segments": "many"}},
        {"method": {"importance": "magic"}},
        {"method": {"repair": "magic"}},
        {"healing": {"steps": -1}},
        {"healing": {"steps": 5}, "mode": "analyze", "target": None},
        {"healing": {"learning_rate": 0}},
        {"healing": {"loss": "magic"}},
        {"healing": {"trained": "some"}},
        {"healing": {"source": "self"}},
        {"healing": {"batch_size": 0}},
        {"healing": {"source": "file:///data/text.txt"}, "mode": "analyze", "target": None},
        {"calibration": {"samples": 0}},
        {"calibration": {"source": "hf://org/name"}},
        {"calibration": {"seed": -1}},
        {"evaluation": {"source": "self"}},
        {"gpu_class": "../x"},
        {"deadline_seconds": 0},
        {"metadata": {str(i): 0 for i in range(51)}},
        {"metadata": {"a": "\0"}},
        {"metadata": {"\0": 1}},
        {"metadata": {"a": ["\ud800"]}},
        {"metadata": {"a": [[[[[[[[[[[0]]]]]]]]]]]}},
        {"model": {"uri": "hf://org/na\0me"}},
        {"model": {"uri": "hf://org/na\nme"}},
        {"model": {"uri": "hf://org/name", "revision": "a b"}},
    ],
    ids=ascii,
)
def test_what_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate({**SMALLEST, **change})


def test_an_analysis_needs_no_target() -> None:
    assert JobSpec.model_validate({"mode": "analyze", "model": {"uri": "hf://org/name"}}).target is None


def test_every_uri_is_known_by_its_place() -> None:
    parts = ("calibration", "evaluation", "healing")
    spec = JobSpec.model_validate({**SMALLEST, **{part: {"source": f"file:///data/{part}.txt"} for part in parts}})
    assert spec.uris() == {
        "/model/uri": "hf://org/name",
        **{f"/{part}/source": f"file:///data/{part}.txt" for part in parts},
    }


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"mode": "sweep", "target": {"kind": "sweep", "ratios": [0.1, 0.5]}}, True),
        ({"mode": "sweep", "target": {"kind": "sweep", "of": "flops", "ratios": [0.1]}}, True),
        ({"mode": "sweep"}, False),
        ({"mode": "sweep", "target": None}, False),
        ({"target": {"kind": "sweep", "ratios": [0.1]}}, False),
        ({"mode": "sweep", "target": {"kind": "sweep", "ratios": []}}, False),
        ({"mode": "sweep", "target": {"kind": "sweep", "ratios": [0.1, 1]}}, False),
        ({"mode": "sweep", "target": {"kind": "sweep", "ratios": [0.1] * 51}}, False),
        ({"mode": "sweep", "target": {"kind": "sweep", "ratios": 0.1}}, False),
        ({"mode": "sweep", "target": {"kind": "sweep", "ratios": [0.1], "ratio": 0.1}}, False),
    ],
    ids=str,
)
def test_a_sweep_names_its_ratios(change: dict[str, Any], allowed: bool) -> None:
    if allowed:
        stored = JobSpec.model_validate(SMALLEST | change)
        assert JobSpec.model_validate(stored.model_dump(mode="json")) == stored
        return
    with pytest.raises(ValidationError):
        JobSpec.model_validate(SMALLEST | change)


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        (None, True),
        ({"kind": "flops", "ratio": 0.5}, True),
        ({"kind": "layers", "count": 2}, True),
        ({"kind": "plan", "remove": [2]}, True),
        ({"kind": "quality", "metric": "perplexity", "max_drop": 0.1}, False),
        ({"kind": "sweep", "ratios": [0.1]}, False),
    ],
)
def test_an_estimate_takes_a_target_of_known_size_or_none(target: Any, allowed: bool) -> None:
    spec = {**SMALLEST, "mode": "estimate", "target": target}
    if allowed:
        assert JobSpec.model_validate(spec).mode == "estimate"
    else:
        with pytest.raises(ValidationError):
            JobSpec.model_validate(spec)


@pytest.mark.parametrize(
    "model",
    [
        {"uri": "hf://org/name@branch", "revision": "main"},
        {"uri": "s3://bucket/a", "revision": "main"},
        {"uri": "file:///data", "revision": "main"},
    ],
)
def test_a_revision_belongs_to_one_hub_model(model: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="revision"):
        JobSpec.model_validate({**SMALLEST, "model": model})


@pytest.mark.parametrize("place", ["ftp://host", "bucket", "https://user:word@host"])
def test_a_place_of_another_form_is_refused(place: str) -> None:
    with pytest.raises(ValidationError, match="every place") as refused:
        Settings(sources={place: {"secret": "canary"}})
    assert "canary" not in str(refused.value)


def test_what_a_place_needs_is_not_shown() -> None:
    assert "canary" not in repr(Settings(sources={"s3://bucket": {"secret_access_key": "canary"}}))


@pytest.mark.parametrize(
    ("healing", "message"),
    [
        ({"steps": 1, "epochs": 1}, "not both"),
        ({"epochs": 1, "source": "file:///data/text.txt"}, "give healing.steps"),
    ],
)
def test_the_length_of_an_estimated_healing_is_one_that_can_be_known(healing: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JobSpec.model_validate({**SMALLEST, "mode": "estimate", "healing": healing})
    assert JobSpec.model_validate({**SMALLEST, "mode": "estimate", "healing": {"epochs": 1}}).healing.epochs == 1
