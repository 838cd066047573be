"""GGUF files that lie are refused for what they are, before anything of their size is made."""

from pathlib import Path

import pytest

from sglp_core.checkpoints.converted_models import ConvertedModels
from sglp_core.errors import UnsafeFormat
from sglp_core.estimation.model_outline import read_outline
from sglp_core.loading.gguf_conversion import check_gguf
from sglp_core.loading.source import open_source
from tests.hostile.bounded import bounded
from tests.hostile.gguf_files import GGUF, SOUND


@pytest.mark.parametrize("name", GGUF)
def test_it_is_refused_and_nothing_is_left_behind(name: str, tmp_path: Path) -> None:
    model, cache = tmp_path / "model.gguf", tmp_path / "cache"
    model.write_bytes(GGUF[name])
    with bounded(memory_bytes=1 << 28):
        with pytest.raises(UnsafeFormat):
            open_source(model, ConvertedModels(cache), [tmp_path])
        with pytest.raises(UnsafeFormat):
            read_outline(str(model), None, 16, cache, [tmp_path])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [model]


def test_the_sound_file_is_not_refused(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(SOUND)
    assert check_gguf(model) is None
