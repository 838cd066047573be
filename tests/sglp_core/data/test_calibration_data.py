"""What is judged on was never measured on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sglp_core.data.calibration_data import CalibrationData, prepare
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import Calibration, Evaluation, Options
from sglp_core.run_context import RunContext
from tests.worker.tiny_model import write_text, write_tiny_model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    directory = tmp_path_factory.mktemp("loaded")
    model = write_tiny_model(directory / "model")
    return load_model(
        str(model), Options(calibration=Calibration(sequence_length=16)), RunContext(cache=directory / "cache")
    )


def prepared(loaded: LoadedModel, tmp_path: Path, calibration: Path, evaluation: str, **more: Any) -> CalibrationData:
    asked = Calibration(str(calibration), samples=20, sequence_length=16)
    return prepare(loaded, asked, Evaluation(evaluation, samples=8), RunContext(cache=tmp_path, **more))


def windows(data: Any) -> set[tuple[int, ...]]:
    return {tuple(row) for row in data.input_ids.tolist()}


SPELLINGS: dict[str, Callable[[Path], str]] = {
    "path": str,
    "URI": lambda file: file.as_uri(),
    "link": lambda file: str(linked(file)),
    "copy": lambda file: str(copied(file)),
    "held_out": lambda _file: "held_out",
}


def linked(file: Path) -> Path:
    link = file.with_name("link.txt")
    link.symlink_to(file)
    return link


def copied(file: Path) -> Path:
    copy = file.with_name("copy.txt")
    copy.write_bytes(file.read_bytes())
    return copy


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_text_for_both_is_parted(loaded: LoadedModel, tmp_path: Path, spelling: str) -> None:
    text = write_text(tmp_path / "text.txt")
    data = prepared(loaded, tmp_path, text, SPELLINGS[spelling](text))
    assert data.held_out is not None
    assert (len(data.measured), len(data.held_out)) == (20, 8)
    assert data.description == "8 windows of the calibration source that were not measured"
    # The text repeats itself here and there, and so may its windows; drawn twice, all of them would be the same.
    assert len(windows(data.held_out) & windows(data.measured)) < 4


def test_another_text_is_taken_as_it_is(loaded: LoadedModel, tmp_path: Path) -> None:
    text, other = write_text(tmp_path / "text.txt"), tmp_path / "other.txt"
    other.write_text("\n".join(reversed(text.read_text().splitlines())))
    data = prepared(loaded, tmp_path, text, str(other))
    assert data.description == "8 windows of other.txt"
    local = prepared(loaded, tmp_path, text, "upload://upload_1", local_files={"upload://upload_1": text})
    assert "not measured" in local.description
