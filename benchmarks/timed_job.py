"""What `benchmarks.planning_cost` and `benchmarks.gpu` time, each in a process that is started for it alone.

Run by `worktree_process.py` with a file of the request and a file for the answer. It imports only what the public API
and transformers have, so that the packages of an older commit can be timed as well.
"""

import importlib.util
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
import transformers

import sglp_core
from sglp_core import Calibration, Evaluation, Options, Progress, RunContext, Target

REPEATS = 3
WATCH_SECONDS = 0.2
WRITE_SECONDS = 1.0
# A product of the MLP of SmolLM2-135M for one window of 256 tokens.
PRODUCT = (256, 576, 1536)
PRODUCT_REPEATS = 50


def main(request_file: Path, answer_file: Path) -> None:
    """Answer the request of a file, whose `what` names a function of `PROGRAMS`."""
    request = json.loads(request_file.read_text())
    answer = PROGRAMS[request.pop("what")](answer_file, **request)
    answer_file.write_text(json.dumps(answer))


class PhaseClock:
    """A reporter that adds up the seconds of every phase; a phase lasts until another reports.

    At most once a second it writes them to a file, which is all that is left of a job that is stopped.
    """

    def __init__(self, file: Path) -> None:
        self.seconds: dict[str, float] = {}
        self._file = file
        self._phase = "starting"
        self._since = self._written = time.perf_counter()

    def progress(self, progress: Progress) -> None:
        self._count()
        self._phase = progress.phase
        if self._since - self._written > WRITE_SECONDS:
            self._written = self._since
            self._file.write_text(json.dumps({"phases": self.seconds}))

    def resolved(self, facts: Mapping[str, object]) -> None: ...
    def planned(self, plan: Mapping[str, object]) -> None: ...
    def judged(self, judgement: Mapping[str, float | None]) -> None: ...

    def end(self) -> dict[str, float]:
        """The seconds of all phases, once the job has ended."""
        self._count()
        return self.seconds

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._since
        self._since = now


def compress(answer_file: Path, work: str, target: list[Any], memory: Any, **job: Any) -> dict[str, Any]:
    """A whole job in the new folder `work`: seconds by phase, quality, peak memory in bytes, and the report's figures.

    `job` has `model` and the data: `text`, `test`, `windows`, `length`, `batch_size`, `judged`; and, where the memory
    of the GPU is to be capped, `device_share`, the share of it that may be used.
    """
    if share := job.get("device_share"):
        torch.cuda.set_per_process_memory_fraction(share)
    clock = PhaseClock(answer_file)
    with DeviceWatch() as device:
        report = sglp_core.compress(
            job["model"],
            Target(*target),
            Path(work) / "out",
            Options(
                calibration=Calibration(job["text"], job["windows"], job["length"], job["batch_size"]),
                # Controls are repaired together with the plan, and what is timed is the plan.
                evaluation=Evaluation(job["test"], job["judged"], controls=False),
            ),
            RunContext(cache=Path(work) / "cache", memory=memory, reporter=clock),
        ).to_dict()
    return {
        "phases": clock.end(),
        "peak_bytes": _peak_resident_bytes(),
        "device_peak_bytes": device.peak_bytes,
        "utilisation": device.utilisation,
        **figures_of(report),
    }


class DeviceWatch:
    """A context manager that watches the GPUs; without one, or without `nvidia-ml-py`, its figures stay empty.

    `utilisation` is the mean share of the time in which a kernel ran, `peak_bytes` the most memory of PyTorch's tensors
    on one GPU.
    """

    def __init__(self) -> None:
        self.utilisation: float | None = None
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._samples: list[float] = []

    def __enter__(self) -> Self:
        if torch.cuda.is_available() and importlib.util.find_spec("pynvml"):
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.ident:
            self._thread.join()
        if self._samples:
            self.utilisation = statistics.mean(self._samples)
        self.peak_bytes = max(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())), default=0)

    def _watch(self) -> None:
        devices = range(torch.cuda.device_count())
        while not self._ended.wait(WATCH_SECONDS):
            self._samples.append(statistics.mean(map(torch.cuda.utilization, devices)) / 100)


def figures_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the tables show of a report; `weights_read` is None where the report does not count it."""
    dense, last = report["stages"][0], report["stages"][-1]
    return {
        "perplexity": [dense["perplexity"], last["perplexity"]],
        "agreement": last["agreement"],
        "removed": report["plan"]["removed_layers"],
        "repairs_accepted": sum(attempt["accepted"] for attempt in report["repair"]["attempts"]),
        "repairs_tried": len(report["repair"]["attempts"]),
        "weights_read": _first(report, "weights_read"),
        "verified": report["verification"]["passed"],
    }


def dense(_answer_file: Path, model: str, text: str, windows: int, length: int, batch_size: int) -> dict[str, Any]:
    """Seconds of a forward pass over as many windows (median of three), with all layers and with the first half.

    Also the milliseconds of one matrix product in the type of the weights, which shows whether the hardware has
    instructions for it. On the GPU where there is one.
    """
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval().to(device)
    tokens = transformers.AutoTokenizer.from_pretrained(model)(Path(text).read_text())["input_ids"]
    ids = torch.tensor(tokens[: windows * length]).view(windows, length).to(device)
    layers = loaded.model.layers

    def one_pass() -> None:
        for batch in ids.split(batch_size):
            loaded(input_ids=batch, attention_mask=torch.ones_like(batch), use_cache=False)

    with torch.inference_mode():
        loaded(input_ids=ids[:1])
        whole = statistics.median(_seconds(one_pass) for _ in range(REPEATS))
        loaded.model.layers = layers[: len(layers) // 2]
        half = statistics.median(_seconds(one_pass) for _ in range(REPEATS))
    rows, inner, columns = PRODUCT
    left, right = (torch.randn(count, inner).to(device, loaded.dtype) for count in (rows, columns))
    product = min(_seconds(lambda: torch.nn.functional.linear(left, right)) for _ in range(PRODUCT_REPEATS))
    return {"seconds": whole, "half_seconds": half, "layers": len(layers), "product_milliseconds": product * 1e3}


PROGRAMS: dict[str, Callable[..., dict[str, Any]]] = {"compress": compress, "dense": dense}


def _seconds(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - begin


def _first(tree: Any, name: str) -> Any:
    """The value of the first field of this name in a JSON document, None where it has none."""
    if isinstance(tree, dict):
        if name in tree:
            return tree[name]
        tree = list(tree.values())
    for each in tree if isinstance(tree, list) else ():
        if (value := _first(each, name)) is not None:
            return value
    return None


def _peak_resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
