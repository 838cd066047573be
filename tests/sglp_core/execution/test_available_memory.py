"""When a model is streamed from disk, and that a job on it ends in the same artifact as one in memory."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open

import sglp_core
from sglp_core import Calibration, Evaluation, Method, Target
from sglp_core.errors import BadCalibration
from sglp_core.execution import available_memory
from sglp_core.execution.available_memory import available_bytes
from sglp_core.execution.mapped_tensor import mapped_tensor
from sglp_core.execution.placement import must_stream
from sglp_core.options import Options
from sglp_core.reporting.report import CompressReport
from sglp_core.run_context import RunContext
from tests.worker.tiny_model import write_tiny_model

TEXT = "\n\n".join(f"the {word} is a {word} of the other {word}" for word in ("cat", "dog", "hen", "cow") * 60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    write_tiny_model(folder / "model")
    (folder / "text.txt").write_text(TEXT)
    return folder


def compress(folder: Path, memory: str, name: str, repair: str = "none") -> CompressReport:
    return sglp_core.compress(
        str(folder / "model"),
        Target("layers", 0.3),
        folder / name,
        options=Options(
            method=Method(repair=repair),
            calibration=Calibration(str(folder / "text.txt"), 8, 32, 4),
            evaluation=Evaluation(samples=4),
        ),
        context=RunContext(cache=folder / f"cache-{name}", memory=memory),
    )


def test_a_streamed_job_ends_in_the_same_plan_scores_and_tensors(folder: Path) -> None:
    streamed, whole = compress(folder, "streaming", "streamed"), compress(folder, "in_memory", "whole")
    assert streamed.plan == whole.plan
    assert streamed.verification.passed
    assert streamed.verification.cached_decoding_equal is True
    assert streamed.analysis.segments == whole.analysis.segments
    layers = [json.loads((folder / name / "analysis.json").read_text())["layers"] for name in ("streamed", "whole")]
    for left, right in zip(*layers, strict=True):
        assert left["importance"] == pytest.approx(right["importance"], rel=1e-4)
    tables = [{row.metric: row.after for row in report.table} for report in (streamed, whole)]
    # What running the whole model would show is not measured.
    assert tables[1].keys() - tables[0].keys() == {"prefill_seconds", "decode_seconds", "peak_memory_bytes"}
    for metric in ("layers", "parameters", "flops", "perplexity", "agreement", "kl"):
        assert tables[0][metric] == pytest.approx(tables[1][metric], rel=1e-5)

    weights = [folder / name / "model/model.safetensors" for name in ("streamed", "whole")]
    with safe_open(weights[0], "pt") as left, safe_open(weights[1], "pt") as right:
        assert set(left.keys()) == set(right.keys())
        assert all(torch.equal(left.get_tensor(name), right.get_tensor(name)) for name in right.keys())  # noqa: SIM118


def test_text_is_not_generated_from_disk_and_the_time_is_said(folder: Path) -> None:
    context = RunContext(cache=folder / "cache", memory="streaming")
    message = r"read from disk 256 times, which takes at least 1 min; give calibration text"
    with pytest.raises(BadCalibration, match=message):
        sglp_core.compress(str(folder / "model"), Target("layers", 0.3), folder / "no", context=context)


@pytest.mark.parametrize("repair", ["auto", "compensate"])
def test_a_streamed_job_ends_in_the_same_repair(folder: Path, repair: str) -> None:
    streamed, whole = (compress(folder, memory, f"{memory}-{repair}", repair) for memory in ("streaming", "in_memory"))
    assert streamed.plan == whole.plan
    assert streamed.repair.changed_tensors == whole.repair.changed_tensors
    assert streamed.repair.attempts
    for left, right in zip(streamed.repair.attempts, whole.repair.attempts, strict=True):
        assert (left.cut, left.kind, left.accepted) == (right.cut, right.kind, right.accepted)
        assert (left.error_after is None) == (right.error_after is None)
        if right.error_after is not None:
            assert left.error_after == pytest.approx(right.error_after, rel=1e-3)
    assert (streamed.placement.weights, whole.placement.weights) == ("disk", "device")
    assert streamed.placement.weights_read is not None
    # Measuring goes forwards and backwards; choosing, repairing and evaluating each need one walk or more.
    assert streamed.placement.weights_read >= 5
    assert whole.placement.weights_read is None
    assert {report.placement.computing_type for report in (streamed, whole)} == {"float32"}
    tables = [{row.metric: row.after for row in report.table} for report in (streamed, whole)]
    assert tables[0]["perplexity"] == pytest.approx(tables[1]["perplexity"], rel=1e-4)


def test_auto_streams_what_would_fill_the_memory(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as sparse:
        sparse.truncate(available_bytes() // 2)
    assert not must_stream("auto", tmp_path)
    assert must_stream("streaming", tmp_path)
    with file.open("wb") as sparse:
        sparse.truncate(available_bytes() * 2)
    assert must_stream("auto", tmp_path)
    assert not must_stream("in_memory", tmp_path)


def test_a_resource_limit_is_less_memory() -> None:
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30)); "
        "from sglp_core.execution.available_memory import available_bytes; print(available_bytes())"
    )
    run = subprocess.run([sys.executable, "-c", limited], check=True, capture_output=True, text=True)
    assert int(run.stdout) <= 2**30


def test_what_is_allocated_is_no_longer_available_under_a_limit() -> None:
    allocating = (
        "import resource, torch; resource.setrlimit(resource.RLIMIT_DATA, (2**31, 2**31)); "
        "from sglp_core.execution.available_memory import available_bytes; before = available_bytes(); "
        # Pages that nothing was written to are not resident, and count.
        "kept = torch.empty(2**28, dtype=torch.uint8); print(before - available_bytes())"
    )
    run = subprocess.run([sys.executable, "-c", allocating], check=True, capture_output=True, text=True)
    assert int(run.stdout) >= 2**28


def test_pages_of_mapped_files_are_available_to_a_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = psutil.Process().memory_info().rss + 2**30
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in own:
        group = tmp_path / ("" if controllers == "" else "memory") / path.lstrip("/")
        group.mkdir(parents=True, exist_ok=True)
        for name in ("memory.max", "memory.limit_in_bytes"):
            (group / name).write_text(str(limit))
    monkeypatch.setattr(available_memory, "CGROUPS", tmp_path)
    before = available_bytes()
    assert before < limit
    mapped = mapped_tensor((2**28,), torch.uint8, tmp_path, "this").fill_(1)
    assert abs(before - available_bytes()) < 2**26
    kept = torch.ones(2**28, dtype=torch.uint8)
    assert before - available_bytes() > 2**28 - 2**26
    assert mapped[0] == kept[0]


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps holes")
def test_holes_in_the_heap_are_given_back() -> None:
    freeing = (
        "import psutil, torch; from sglp_core.execution.available_memory import give_back_memory; "
        "many = [torch.ones(25_000) for _ in range(2_000)]; "
        # The last one, at the end of the heap, keeps what lies before it.
        "del many[:-1]; rss = lambda: psutil.Process().memory_info().rss; before = rss(); "
        "give_back_memory(); print(before - rss())"
    )
    run = subprocess.run([sys.executable, "-c", freeing], check=True, capture_output=True, text=True)
    assert int(run.stdout) > 150_000_000
