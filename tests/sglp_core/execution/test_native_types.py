"""On a processor that emulates a half type, weights stay as they are stored, and are computed with in float32."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from sglp_core.execution import native_types
from tests.worker.tiny_model import write_tiny_model

JOB = """
import sys
from pathlib import Path
import sglp_core
from sglp_core import Calibration, Evaluation, Target
from sglp_core.options import Options
from sglp_core.run_context import RunContext

folder = Path(sys.argv[1])
options = Options(calibration=Calibration(str(folder / "text.txt"), 8, 32, 4), evaluation=Evaluation(samples=4))
context = RunContext(cache=folder / "cache")
sglp_core.compress(str(folder / "model"), Target("layers", 0.3), folder / "out", options, context)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN leaves instructions out only on x86")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_job_computes_in_float32_where_its_type_is_emulated(dtype: torch.dtype, tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "model")
    transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).save_pretrained(directory)
    (tmp_path / "text.txt").write_text("\n\n".join(f"the {word} of the other {word}" for word in ("cat", "dog") * 200))
    # As on a processor that has no instructions for bfloat16.
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, "-c", JOB, str(tmp_path)], check=True, env=environment)
    report = json.loads((tmp_path / "out/report.json").read_text())
    emulated = dtype == torch.bfloat16
    placement = report["placement"]
    assert placement["weights"] == ("memory" if emulated else "device")
    assert placement["computing_type"] == "float32"
    assert placement["stored_type"] == str(dtype).removeprefix("torch.")
    assert (placement["weights_read"] is not None) == emulated
    assert report["verification"]["passed"]
    written = load_file(tmp_path / "out/model/model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {dtype}


@pytest.mark.parametrize(
    ("on_device", "on_cpu", "place"),
    [(2**30 + 1250, 0, "cuda"), (2**30 + 1249, 1250, "cpu"), (0, 1250, "cpu"), (2**30 + 1249, 1249, None)],
)
def test_what_is_exact_leaves_a_gibibyte_of_the_device_and_is_on_the_cpu_otherwise(
    on_device: int, on_cpu: int, place: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_types, "free_bytes", lambda device: on_cpu if device.type == "cpu" else on_device)
    cuda = torch.device("cuda")
    if place is None:
        with pytest.raises(MemoryError, match=r"^this takes "):
            native_types.exact_device_with_room(1000, cuda, "this takes")
    else:
        assert native_types.exact_device_with_room(1000, cuda, "this takes").type == place
