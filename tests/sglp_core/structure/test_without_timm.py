"""A model of timm where timm is not installed: every way in says what to install."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers.utils import is_timm_available

from sglp_core import estimate
from sglp_core.errors import UnsupportedArchitecture
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Calibration, Options
from sglp_core.run_context import RunContext

pytestmark = pytest.mark.skipif(is_timm_available(), reason="timm is installed")


# Without names of its classes transformers looks for them in timm, and so fails earlier.
@pytest.mark.parametrize("named", [{}, {"label_names": ["cat", "dog"]}])
def test_the_error_of_a_timm_model_without_timm_says_what_to_install(named: dict[str, Any], tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    config = {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": {"input_size": [3, 32, 32]}, **named}
    (model / "config.json").write_text(json.dumps(config))
    save_file({"fc.weight": torch.zeros(2, 512)}, model / "model.safetensors")
    with pytest.raises(UnsupportedArchitecture, match=r"pip install 'sglp\[timm\]'"):
        load_model(
            str(model), Options(calibration=Calibration(sequence_length=16)), RunContext(cache=tmp_path / "cache")
        )
    with pytest.raises(UnsupportedArchitecture, match=r"pip install 'sglp\[timm\]'"):
        estimate(str(model), tmp_path / "out", context=RunContext(cache=tmp_path / "cache"))
