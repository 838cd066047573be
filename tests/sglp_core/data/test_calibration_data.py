"""What is judged on was never measured or trained on."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sglp_core.data import calibration_data
from sglp_core.data.calibration_data import CalibrationData, prepare
from sglp_core.errors import BadCalibration, SourceForbidden
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import Calibration, Evaluation, Healing, Options
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


def test_a_file_uri_is_a_path_and_a_text_outside_the_roots_is_forbidden(loaded: LoadedModel, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt")
    by_path, by_uri = (
        prepare(loaded, Calibration(source, 20, 16), None, RunContext(cache=tmp_path)).measured.digest
        for source in (str(text), text.as_uri())
    )
    assert by_path == by_uri
    with pytest.raises(SourceForbidden):
        prepared(loaded, tmp_path, text, "held_out", roots=[tmp_path / "elsewhere"])


def prepared_to_heal(loaded: LoadedModel, folder: Path, evaluation: str, healing: Healing) -> CalibrationData:
    asked = Calibration(str(folder / "text.txt"), samples=20, sequence_length=16, batch_size=4)
    return prepare(loaded, asked, Evaluation(evaluation, samples=8), RunContext(cache=folder), healing)


@pytest.mark.parametrize("spelling", [spelling for spelling in SPELLINGS if spelling != "held_out"])
@pytest.mark.parametrize("evaluation", ["held_out", "same"])
def test_one_text_for_all_three_is_parted(loaded: LoadedModel, tmp_path: Path, evaluation: str, spelling: str) -> None:
    text = write_text(tmp_path / "text.txt")
    source = SPELLINGS[spelling](text)
    judged_on = source if evaluation == "same" else evaluation
    data = prepared_to_heal(loaded, tmp_path, judged_on, Healing(10, source=source, batch_size=6))
    assert data.held_out is not None
    assert data.healing is not None
    assert (len(data.measured), len(data.held_out), len(data.healing)) == (20, 8, 60)
    assert len(windows(data.healing) & (windows(data.held_out) | windows(data.measured))) < 4


def test_another_text_to_train_on_is_taken_as_it_is(loaded: LoadedModel, tmp_path: Path) -> None:
    text, other = write_text(tmp_path / "text.txt"), tmp_path / "other.txt"
    other.write_text("\n".join(reversed(text.read_text().splitlines())))
    data = prepared_to_heal(loaded, tmp_path, "held_out", Healing(3, source=str(other)))
    assert data.healing is not None
    assert [len(batch.labels) for batch in data.training(loaded)] == [12]
    assert data.measured.digest == prepared(loaded, tmp_path, text, "held_out").measured.digest


@pytest.mark.parametrize(
    ("source", "message"),
    [("judged.txt", "is what evaluation.source is"), ("text.txt", "calibration and evaluation need")],
)
def test_nothing_that_is_judged_on_is_trained_on(
    loaded: LoadedModel, tmp_path: Path, source: str, message: str
) -> None:
    write_text(tmp_path / "text.txt", lines=20)
    write_text(tmp_path / "judged.txt", lines=40)
    evaluation = str(tmp_path / "judged.txt") if source == "judged.txt" else "held_out"
    with pytest.raises(BadCalibration, match=message):
        prepared_to_heal(loaded, tmp_path, evaluation, Healing(3, source=str(tmp_path / source)))


def test_no_more_is_trained_on_than_has_room(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_text(tmp_path / "other.txt")
    write_text(tmp_path / "text.txt", lines=40)
    # Half of it holds seven windows of 16 tokens.
    monkeypatch.setattr(calibration_data, "free_disk_bytes", lambda _folder: 2 * 7 * 16 * 36)
    data = prepared_to_heal(loaded, tmp_path, "held_out", Healing(100_000, source=str(other), batch_size=4096))
    assert data.healing is not None
    assert len(data.healing) == 7


@pytest.mark.parametrize("place", ["calibration", "evaluation"])
def test_tokens_that_the_model_has_no_embedding_for_are_named(loaded: LoadedModel, tmp_path: Path, place: str) -> None:
    """Tokens were added to the tokenizer alone; one of them stands once in a long text."""
    text, rare = write_text(tmp_path / "text.txt"), tmp_path / "rare.txt"
    rare.write_text(text.read_text().replace(" ", " zebra ", 1))
    tokenizer = deepcopy(loaded.processor)
    tokenizer.add_tokens(["zebra", "okapi"])
    changed = replace(loaded, processor=tokenizer)
    sources = (rare, str(text)) if place == "calibration" else (text, str(rare))
    with pytest.raises(BadCalibration, match=r"'zebra' \(23\): .* 23 rows, the tokenizer has 25 tokens"):
        prepare(
            changed,
            Calibration(str(sources[0]), samples=10_000, sequence_length=16),
            Evaluation(sources[1], samples=10_000),
            RunContext(cache=tmp_path),
        )
