"""What the method costs on a GPU, on a random Llama of the shape of one with 7 billion parameters, in bfloat16.

    python -m benchmarks.gpu

The analysis is timed in this process, on a model that is made on the device; the jobs have a process each and read the
model from `--folder`, which holds it and one artifact at a time: 25 GB with all 32 layers. The tokens are random.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.markdown_table import print_table
from benchmarks.timed_job import DeviceWatch
from benchmarks.worktree_process import Answer, Worktree, worktrees
from sglp_core.analysis.criteria import CRITERIA
from sglp_core.analysis.segmentation import segment
from sglp_core.analysis.similarity import SimilarityAccumulator
from sglp_core.analysis.tracing import trace
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.tasks import Batch, logits_of, loss_of

VOCABULARY = 32_000
LENGTH = 512
BATCH_SIZE = 4
REPEATS = 3
JUDGED = 8


def main(
    layers: Annotated[int, typer.Option(min=4, help="Layers; each has 202 million parameters.")] = 32,
    windows: Annotated[int, typer.Option(min=4, help="Calibration windows of 512 tokens.")] = 32,
    width: Annotated[int, typer.Option(min=256, help="Channels.")] = 4096,
    cap: Annotated[float, typer.Option(help="Memory of the GPU in the capped job, as a share of the weights.")] = 0.5,
    folder: Annotated[Path | None, typer.Option(help="Where to work; a temporary folder by default.")] = None,
    limit: Annotated[float, typer.Option(help="Seconds after which a job is stopped.")] = 900,
) -> None:
    """Print a table of the analysis and one of whole jobs, or that there is no GPU."""
    if not torch.cuda.is_available():
        print("no GPU here")
        return
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    print(f"{', '.join(names)}; torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory(dir=folder) as name, worktrees(None) as (code,):
        work = Path(name)
        weight_bytes = _analysis_and_model(work, layers, width, windows)
        print_table("a quarter of the layers", _job_rows(code, work, windows, cap * weight_bytes, limit))


def _analysis_and_model(work: Path, layers: int, width: int, windows: int) -> int:
    """Print the cost of the analysis, save the model for the jobs and return the bytes of its weights."""
    model = _random_llama(layers, width)
    weight_bytes: int = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    title = f"random Llama, {layers} layers, {width} channels, bfloat16: {weight_bytes / 1e9:.1f} GB of weights"
    print_table(title, _analysis_rows(model, windows))
    model.save_pretrained(work / "model", max_shard_size="2GB")
    _write_tokenizer_and_text(work)
    return weight_bytes


def _random_llama(layers: int, width: int) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=layers,
        num_attention_heads=width // 128,
        max_position_embeddings=LENGTH,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        return transformers.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()


def _analysis_rows(model: Any, windows: int) -> list[dict[str, str]]:
    """The passes take turns, after one of each that is not counted."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (windows, LENGTH), generator=generator).split(BATCH_SIZE)
    batches = [Batch({"input_ids": each, "attention_mask": torch.ones_like(each)}, each) for each in ids]
    passes = _passes(LayeredModel(model, "model.layers", "causal_lm"), batches)
    watched: dict[str, list[tuple[float, DeviceWatch]]] = {name: [] for name in passes}
    for _ in range(1 + REPEATS):
        for name, each in watched.items():
            each.append(_watched(passes[name]))
    rows = []
    seconds = {name: statistics.median(taken for taken, _ in each[1:]) for name, each in watched.items()}
    for name, each in watched.items():
        rows.append(
            {
                "pass": name,
                "seconds": f"{seconds[name]:.2f}",
                "/ (forward + backward)": f"{seconds[name] / seconds['forward + backward']:.2f}",
                "peak GB on the GPU": f"{max(device.peak_bytes for _, device in each) / 1e9:.1f}",
                "utilisation": _share(each[-1][1].utilisation),
            }
        )
    return rows


def _passes(layered: LayeredModel, batches: list[Batch]) -> dict[str, Callable[[], object]]:
    def forward_and_backward() -> None:
        for batch in map(layered.on_device, batches):
            loss_of(logits_of(layered.model, batch), batch.labels, layered.task).backward()
        layered.model.zero_grad()

    def analysis() -> None:
        similarity = SimilarityAccumulator()
        traced = trace(layered, batches, similarity)
        segment(similarity.matrix())
        for criterion in CRITERIA.values():
            criterion.scores(traced)

    return {"forward + backward": forward_and_backward, "analysis": analysis}


def _watched(act: Callable[[], object]) -> tuple[float, DeviceWatch]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with DeviceWatch() as device:
        begin = time.perf_counter()
        act()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    return seconds, device


def _job_rows(code: Worktree, work: Path, windows: int, capped_bytes: float, limit: float) -> Iterator[dict[str, str]]:
    """A row for a job on one GPU, on one whose memory is capped, and on two where there are two."""
    # The processes of the jobs need the memory that this one would keep.
    torch.cuda.empty_cache()
    one = code.slowed({"CUDA_VISIBLE_DEVICES": "0"})
    data = {
        "model": str(work / "model"),
        "text": str(work / "text.txt"),
        "windows": windows,
        "length": LENGTH,
        "batch_size": BATCH_SIZE,
    }
    passed = one.call("timed_job", {"what": "dense", **data}, limit)
    if passed.stopped:
        raise RuntimeError(passed.stopped)
    share = capped_bytes / torch.cuda.get_device_properties(0).total_memory
    settings: list[tuple[str, Worktree, Mapping[str, float]]] = [
        ("one GPU", one, {}),
        (f"one GPU, {capped_bytes / 1e9:.1f} GB of it", one, {"device_share": share}),
    ]
    if torch.cuda.device_count() > 1:
        settings.append(("two GPUs", code.slowed({"CUDA_VISIBLE_DEVICES": "0,1"}), {}))
    for name, worktree, capped in settings:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            request = {
                "what": "compress",
                "work": folder,
                "target": ("layers", 0.25),
                "memory": "auto",
                "test": data["text"],
                "judged": JUDGED,
                **data,
                **capped,
            }
            yield _job_row(name, worktree.call("timed_job", request, limit), passed.content["seconds"])


def _job_row(name: str, answer: Answer, dense: float) -> dict[str, str]:
    content = answer.content
    phases: Mapping[str, float] = content.get("phases", {})
    planning = phases.get("planning", 0.0) + phases.get("repairing", 0.0)
    return {
        "device": name,
        "dense pass s": f"{dense:.2f}",
        "planning + repairs s": f"{planning:.1f}",
        "in dense passes": f"{planning / dense:.1f}",
        "whole job s": f"{sum(phases.values()):.0f}",
        "peak GB on the GPU": f"{content.get('device_peak_bytes', 0) / 1e9:.1f}",
        "peak GB resident": f"{content.get('peak_bytes', 0) / 1e9:.1f}",
        "utilisation": _share(content.get("utilisation")),
        "outcome": answer.stopped or f"{len(content['removed'])} layers removed, verified: {content['verified']}",
        "phases": ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in phases.items()),
    }


def _share(utilisation: float | None) -> str:
    return "" if utilisation is None else f"{utilisation:.0%}"


def _write_tokenizer_and_text(work: Path) -> None:
    """A tokenizer with a word for every number of the vocabulary, and random words that fill all windows."""
    vocabulary = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w0", bos_token="w1", eos_token="w2", pad_token="w2"
    ).save_pretrained(work / "model")
    draws = torch.randint(3, VOCABULARY, (200, LENGTH)).tolist()
    (work / "text.txt").write_text("\n\n".join(" ".join(f"w{number}" for number in line) for line in draws))


if __name__ == "__main__":
    typer.run(main)
