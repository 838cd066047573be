from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sglp_core.sources import check_safetensors


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_whose_length_begins_like_a_pickle_is_no_pickle(length: int, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, file, {"filling": ""})
    short = int.from_bytes(file.read_bytes()[:8], "little")
    save_file({"a": torch.zeros(3)}, file, {"filling": "x" * (length - short)})
    assert file.read_bytes()[:2] == bytes([0x80, length >> 8])
    assert check_safetensors(file)["a"]["shape"] == [3]
