"""A whole job on a model that is larger than the memory it may use: analysis, plan, artifact, verification.

    python -m benchmarks.larger_than_memory

The job runs in a child process under RLIMIT_DATA: what it allocates for itself (heap and private mappings) cannot
exceed the limit. Pages of shared file mappings are not counted: the kernel can drop them at any time and read them
again. The limit is lifted for the process that verifies, because torch maps weight files privately, which counts in
full although nothing is allocated; what that process really holds is in the table all the same. Linux only.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import psutil
import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers

import sglp_core
from sglp_core import Calibration, Evaluation, Method, Progress, Target
from sglp_core.evaluation.footprint import peak_resident_bytes
from sglp_core.options import Options
from sglp_core.progress import SilentReporter
from sglp_core.run_context import RunContext

WORDS = [f"word{number}" for number in range(2000)]


def main(
    layers: Annotated[int, typer.Option(min=4, help="Layers of the random Llama; each is 51 MB in float32.")] = 24,
    limit_mb: Annotated[int, typer.Option(help="What a process of the job may allocate.")] = 900,
    folder: Annotated[Path | None, typer.Option(help="Where to work; a temporary folder by default.")] = None,
    memory: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print the peak memory of the job, and what happens without streaming."""
    if memory:
        assert folder is not None
        _run_limited(folder, memory, limit_mb * 10**6)
        return
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        weights = write_model(work / "model", layers)
        generator = random.Random(0)
        lines = (" ".join(generator.choices(WORDS, k=60)) for _ in range(60))
        (work / "text.txt").write_text("\n\n".join(lines))
        table = Table("memory", "outcome", "seconds", "peak anonymous MB", "peak resident MB")
        for mode in ("in_memory", "auto"):
            table.add_row(mode, *_watched(work, mode, limit_mb))
        table.title = f"weights {weights / 1e6:,.0f} MB, {layers} layers; limit {limit_mb} MB for each process"
        table.caption = (
            "resident counts mapped files too, and the job's main process alone; anonymous any process of it"
        )
    Console(width=120).print(table)


def write_model(directory: Path, layers: int) -> int:
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(directory)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=layers,
        num_attention_heads=16,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(directory, max_shard_size="300MB")
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


class _LiftedForVerification(SilentReporter):
    def progress(self, progress: Progress) -> None:
        if progress.phase == "verifying":
            resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _run_limited(work: Path, memory: Any, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    report = sglp_core.compress(
        str(work / "model"),
        Target("layers", 0.25),
        work / f"out-{memory}",
        options=Options(
            method=Method(),
            calibration=Calibration(str(work / "text.txt"), samples=4, sequence_length=64, batch_size=2),
            evaluation=Evaluation(samples=4),
        ),
        context=RunContext(cache=work / f"cache-{memory}", memory=memory, reporter=_LiftedForVerification()),
    )
    removed = len(report.plan.removed_layers)
    outcome = f"{removed} layers removed, verified" if report.verification.passed else "not verified"
    print(json.dumps([outcome, peak_resident_bytes()]))


def _watched(work: Path, memory: str, limit_mb: int) -> tuple[str, ...]:
    """Run the job and sample what it and the processes it starts hold in anonymous memory."""
    command = [sys.executable, "-m", "benchmarks.larger_than_memory", f"--memory={memory}", f"--folder={work}"]
    # Otherwise glibc's heap keeps address space that holds nothing, and the limit counts it.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    begin = time.perf_counter()
    with (
        (work / f"log-{memory}").open("w+") as log,
        subprocess.Popen(
            [*command, f"--limit-mb={limit_mb}"], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as job,
    ):
        peak = 0
        while job.poll() is None:
            peak = max([peak, *_anonymous_bytes(job.pid)])
            time.sleep(0.02)
        seconds = time.perf_counter() - begin
        assert job.stdout is not None
        lines = job.stdout.read().splitlines()
        log.seek(0)
        outcome, resident = json.loads(lines[-1]) if job.returncode == 0 else (" ".join(log.read().split()[-9:]), 0)
    return outcome, f"{seconds:.0f}", f"{peak / 1e6:,.0f}", f"{resident / 1e6:,.0f}" if resident else ""


def _anonymous_bytes(pid: int) -> list[int]:
    try:
        job = psutil.Process(pid)
        return [_rss_anon(process.pid) for process in (job, *job.children(recursive=True))]
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return []


def _rss_anon(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


if __name__ == "__main__":
    typer.run(main)
