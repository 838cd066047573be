"""The footprint of a model: bytes of its weights, load time, prefill and decode latency, peak memory.

Measured in a fresh process that loads the directory with the model's stock class, so before and after are comparable.
"""

import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers

from sglp_core.checkpoints.strict_json import JsonObject
from sglp_core.evaluation.latency import measure_latency
from sglp_core.fresh_process import FreshProcesses
from sglp_core.loading.processor import image_shape
from sglp_core.structure.config import read_config
from sglp_core.structure.layer_stack import example_inputs
from sglp_core.structure.model_class import model_class


@dataclass(frozen=True)
class Footprint:
    """Latencies are those of `measure_latency`; all but `weight_bytes` is None for a model that was only weighed."""

    weight_bytes: int
    load_seconds: float | None
    prefill_seconds: float | None
    decode_seconds: float | None
    peak_memory_bytes: int | None


def measure_footprint(directory: Path, sequence_length: int, decodes: bool, fresh: FreshProcesses) -> Footprint:
    """Load and time the model of a directory in a fresh process."""
    request = {"directory": str(directory.resolve()), "sequence_length": sequence_length, "decodes": decodes}
    return Footprint(**fresh.call(__name__, request))


def weigh(directory: Path, _sequence_length: int, _decodes: bool, _fresh: FreshProcesses) -> Footprint:
    """The bytes of the weights alone, without loading them."""
    return Footprint(_weight_bytes(directory), None, None, None, None)


def peak_resident_bytes() -> int:
    """The most memory this process has had resident.

    Linux counts it per program in /proc; `ru_maxrss` would start from the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _weight_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


@torch.no_grad()
def handle(request: JsonObject) -> JsonObject:
    """In the fresh process: load the model and time it."""
    directory = Path(request["directory"])
    begin = time.perf_counter()
    config = read_config(directory)
    model = model_class(config).from_pretrained(directory, config=config, dtype="auto")
    model.eval()
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        model.to(accelerator)
        torch.accelerator.synchronize()
    load_seconds = time.perf_counter() - begin
    shape = None
    if model.main_input_name == "pixel_values":
        shape = image_shape(transformers.AutoImageProcessor.from_pretrained(directory))
    inputs = example_inputs(model, request["sequence_length"], shape)

    latency = measure_latency(model, inputs, request["decodes"])
    return {
        "weight_bytes": _weight_bytes(directory),
        "load_seconds": load_seconds,
        **asdict(latency),
        "peak_memory_bytes": torch.accelerator.max_memory_allocated() if accelerator else peak_resident_bytes(),
    }
