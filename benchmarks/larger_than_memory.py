"""Whole jobs on models that are larger than the memory they may use, from submission to the verified artifact.

    python -m benchmarks.larger_than_memory --data ../shared/data

The demo's SmolLM2-135M and a random Llama are compressed through the embedded service. Each process of a job may
allocate what it has allocated once its libraries are imported, and 40 % of the model's weights; `limited_job.py` says
what that counts. Linux only.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.markdown_table import print_table
from benchmarks.timed_job import figures_of
from benchmarks.worktree_process import Answer, Worktree, worktrees
from sglp_core.estimation.memory import saved_for_backward
from sglp_core.estimation.model_outline import read_outline
from sglp_core.execution.native_types import computing_type
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Calibration, Options
from sglp_core.run_context import RunContext
from sglp_service.demo import find_model

CACHE = Path("~/.cache/sglp").expanduser()
WORDS = [f"word{number}" for number in range(2000)]
SEQUENCE_LENGTH = 128


class Model(StrEnum):
    """The models that are compressed."""

    SMOLLM2 = "smollm2"
    RANDOM = "random"


@dataclass(frozen=True)
class Subject:
    """A model folder and the texts its job reads, below the folder `root`."""

    name: str
    root: Path
    calibration: Path
    test: Path

    @property
    def weight_bytes(self) -> int:
        """The size of its weight files."""
        return sum(file.stat().st_size for file in (self.root / "model").glob("*.safetensors"))


def main(
    data: Annotated[Path, typer.Option(help="Folder with wikitext-2/.", exists=True, resolve_path=True)],
    layers: Annotated[int, typer.Option(min=4, help="Layers of the random Llama; each is 103 MB in bfloat16.")] = 30,
    width: Annotated[int, typer.Option(min=64, help="Width of the random Llama.")] = 2048,
    share: Annotated[float, typer.Option(help="What a process may allocate, as a share of the weights.")] = 0.4,
    windows: Annotated[int, typer.Option(min=4, help="Calibration windows of 128 tokens.")] = 8,
    chosen: Annotated[list[Model], typer.Option("--model", help="Models; may be repeated.")] = list(Model),  # noqa: B006
    old: Annotated[Path | None, typer.Option(help="A worktree of another commit, measured too.", exists=True)] = None,
    limit: Annotated[float, typer.Option(help="Seconds after which a job is stopped.")] = 1800,
) -> None:
    """Print a table for each model."""
    with tempfile.TemporaryDirectory() as folder, worktrees(old) as codes:
        for model in chosen:
            with tempfile.TemporaryDirectory(dir=folder) as root:
                smollm2 = model is Model.SMOLLM2
                subject = _smollm2(Path(root), data) if smollm2 else random_llama(Path(root), layers, width)
                print_table(
                    f"{subject.name}, {subject.weight_bytes / 1e6:,.0f} MB of weights",
                    (_row(code, subject, _run(code, subject, share, windows, limit)) for code in codes),
                )
    print("\nLimited (RLIMIT_DATA): heap and private mappings of each process, its imports + the share of the weights.")
    print("Peaks are those of the process of the job that holds most of the kind; mapped files can be dropped.")
    print("Least: the larger of one layer and all that is outside of the layers, in the type that is computed in; and")
    print("of one window the larger of what a layer keeps for its backward pass and the logits in float32.")
    print("Peak / least: the peak of anonymous memory less that of the imports.")


def _run(code: Worktree, subject: Subject, share: float, windows: int, limit_seconds: float) -> Answer:
    spec = {
        "mode": "compress",
        "model": {"uri": (subject.root / "model").as_uri()},
        "target": {"kind": "layers", "ratio": 0.25},
        "calibration": {
            "source": subject.calibration.as_uri(),
            "samples": windows,
            "sequence_length": SEQUENCE_LENGTH,
            "batch_size": 1,
        },
        "evaluation": {"source": subject.test.as_uri(), "samples": 4},
    }
    with tempfile.TemporaryDirectory(dir=subject.root) as folder:
        request = {
            "state": str(Path(folder) / "state"),
            "root": str(subject.root),
            "spec": spec,
            "share": share,
            "weight_bytes": subject.weight_bytes,
        }
        return code.call("limited_job", request, limit_seconds)


def _row(code: Worktree, subject: Subject, answer: Answer) -> dict[str, str]:
    content = answer.content
    if not content:
        raise RuntimeError(answer.stopped)
    peaks: Mapping[str, int] = content["peaks"]
    imported: Mapping[str, int] = content["imported"]
    least = _least_bytes(subject)
    return {
        "code": code.name,
        "limit MB": f"{content['limit_bytes'] / 1e6:,.0f} ({imported['allocated'] / 1e6:,.0f} imported)",
        "allocated MB": _megabytes(peaks, "allocated"),
        "least MB": f"{least / 1e6:,.0f}",
        "peak / least": f"{(peaks.get('anonymous', 0) - imported['anonymous']) / least:.2f}",
        "anonymous MB": _megabytes(peaks, "anonymous"),
        "mapped files MB": _megabytes(peaks, "files"),
        "shared MB": _megabytes(peaks, "shared"),
        "seconds": f"{content['seconds']:.0f}" if "seconds" in content else "",
        **_result(content, answer.stopped),
    }


def _result(content: dict[str, Any], stopped: str) -> dict[str, str]:
    if not content.get("report"):
        outcome = stopped or f"{content['error']['code']} while {content['phase']}: {content['error']['message'][:300]}"
        return {"outcome": outcome, "weights read": "", "repairs": "", "perplexity": "", "agreement": ""}
    figures = figures_of(content["report"])
    before, after = figures["perplexity"]
    read = figures["weights_read"]
    return {
        "outcome": f"{len(figures['removed'])} layers removed, {'' if figures['verified'] else 'not '}verified",
        "weights read": "not counted" if read is None else f"{read:.1f} ×",
        "repairs": f"{figures['repairs_accepted']} of {figures['repairs_tried']} accepted",
        "perplexity": f"{before:.4g} → {after:.4g}",
        "agreement": f"{figures['agreement']:.3f}",
    }


def _least_bytes(subject: Subject) -> int:
    """The largest part of the model and the activations of one window, in the type that this machine computes in."""
    outline = read_outline((subject.root / "model").as_uri(), None, SEQUENCE_LENGTH, CACHE, None)
    stored = outline.torch_dtype
    widening = computing_type(stored, torch.device("cpu")).itemsize // stored.itemsize
    layers = outline.stack.layers
    inside = sum(layer.parameters for layer in layers)
    part = max(outline.stack.total_parameters - inside, *(layer.parameters for layer in layers)) * stored.itemsize
    kept, logits = saved_for_backward(outline, 1)
    return part * widening + max(kept // len(layers) * widening, logits)


def _megabytes(peaks: Mapping[str, int], kind: str) -> str:
    return f"{peaks.get(kind, 0) / 1e6:,.0f}"


def _smollm2(root: Path, data: Path) -> Subject:
    """The demo's model, converted: a GGUF file is converted in memory, which is not what is measured here."""
    options = Options(calibration=Calibration(sequence_length=SEQUENCE_LENGTH))
    loaded = load_model(find_model().as_uri(), options, RunContext(cache=CACHE, memory="in_memory"))
    loaded.model.save_pretrained(root / "model")
    loaded.processor.save_pretrained(root / "model")
    for name in ("valid", "test"):
        shutil.copyfile(data / f"wikitext-2/{name}.txt", root / f"{name}.txt")
    return Subject("SmolLM2-135M", root, root / "valid.txt", root / "test.txt")


def random_llama(root: Path, layers: int, width: int) -> Subject:
    """A Llama in bfloat16 with random weights, and texts of random words, below the folder `root`."""
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(root / "model")
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(root / "model", max_shard_size="300MB")
    for name in ("valid", "test"):
        _write_text(root / f"{name}.txt")
    return Subject(f"random Llama, {layers} layers, bfloat16", root, root / "valid.txt", root / "test.txt")


def _write_text(file: Path) -> None:
    """200 lines of 60 words, each drawn like all others."""
    draws = torch.randint(len(WORDS), (200, 60)).tolist()
    file.write_text("\n\n".join(" ".join(WORDS[number] for number in line) for line in draws))


if __name__ == "__main__":
    typer.run(main)
