"""Weight files that lie are refused for what they are, in every mode, before a tensor is read."""

from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

from sglp_core.errors import UnsafeFormat
from sglp_core.estimation.model_outline import read_outline
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Calibration, Options
from sglp_core.run_context import RunContext
from tests.hostile.bounded import bounded
from tests.hostile.safetensors_files import SAFETENSORS, parts
from tests.worker.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def sound(model: Path) -> bytes:
    return (model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", SAFETENSORS)
def test_it_is_refused_and_nothing_is_left_behind(name: str, model: Path, sound: bytes, tmp_path: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(SAFETENSORS[name](*parts(sound)))
    before, cache = sorted(model.rglob("*")), tmp_path / "cache"
    with bounded():
        with pytest.raises(UnsafeFormat):
            load_model(
                str(model),
                Options(calibration=Calibration(sequence_length=16)),
                RunContext(cache=cache, roots=[model.parent]),
            )
        with pytest.raises(UnsafeFormat):
            read_outline(str(model), None, 16, cache, [model.parent])
    assert (sorted(model.rglob("*")), list(tmp_path.rglob("*"))) == (before, [])


def test_the_sound_file_is_not_refused(model: Path, sound: bytes, tmp_path: Path) -> None:
    (model / "model.safetensors").write_bytes(sound)
    load_model(
        str(model),
        Options(calibration=Calibration(sequence_length=16)),
        RunContext(cache=tmp_path, roots=[model.parent]),
    )


@pytest.mark.parametrize("name", SAFETENSORS)
def test_none_of_them_is_a_file_that_the_library_alone_would_have_been_right_to_open(
    name: str, sound: bytes, tmp_path: Path
) -> None:
    """What the library opens and we do not: the format says that a header begins with a brace and names nothing twice,
    and the third cannot be made a tensor.
    """
    file = tmp_path / "x.safetensors"
    file.write_bytes(SAFETENSORS[name](*parts(sound)))
    try:
        safe_open(file, "pt")
    except SafetensorError:
        return
    assert name in {"duplicate tensor", "header after a space", "nothing, of sides too huge for any tensor"}
