from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sglp_core.checkpoints.converted_models import ConvertedModels
from sglp_core.checkpoints.safetensors_header import check_safetensors
from sglp_core.errors import UnsafeFormat
from sglp_core.loading.source import open_source
from tests.services import bad_models
from tests.worker.tiny_model import write_tiny_model


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_whose_length_begins_like_a_pickle_is_no_pickle(length: int, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, file, {"filling": ""})
    short = int.from_bytes(file.read_bytes()[:8], "little")
    save_file({"a": torch.zeros(3)}, file, {"filling": "x" * (length - short)})
    assert file.read_bytes()[:2] == bytes([0x80, length >> 8])
    assert check_safetensors(file)["a"]["shape"] == [3]


def test_adapters_beside_a_model_are_refused_in_every_form(tmp_path: Path) -> None:
    good = write_tiny_model(tmp_path / "good")
    open_source(good, ConvertedModels(tmp_path / "cache"))
    beside = bad_models.adapter_beside(good, tmp_path)
    file = beside / "model.gguf"
    file.write_bytes(b"GGUF")
    for path in (beside, file):
        with pytest.raises(UnsafeFormat, match=r"adapter_config\.json"):
            open_source(path, ConvertedModels(tmp_path / "cache"))
