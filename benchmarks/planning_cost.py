"""What choosing and repairing a plan costs, in dense forward passes over the calibration windows and beside greedy.

    git worktree add ../old be2ddf2
    python -m benchmarks.planning_cost --data ../shared/data --old ../old

Every job and every pass has a process of its own; the two codes take turns. A dense pass is timed with transformers
alone, so both are measured in the same unit. What planning costs is the phases `planning` and `repairing` of a job
together; controls are left out, as they are repaired in the walk of the plan. Greedy (SLEB) removes one layer after the
other, each time the one without which perplexity is lowest; its seconds are its passes, each as long as a pass with as
many layers, interpolated between one with all layers and one with half of them.
"""

import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.markdown_table import print_table
from benchmarks.worktree_process import Answer, Worktree, worktrees
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Calibration, Options
from sglp_core.run_context import RunContext
from sglp_service.demo import find_model

CACHE = Path("~/.cache/sglp").expanduser()
LENGTH = 256
# That of `benchmarks.language_quality`, beside whose tables the quality stands.
BATCH_SIZE = 4
FEW_WINDOWS = 8
# oneDNN then behaves as on a CPU with AVX2 alone, on which bfloat16 is emulated.
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
PLANNING = ("planning", "repairing")


class Rows(StrEnum):
    """The tables."""

    MEMORY = "memory"
    GREEDY = "greedy"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Jobs:
    """What all jobs have in common."""

    folder: Path
    data: Path
    judged: int
    limit_seconds: float
    _dense: dict[object, dict[str, Any]] = field(default_factory=dict, init=False)

    def copy(self, dtype: str) -> Path:
        """A copy of SmolLM2-135M with its weights in this type."""
        directory = self.folder / dtype
        if not directory.exists():
            options = Options(calibration=Calibration(sequence_length=LENGTH))
            loaded = load_model(find_model().as_uri(), options, RunContext(cache=CACHE, memory="in_memory"))
            loaded.model.to(getattr(torch, dtype)).save_pretrained(directory)
            loaded.processor.save_pretrained(directory)
        return directory

    def dense(self, code: Worktree, windows: int, dtype: str = "float32") -> dict[str, Any]:
        """Seconds of the dense passes (`timed_job.dense`), which are timed once for each environment."""
        key = (tuple(code.environment.items()), windows, dtype)
        if key not in self._dense:
            answer = code.call("timed_job", {"what": "dense", **self._data(windows, dtype)}, self.limit_seconds)
            if answer.stopped:
                raise RuntimeError(answer.stopped)
            self._dense[key] = answer.content
        return self._dense[key]

    def compress(
        self, code: Worktree, windows: int, target: tuple[str, float], memory: str = "in_memory", dtype: str = "float32"
    ) -> Answer:
        """A job with nothing in its cache (`timed_job.compress`)."""
        with tempfile.TemporaryDirectory(dir=self.folder) as work:
            request = {
                "what": "compress",
                "work": work,
                "target": target,
                "memory": memory,
                "test": str(self.data / "wikitext-2/test.txt"),
                "judged": self.judged,
                **self._data(windows, dtype),
            }
            return code.call("timed_job", request, self.limit_seconds)

    def _data(self, windows: int, dtype: str) -> dict[str, Any]:
        return {
            "model": str(self.copy(dtype)),
            "text": str(self.data / "wikitext-2/valid.txt"),
            "windows": windows,
            "length": LENGTH,
            "batch_size": BATCH_SIZE,
        }


def main(
    data: Annotated[Path, typer.Option(help="Folder with wikitext-2/.", exists=True, resolve_path=True)],
    windows: Annotated[int, typer.Option(min=2, help="Calibration windows of 256 tokens.")] = 32,
    remove: Annotated[float, typer.Option(help="The share of the parameters to remove.")] = 0.25,
    layers: Annotated[list[int], typer.Option(help="Layers to remove beside greedy; may be repeated.")] = [6, 10],  # noqa: B006
    judged: Annotated[int, typer.Option(min=1, help="Test windows of 256 tokens.")] = 16,
    old: Annotated[Path | None, typer.Option(help="A worktree of another commit, measured too.", exists=True)] = None,
    rows: Annotated[list[Rows], typer.Option(help="Tables to print; may be repeated.")] = list(Rows),  # noqa: B006
    limit: Annotated[float, typer.Option(help="Seconds after which a job is stopped.")] = 900,
) -> None:
    """Print a table each for memory, for greedy and for bfloat16."""
    print(f"{_cpu()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as folder, worktrees(old) as codes:
        jobs = Jobs(Path(folder), data, judged, limit)
        target = ("parameters", remove)
        if Rows.MEMORY in rows:
            print_table(
                f"SmolLM2-135M in float32: {remove:.0%} of the parameters, {windows} windows",
                _memory(jobs, codes, windows, target),
            )
        if Rows.GREEDY in rows:
            counts = sorted({min(FEW_WINDOWS, windows), windows})
            print_table("SmolLM2-135M in float32: beside greedy", _greedy(jobs, codes, counts, layers))
        if Rows.BFLOAT16 in rows:
            few = min(FEW_WINDOWS, windows)
            print_table(
                f"SmolLM2-135M by type of its weights: {remove:.0%} of the parameters, {few} windows",
                _bfloat16(jobs, codes, few, target),
            )


def _memory(jobs: Jobs, codes: list[Worktree], windows: int, target: tuple[str, float]) -> Iterator[dict[str, str]]:
    dense = jobs.dense(codes[-1], windows)["seconds"]
    for memory in ("in_memory", "streaming"):
        for code in codes:
            answer = jobs.compress(code, windows, target, memory)
            yield {"code": code.name, "memory": memory, **_cost(answer, dense), **_quality(answer), **_phases(answer)}


def _greedy(
    jobs: Jobs, codes: list[Worktree], window_counts: list[int], layer_counts: list[int]
) -> Iterator[dict[str, str]]:
    for windows in window_counts:
        dense = jobs.dense(codes[-1], windows)
        for count in layer_counts:
            greedy = _greedy_seconds(dense, count)
            for code in codes:
                answer = jobs.compress(code, windows, ("layers", count / dense["layers"]))
                yield {
                    "code": code.name,
                    "windows": str(windows),
                    **_cost(answer, dense["seconds"]),
                    "greedy s": f"{greedy:.0f}",
                    "share of greedy": f"{_at_least(answer)}{_planning(answer) / greedy:.3f}",
                    **_quality(answer),
                }


def _bfloat16(jobs: Jobs, codes: list[Worktree], windows: int, target: tuple[str, float]) -> Iterator[dict[str, str]]:
    for cpu, environment in (("as it is", {}), ("as if AVX2 alone", AVX2)):
        for code in codes:
            slowed = code.slowed(environment)
            float32 = 0.0
            for dtype in ("float32", "bfloat16"):
                dense = jobs.dense(slowed, windows, dtype)
                answer = jobs.compress(slowed, windows, target, dtype=dtype)
                seconds = sum(answer.content.get("phases", {}).values())
                float32 = float32 or seconds
                yield {
                    "code": code.name,
                    "CPU": cpu,
                    "weights": dtype,
                    "one product ms": f"{dense['product_milliseconds']:.2f}",
                    **_cost(answer, dense["seconds"]),
                    "job / float32": f"{_at_least(answer)}{seconds / float32:.2f}" if float32 else "",
                    "peak MB": f"{answer.content.get('peak_bytes', 0) / 1e6:,.0f}",
                    **_quality(answer),
                }


def _greedy_seconds(dense: dict[str, Any], count: int) -> float:
    """Seconds that greedy takes for `count` layers: a pass for every layer that is left, in each round."""
    layers: int = dense["layers"]
    seconds: float = dense["seconds"]
    half_seconds: float = dense["half_seconds"]
    layer = (seconds - half_seconds) / (layers - layers // 2)
    return sum((layers - done) * (seconds - (done + 1) * layer) for done in range(count))


def _planning(answer: Answer) -> float:
    phases: dict[str, float] = answer.content.get("phases", {})
    return sum(phases.get(phase, 0.0) for phase in PLANNING)


def _at_least(answer: Answer) -> str:
    """Before figures of a job that was stopped, which would have been higher."""
    return "> " if answer.stopped else ""


def _cost(answer: Answer, dense: float) -> dict[str, str]:
    planning, job = _planning(answer), sum(answer.content.get("phases", {}).values())
    more = _at_least(answer)
    return {
        "dense pass s": f"{dense:.1f}",
        "planning + repairs s": f"{more}{planning:.1f}",
        "in dense passes": f"{more}{planning / dense:.1f}",
        "whole job s": f"{more}{job:.1f}",
    }


def _quality(answer: Answer) -> dict[str, str]:
    content = answer.content
    if answer.stopped:
        return {"layers": "", "repairs": "", "perplexity": answer.stopped, "agreement": "", "weights read": ""}
    before, after = content["perplexity"]
    return {
        "layers": str(len(content["removed"])),
        "repairs": f"{content['repairs_accepted']} of {content['repairs_tried']}",
        "perplexity": f"{before:.4g} → {after:.4g}",
        "agreement": f"{content['agreement']:.3f}",
        "weights read": "" if content["weights_read"] is None else f"{content['weights_read']:.1f} ×",
    }


def _phases(answer: Answer) -> dict[str, str]:
    phases = answer.content.get("phases", {})
    return {"phases": ", ".join(f"{name} {seconds:.0f} s" for name, seconds in phases.items())}


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    flags = next(line for line in lines if line.startswith("flags")).split()
    native = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{names[0] if names else platform.processor()}, {len(names)} cores ({', '.join(native)})"


if __name__ == "__main__":
    typer.run(main)
