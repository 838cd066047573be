"""Writing a model with layers removed: bytes copied between shards, beside `cp` of the same bytes and other ways.

    python -m benchmarks.artifact_writing

Every way, `cp` too, is started from a fresh process with the source in the page cache, nothing waiting to be
written and memory that was just used: a virtual machine that gives free memory back to its host pays for getting it
again, which made whatever ran after a memory-hungry way look fast. The ways take turns. `mergekit` takes part where it
is installed (`pip install mergekit`, best in an environment of its own).
"""

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sglp_core.artifact.shards import copy_kept_layers
from sglp_core.checkpoints.model_folder import sha256_of
from sglp_core.evaluation.footprint import peak_resident_bytes
from sglp_core.execution.loaded_tensors import read_loaded_tensors
from sglp_core.removal.remove_layers import remove_layers

GOAL = 0.70
TOUCHED_BYTES = 6_000_000_000
STACK = "model.layers"


def main(
    layers: Annotated[int, typer.Option(min=4, help="Layers of the random Llama; each is 51 MB.")] = 24,
    remove: Annotated[int, typer.Option(min=1, help="How many of its layers go.")] = 6,
    repeats: Annotated[int, typer.Option(min=1, help="Times each way is timed.")] = 5,
    folder: Annotated[Path | None, typer.Option(help="Where to write; a temporary folder by default.")] = None,
    way: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print MB/s, the share of `cp`, and the peak memory of each way."""
    if way:
        assert folder is not None
        _run(way, folder, layers, remove)
        return
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        write_random_llama(work / "dense", layers, shard_size="400MB")
        copy_kept_layers(read_loaded_tensors(work / "dense"), STACK, layers, _removed(layers, remove), work / "pruned")
        size = sum(file.stat().st_size for file in (work / "pruned").iterdir())
        ways = list(WAYS)
        if importlib.util.find_spec("mergekit") is None:
            ways.remove("mergekit")
            print("mergekit is not installed and takes no part: pip install mergekit", file=sys.stderr)
        measured: dict[str, list[tuple[float, int]]] = {each: [] for each in ways}
        options = [f"--layers={layers}", f"--remove={remove}", f"--folder={work}"]
        for each in track([each for _ in range(repeats) for each in ways], "writing", console=Console(stderr=True)):
            measured[each].append(_timed(each, work, options))
    Console(width=130).print(_table(measured, size, layers, remove, repeats))


def write_random_llama(directory: Path, layers: int, shard_size: str) -> None:
    """A Llama in bfloat16 with random weights: layers of 51 MB, embeddings of 33 MB; it has no tokenizer."""
    config = transformers.LlamaConfig(
        vocab_size=16_000,
        hidden_size=1024,
        intermediate_size=6912,
        num_hidden_layers=layers,
        num_attention_heads=16,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(directory, max_shard_size=shard_size)


def _run(way: str, work: Path, layers: int, remove: int) -> None:
    # Importing is not writing, and transformers imports a model's classes when they are first named.
    assert transformers.LlamaForCausalLM
    steps = WAYS[way](work, layers, _removed(layers, remove))
    next(steps)
    _touch_memory()
    begin = time.perf_counter()
    next(steps, None)
    print(json.dumps([time.perf_counter() - begin, peak_resident_bytes()]))


def _cp(work: Path, _layers: int, _removed: list[int]) -> Iterator[None]:
    yield
    subprocess.run(["cp", "-r", work / "pruned", work / "out"], check=True)


def _copy(work: Path, layers: int, removed: list[int]) -> Iterator[None]:
    tensors = read_loaded_tensors(work / "dense")
    yield
    copy_kept_layers(tensors, STACK, layers, removed, work / "out")


def _copy_and_hash(work: Path, layers: int, removed: list[int]) -> Iterator[None]:
    tensors = read_loaded_tensors(work / "dense")
    yield
    copy_kept_layers(tensors, STACK, layers, removed, work / "out")
    for file in sorted((work / "out").iterdir()):
        sha256_of(file)


def _load_and_save(work: Path, _layers: int, removed: list[int]) -> Iterator[None]:
    yield
    model = transformers.LlamaForCausalLM.from_pretrained(work / "dense", dtype="auto")
    remove_layers(model, STACK, removed)
    model.save_pretrained(work / "out")


def _mergekit(work: Path, layers: int, removed: list[int]) -> Iterator[None]:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    kept = [i for i in range(layers) if i not in removed]
    starts = [i for i in kept if i - 1 not in kept]
    ends = [i + 1 for i in kept if i + 1 not in kept]
    slices = [
        {"sources": [{"model": str(work / "dense"), "layer_range": [start, end]}]}
        for start, end in zip(starts, ends, strict=True)
    ]
    merge = {"merge_method": "passthrough", "dtype": "bfloat16", "slices": slices}
    configuration = MergeConfiguration.model_validate(merge)
    yield
    options = MergeOptions(copy_tokenizer=False, lazy_unpickle=True, low_cpu_memory=True, write_model_card=False)
    run_merge(configuration, str(work / "out"), options)


WAYS: dict[str, Callable[[Path, int, list[int]], Iterator[None]]] = {
    "cp": _cp,
    "bytes copied": _copy,
    "bytes copied, then sha256 of every file": _copy_and_hash,
    "from_pretrained, remove, save_pretrained": _load_and_save,
    "mergekit": _mergekit,
}


def _removed(layers: int, remove: int) -> list[int]:
    """Spread over the stack, so that the kept tensors are many ranges."""
    return [round((i + 1) * (layers - 1) / (remove + 1)) for i in range(remove)]


def _timed(way: str, work: Path, options: list[str]) -> tuple[float, int]:
    _settle(work)
    command = [sys.executable, "-m", "benchmarks.artifact_writing", f"--way={way}", *options]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak = json.loads(run.stdout.strip().splitlines()[-1])
    return seconds, peak


def _touch_memory() -> None:
    """Use as much memory as any way needs for its files and its own, in another process, and free it."""
    subprocess.run([sys.executable, "-c", f"b'x' * {TOUCHED_BYTES}"], check=True)


def _settle(work: Path) -> None:
    shutil.rmtree(work / "out", ignore_errors=True)
    os.sync()


def _table(measured: dict[str, list[tuple[float, int]]], size: int, layers: int, remove: int, repeats: int) -> Table:
    table = Table(
        "way",
        "seconds (median)",
        "spread",
        "MB/s",
        "share of cp",
        "peak MB",
        title=f"{layers} layers to {layers - remove}, {size / 1e6:,.0f} MB written, {repeats} repeats",
        caption=f"goal: bytes copied at {GOAL:.0%} of cp or more; peaks include the interpreter and its imports",
    )
    cp = statistics.median(seconds for seconds, _ in measured["cp"])
    for way, runs in measured.items():
        times = [seconds for seconds, _ in runs]
        median = statistics.median(times)
        peak = max(peak for _, peak in runs)
        table.add_row(
            way,
            f"{median:.2f}",
            f"{min(times):.2f}–{max(times):.2f}",
            f"{size / 1e6 / median:,.0f}",
            f"{cp / median:.0%}",
            f"{peak / 1e6:,.0f}" if peak else "",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
