"""The demo, on a model of a few kilobytes."""

from pathlib import Path

import pytest

from sglp_service import demo as demo_module


def test_the_demo_ends_with_a_model_and_a_sweep_of_what_was_measured_for_it(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_module, "find_model", lambda: models / "model")
    monkeypatch.setattr(demo_module, "CALIBRATION", {"samples": 8, "sequence_length": 16})
    demo_module.demo()
    printed = capsys.readouterr().out
    (directory,) = (tmp_path / ".sglp/demo").iterdir()
    assert (directory / "model/config.json").is_file()
    assert printed.count("succeeded") == 2
    assert "against the controls" in printed
    assert "sweep over layers" in printed
    assert str(directory / "model") in printed.splitlines()[-1]
    # One analysis served both jobs.
    assert len(list((tmp_path / ".sglp/cache/tenants").glob("*/analyses/*"))) == 1
