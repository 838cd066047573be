"""Calibration data that means harm: refused as `bad_calibration`, within a bound of time and memory."""

import io
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sglp_core.data.images import read_images
from sglp_core.data.text_files import draw_texts
from sglp_core.data.token_windows import text_windows
from sglp_core.errors import BadCalibration
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import Calibration, Options
from sglp_core.run_context import RunContext
from tests.hostile.bounded import bounded
from tests.hostile.data_files import IMAGES, TEXTS, write_lines
from tests.sglp_core.data.tiny_images import write_tiny_vit
from tests.worker.tiny_model import write_tiny_model

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    model = write_tiny_model(tmp_path_factory.mktemp("language") / "model")
    return load_model(
        str(model), Options(calibration=Calibration(sequence_length=16)), RunContext(cache=model / "cache")
    )


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    model = write_tiny_vit(tmp_path_factory.mktemp("vision"))
    return load_model(
        str(model), Options(calibration=Calibration(sequence_length=16)), RunContext(cache=model / "cache")
    )


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_refused(name: str, language: LoadedModel, tmp_path: Path) -> None:
    write, word = TEXTS[name]
    source = write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with bounded(), pytest.raises(BadCalibration, match=word):
        text_windows(source, language.processor, 4, 16, 0)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_refused(name: str, vision: LoadedModel, tmp_path: Path) -> None:
    write, word = IMAGES[name]
    source = write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with bounded(), pytest.raises(BadCalibration, match=word):
        read_images(str(source), vision, vision.processor, 4, 0)
    assert sorted(tmp_path.rglob("*")) == before


def _encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((40, 24)).save(file, kind)
    return file.getvalue()


SOUND = {kind: _encoded(kind) for kind in FORMATS}
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(FORMATS), changes=CHANGES, cut=st.integers(0, 60))
def test_an_image_with_some_bytes_changed_is_read_or_refused(
    kind: str, changes: list[tuple[int, int]], cut: int, vision: LoadedModel, tmp_path: Path
) -> None:
    content = bytearray(SOUND[kind])
    for place, byte in changes:
        content[place % len(content)] = byte
    (tmp_path / "one.png").write_bytes(content[: len(content) - cut])
    with bounded(), suppress(BadCalibration):
        assert len(read_images(str(tmp_path), vision, vision.processor, 1, 0)) == 1


def test_of_a_large_text_only_a_draw_is_kept(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "large.jsonl", 20_000)
    everything = list(draw_texts(path, 10**9, 0))
    assert len(everything) == 20_000
    drawn = list(draw_texts(path, 100_000, 0))
    assert 90_000 < sum(map(len, drawn)) <= 100_000
    places = [everything.index(text) for text in drawn]
    assert places == sorted(places)
    # From all of the file, as often before its middle as behind it, and other ones for another seed.
    assert 0.3 < sum(place < 10_000 for place in places) / len(places) < 0.7
    assert drawn == list(draw_texts(path, 100_000, 0))
    assert drawn != list(draw_texts(path, 100_000, 1))


@pytest.mark.parametrize(
    "text", ["a" * (3 << 20), "\n\n".join(["b" * 1000] * 3000), ("c" * ((1 << 20) - 1) + "\n\n") * 2]
)
def test_reading_in_pieces_loses_nothing_of_a_text(text: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(text)
    assert "".join(draw_texts(tmp_path / "text.txt", 10**9, 0)) == text.replace("\n", "")
