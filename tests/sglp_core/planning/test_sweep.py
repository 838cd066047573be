"""Several ratios in one job: every row is what a job of its own would say, and nothing is removed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import LlamaForCausalLM

from sglp_core import Calibration, Evaluation, SweepTarget, compress, sweep
from sglp_core.errors import TargetUnreachable
from sglp_core.evaluation.latency import Latency
from sglp_core.evaluation.quality import Quality
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import bypassed
from sglp_core.options import Method, Options, Target
from sglp_core.planning.sweep import Point, cut_copy, knee_of
from sglp_core.reporting.report import SweepReport
from sglp_core.reporting.sweep import SweepPoint
from sglp_core.run_context import RunContext
from tests.sglp_core.data.tiny_images import write_images, write_tiny_vit
from tests.worker.tiny_model import LAYERS, write_text, write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_tiny_model(folder / "model")
    write_text(folder / "text.txt")
    return folder


def settings(folder: Path) -> tuple[Options, RunContext]:
    calibration = Calibration(str(folder / "text.txt"), samples=8, sequence_length=16, batch_size=4)
    options = Options(calibration=calibration, evaluation=Evaluation(samples=4, controls=False))
    return options, RunContext(cache=folder / "cache")


@pytest.fixture(scope="module")
def report(folder: Path) -> SweepReport:
    target = SweepTarget("layers", (0.5, 0.17, 0.34, 0.17, 0.9))
    return sweep(str(folder / "model"), target, folder / "out", *settings(folder))


def test_there_is_a_row_a_ratio_and_one_for_the_dense_model(report: SweepReport) -> None:
    points = report.sweep.points
    assert [point.requested for point in points] == [0, 0.17, 0.34, 0.5]
    assert [point.layers for point in points] == [LAYERS - n for n in (0, 2, 3, 3)]
    assert points[0].agreement == 1
    assert points[0].kl == 0
    assert all(point.prefill_seconds > 0 and point.decode_seconds > 0 for point in points)
    (unreachable,) = report.sweep.unreachable
    assert unreachable.requested == 0.9
    assert "largest reachable ratio" in unreachable.reason


def test_a_row_is_what_a_compression_says(folder: Path, report: SweepReport) -> None:
    alone = compress(str(folder / "model"), Target("layers", 0.34), folder / "alone", *settings(folder))
    assert alone.analysis == replace(report.analysis, reused=True)
    point = report.sweep.points[2]
    after = {row.metric: row.after for row in alone.table}
    assert point.removed_layers == alone.plan.removed_layers
    for name in ("layers", "parameters", "flops", "perplexity", "accuracy", "agreement", "kl"):
        assert getattr(point, name) == after[name]
    weights = sum(file.stat().st_size for file in (folder / "alone" / "model").glob("*.safetensors"))
    # The file also has a header.
    assert weights * 0.8 < point.weight_bytes < weights


def test_table_and_picture_are_written_and_no_model(folder: Path, report: SweepReport) -> None:
    out = folder / "out"
    assert {file.name for file in out.iterdir()} == {
        "analysis.json", "manifest.json", "report.json", "report.md", "similarity.f32", "similarity.npz",
        "similarity.png", "sweep.png",
    }  # fmt: skip
    assert json.loads((out / "report.json").read_text())["sweep"] == report.to_dict()["sweep"]
    page = (out / "report.md").read_text()
    assert "| 0.34 | 0.5 | 3 |" in page
    assert not any(row["removed"] for row in json.loads((out / "analysis.json").read_text())["layers"])
    with Image.open(out / "sweep.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 10
    listed = [file["name"] for file in json.loads((out / "manifest.json").read_text())["files"]]
    assert "sweep.png" in listed


def test_where_no_ratio_can_be_reached_the_sweep_fails(folder: Path) -> None:
    with pytest.raises(TargetUnreachable, match=r"cannot remove 0\.8 .*largest reachable"):
        sweep(str(folder / "model"), SweepTarget("layers", (0.9, 0.8)), folder / "none", *settings(folder))


def test_a_cut_copy_is_the_bypassed_model_around_the_same_tensors(folder: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(folder / "model").eval()
    ids = torch.arange(12)[None]
    before = model(ids).logits
    cut = cut_copy(LayeredModel(model, "model.layers", "causal_lm"), (1, 3))
    with torch.no_grad(), bypassed(model.model.layers, (1, 3)):
        assert torch.equal(cut(ids).logits, model(ids, use_cache=False).logits)
    assert torch.equal(model(ids).logits, before)
    assert (len(model.model.layers), model.config.num_hidden_layers) == (LAYERS, LAYERS)
    own = {p.data_ptr() for p in model.parameters()}
    assert all(p.data_ptr() in own for p in cut.parameters())


def test_the_points_are_the_same_in_every_placement(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swept(name: str, **placed: Any) -> tuple[SweepPoint, ...]:
        options, context = settings(folder)
        options, context = replace(options, method=Method(repair="none")), replace(context, **placed)
        target = SweepTarget("layers", (0.17, 0.34))
        return sweep(str(folder / "model"), target, folder / name, options, context).sweep.points

    expected = swept("resident")
    on_disk = swept("on disk", memory="streaming")
    monkeypatch.setattr("sglp_core.loading.loaded_model.fits", lambda *_: False)
    for points in (on_disk, swept("in memory")):
        for left, right in zip(points, expected, strict=True):
            assert left.prefill_seconds is left.decode_seconds is None
            # From disk, sums are over fewer positions at a time.
            assert left.kl == pytest.approx(right.kl, rel=1e-6, abs=1e-7)
            assert left.perplexity == pytest.approx(right.perplexity, rel=1e-6)
            timed = {name: getattr(right, name) for name in ("prefill_seconds", "decode_seconds", "kl", "perplexity")}
            assert replace(left, **timed) == right
    assert "prefill" not in (folder / "on disk" / "report.md").read_text()


@pytest.mark.parametrize("ratios", [(), (0.0,), (0.5, 1.0), (float("nan"),)])
def test_ratios_that_make_no_sense_are_refused(ratios: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ratio"):
        SweepTarget("layers", ratios)


def test_an_image_classifier_is_swept_without_decoding(tmp_path: Path) -> None:
    report = sweep(
        str(write_tiny_vit(tmp_path / "model")),
        SweepTarget("flops", (0.3,)),
        tmp_path / "out",
        options=Options(
            calibration=Calibration(str(write_images(tmp_path / "images")), samples=16, batch_size=8),
            evaluation=Evaluation(samples=8),
        ),
        context=RunContext(cache=tmp_path / "cache"),
    )
    dense, cut = report.sweep.points
    assert dense.flops * 0.7 >= cut.flops
    assert cut.decode_seconds is None
    assert cut.prefill_seconds > 0
    assert "decode_seconds" not in (tmp_path / "out" / "report.md").read_text()


def curve(*perplexities: float) -> list[Point]:
    """A sweep of a model that loses a tenth of itself from each point to the next."""
    return [
        Point(number / 10, number / 10, (), 0, 0, 0, 0, Quality(perplexity, 0, 0, 0), Latency(0, None))
        for number, perplexity in enumerate(perplexities)
    ]


def test_the_knee_is_where_quality_begins_to_fall_faster() -> None:
    points = curve(2, 2.1, 2.2, 8)
    assert knee_of(points) == points[2]


def test_a_sweep_that_ends_with_a_better_model_has_no_knee() -> None:
    assert knee_of(curve(8, 2.2, 2.1, 2)) is None
