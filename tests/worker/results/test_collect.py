"""What a job's process has written is taken without trust."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker.results.collect import collect
from worker.untrusted_files import UntrustedFile

LIMIT = 1 << 20


def entry(name: str, content: bytes = b"text", **changes: Any) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    return {"name": name, "media_type": "text/plain", "size_bytes": len(content), "sha256": digest} | changes


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A whole result of two files, and a secret beside it."""
    (tmp_path / "secret").write_text("text")
    folder = tmp_path / "output"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(b"text")
    (folder / "report.json").write_text("{}")
    manifest(folder, entry("model/weights"), entry("report.json", b"{}"))
    return folder


def manifest(output: Path, *entries: dict[str, Any]) -> None:
    (output / "manifest.json").write_text(json.dumps({"files": entries}))


def test_files_of_the_manifest_are_taken_and_no_others(output: Path, tmp_path: Path) -> None:
    (output / "other").write_text("not in the manifest")
    collected = collect(output, tmp_path / "collected", LIMIT)
    taken = {str(path.relative_to(collected.folder)) for path in collected.folder.rglob("*") if path.is_file()}
    assert taken == {"manifest.json", "report.json", "model/weights"}
    assert (collected.report, collected.analysis) == ({}, None)
    # What the process still does to names in its folder changes nothing.
    (output / "model" / "weights").unlink()
    (output / "model" / "weights").symlink_to(tmp_path / "secret")
    assert (collected.folder / "model" / "weights").read_bytes() == b"text"
    assert not (collected.folder / "model" / "weights").is_symlink()


def test_the_stored_analysis_has_its_form(output: Path, tmp_path: Path) -> None:
    facts = {
        "layers": [{"index": 0}], "layer_names": ["a"], "segments": [[0, 0]], "loss_curve": [None], "estimator": "e",
        "kernel": "k", "n_samples": 1, "sample_unit": "u",
    }  # fmt: skip
    (output / "analysis.json").write_text(json.dumps(facts))
    (output / "similarity.f32").write_bytes(b"\0\0\x80?")
    collected = collect(output, tmp_path / "collected", LIMIT)
    assert collected.analysis is not None
    assert (collected.analysis.matrix, collected.analysis.segments) == (b"\0\0\x80?", [[0, 0]])
    (output / "analysis.json").write_text(json.dumps({**facts, "segments": "all"}))
    with pytest.raises(UntrustedFile, match="StoredAnalysis has 1 errors"):
        collect(output, tmp_path / "again", LIMIT)


def link_file(output: Path) -> None:
    (output / "model" / "weights").unlink()
    (output / "model" / "weights").symlink_to("../../secret")


def link_folder(output: Path) -> None:
    (output / "linked").symlink_to("..")
    manifest(output, entry("linked/secret"))


def link_manifest(output: Path) -> None:
    (output / "manifest.json").rename(output.parent / "manifest.json")
    (output / "manifest.json").symlink_to(output.parent / "manifest.json")


def link_report(output: Path) -> None:
    (output / "report.json").unlink()
    (output / "report.json").symlink_to("/proc/self/environ")
    manifest(output, entry("model/weights"))


def pipe(output: Path) -> None:
    (output / "model" / "weights").unlink()
    os.mkfifo(output / "model" / "weights")


def swapped(output: Path) -> None:
    (output / "report.json").write_text('{"key": "\\u0000"}')
    manifest(output, entry("model/weights"))


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link": (link_file, "cannot be opened"),
    "a link for a folder": (link_folder, "cannot be opened"),
    "a link for the manifest": (link_manifest, "cannot be opened"),
    "a link for the report": (link_report, "cannot be opened"),
    "a pipe": (pipe, "no regular file"),
    "a folder": (lambda output: manifest(output, entry("model")), "no regular file"),
    "a name above": (lambda output: manifest(output, entry("../secret")), "no name of a file"),
    "a name above, inside": (lambda output: manifest(output, entry("model/../../secret")), "no name of a file"),
    "an absolute name": (lambda output: manifest(output, entry("/etc/hostname")), "no name of a file"),
    "a name with a line break": (lambda output: manifest(output, entry("model/we\nights")), "no name of a file"),
    "a name twice": (lambda output: manifest(output, entry("model/weights"), entry("model/weights")), "twice"),
    "another size": (lambda output: manifest(output, entry("model/weights", size_bytes=3)), "the manifest says"),
    "a missing file": (lambda output: manifest(output, entry("model/none")), "missing"),
    "no manifest": (lambda output: (output / "manifest.json").unlink(), "missing"),
    "a header in a type": (lambda output: manifest(output, entry("model/weights", media_type="a/b\r\nX: y")), "errors"),
    "a character of number 0": (swapped, "number 0"),
    "deep JSON": (lambda output: (output / "manifest.json").write_text("[" * 100_000), "errors"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_plain_result_is_refused(case: str, output: Path, tmp_path: Path) -> None:
    spoil, message = CASES[case]
    spoil(output)
    with pytest.raises(UntrustedFile, match=message):
        collect(output, tmp_path / "collected", LIMIT)


def test_all_files_together_are_bounded(output: Path, tmp_path: Path) -> None:
    collect(output, tmp_path / "fits", len("text{}"))
    with pytest.raises(UntrustedFile, match="more than"):
        collect(output, tmp_path / "too large", len("text{}") - 1)
