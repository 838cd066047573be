"""Model folders that lie or reach out end in the code of their case, and nothing is left behind."""

from pathlib import Path

import pytest

from sglp_core.errors import SGLPError
from sglp_core.estimation.estimate import estimate
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Calibration, Memory, Options
from sglp_core.run_context import RunContext
from tests.hostile.bounded import bounded
from tests.hostile.folders import FOLDERS, OF_VALUES, OF_WEIGHTS, make
from tests.worker.tiny_model import write_tiny_model

MEMORY: tuple[Memory, ...] = ("in_memory", "streaming")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("good") / "model")


@pytest.mark.parametrize(
    ("name", "memory"),
    [(name, "in_memory") for name in FOLDERS] + [(name, "streaming") for name in sorted(OF_WEIGHTS)],
)
def test_it_ends_in_its_code_and_nothing_is_left_behind(name: str, memory: Memory, good: Path, tmp_path: Path) -> None:
    root, cache = tmp_path / "root", tmp_path / "cache"
    root.mkdir()
    model = make(name, good, root / "model")
    _, code, word = FOLDERS[name]
    before = sorted(root.rglob("*"))
    with bounded(), pytest.raises(SGLPError) as refused:
        _open_and_read(model, cache, memory)
    assert refused.value.code == code or (memory == "streaming" and name in OF_WEIGHTS), refused.value
    assert word in str(refused.value) or memory == "streaming", refused.value
    assert sorted(root.rglob("*")) == before
    assert not [path for path in cache.rglob("*") if path.is_file()]


def _open_and_read(model: Path, cache: Path, memory: Memory) -> None:
    loaded = load_model(
        str(model),
        Options(calibration=Calibration(sequence_length=16)),
        RunContext(cache=cache, roots=[model.parent], memory=memory),
    )
    for group in (None, *range(len(loaded.layers))):
        with loaded.weights.onloaded(group):
            pass


@pytest.mark.parametrize("name", sorted(FOLDERS.keys() - OF_VALUES))
def test_an_estimate_refuses_it_as_well(name: str, good: Path, tmp_path: Path) -> None:
    root, cache = tmp_path / "root", tmp_path / "cache"
    root.mkdir()
    model = make(name, good, root / "model")
    with bounded(), pytest.raises(SGLPError) as refused:
        estimate(str(model), tmp_path / "output", context=RunContext(roots=[root], cache=cache))
    assert refused.value.code == FOLDERS[name][1]
    assert not cache.exists()
    assert not (tmp_path / "output").exists()


def test_the_sound_folder_is_not_refused(good: Path, tmp_path: Path) -> None:
    for memory in MEMORY:
        _open_and_read(good, tmp_path / "cache", memory)
    estimate(str(good), tmp_path / "output", context=RunContext(cache=tmp_path / "cache"))
