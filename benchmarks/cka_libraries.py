"""CKA between all layers of a real model: time and error of this package, `pytorch-cka` and `torch-cka`.

    python -m benchmarks.cka_libraries --data ../shared/data

Everyone gets the same activations, replayed from memory so that no model runs while the clock does; errors are against
the direct formula in float64. Libraries that are missing are left out: pip install pytorch-cka torch-cka matplotlib
"""

import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sglp_core.analysis.similarity import SimilarityAccumulator
from sglp_core.data.token_windows import text_windows
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Calibration, Options
from sglp_core.run_context import RunContext
from sglp_core.structure.layer_calls import layer_output
from sglp_core.structure.layer_stack import layers_of
from sglp_service.demo import find_model

CACHE = Path("~/.cache/sglp").expanduser()
# Who takes as long as this is not timed again.
ENOUGH_SECONDS = 20
Measure = Callable[[Tensor, int], np.ndarray]


def main(
    data: Annotated[Path, typer.Option(help="Folder with wikitext-2/.", exists=True)],
    samples: Annotated[int, typer.Option(min=4, help="Token positions of one batch.")] = 256,
    batches: Annotated[int, typer.Option(min=1)] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Times everyone is timed.")] = 3,
) -> None:
    """Print seconds and largest error of each."""
    activations = _activations(data / "wikitext-2/valid.txt", samples * batches)
    expected = _direct(activations, samples)
    table = Table(
        "who", "seconds (median)", "spread", "× ours", "largest error", "mean error",
        title=f"CKA of {activations.shape[1]} layers, {batches} batches of {samples} positions, width "
        f"{activations.shape[2]}, {repeats} repeats",
        caption="errors are absolute, against the direct formula in float64",
    )  # fmt: skip
    ours = 0.0
    for name, measure in MEASURES.items():
        package = PACKAGES.get(name)
        if package and importlib.util.find_spec(package) is None:
            print(f"{name} is not installed and takes no part: pip install {name}", file=sys.stderr)
            continue
        times: list[float] = []
        while len(times) < repeats and sum(times) < ENOUGH_SECONDS:
            begin = time.perf_counter()
            matrix = measure(activations, samples)
            times.append(time.perf_counter() - begin)
        median = statistics.median(times)
        ours = ours or median
        error = np.abs(matrix - expected)
        spread = f"{min(times):.2f}–{max(times):.2f}"
        table.add_row(
            name, f"{median:.2f}", spread, f"{median / ours:,.0f}", f"{error.max():.1e}", f"{error.mean():.1e}"
        )
    Console(width=120).print(table)


@torch.no_grad()
def _activations(text: Path, count: int) -> Tensor:
    """What every layer of SmolLM2-135M-Instruct hands on at `count` positions of real text, `[count, L, D]`."""
    loaded = load_model(
        find_model().as_uri(), Options(calibration=Calibration(sequence_length=256)), RunContext(cache=CACHE)
    )
    windows = text_windows(text, loaded.processor, count // 255 + 1, 256, 0)
    features: list[list[Tensor]] = []
    for layer in layers_of(loaded.model, loaded.stack.path):
        kept: list[Tensor] = []
        features.append(kept)
        # A text's first position is left out, as everywhere in this package.
        layer.register_forward_hook(
            lambda _m, _a, output, kept=kept: kept.append(layer_output(output)[:, 1:].flatten(0, 1))
        )
    for ids in windows.input_ids.split(4):
        loaded.model(input_ids=ids, use_cache=False)
    return torch.stack([torch.cat(kept)[:count].float() for kept in features], 1)


def _direct(activations: Tensor, samples: int) -> np.ndarray:
    """Unbiased CKA term by term in float64 (Song et al. 2007, eq. 5), sums over batches divided at the end."""
    count = activations.shape[1]
    hsic = np.zeros((count, count))
    for batch in activations.split(samples):
        grams = [x.double() @ x.double().T for x in batch.unbind(1)]
        n = samples
        for gram in grams:
            gram.fill_diagonal_(0)
        for i, k in enumerate(grams):
            for j, m in enumerate(grams[: i + 1]):
                term = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ m.sum(0)) / (n - 2)
                hsic[i, j] += term.item() / (n * (n - 3))
    hsic = hsic + np.tril(hsic, -1).T
    own = np.diag(hsic)
    matrix: np.ndarray = hsic / np.sqrt(np.outer(own, own))
    return matrix


class _Replay(nn.Module):
    """A model whose layers return their input: column l of the input is a recorded output of layer l."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Identity() for _ in range(count))

    def forward(self, activations: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            layer(activations[:, index])
        return activations


def _sglp(activations: Tensor, samples: int) -> np.ndarray:
    accumulator = SimilarityAccumulator()
    for batch in activations.split(samples):
        accumulator.add(list(batch.unbind(1)))
    return accumulator.matrix()


def _pytorch_cka(activations: Tensor, samples: int) -> np.ndarray:
    from cka import compute_cka

    count = activations.shape[1]
    names = [f"layers.{index}" for index in range(count)]
    loader = DataLoader(TensorDataset(activations), batch_size=samples)
    model = _Replay(count)
    (similarity,) = compute_cka(model, model, loader, layers=names, device="cpu", progress=False)
    matrix: np.ndarray = similarity.cpu().double().numpy()
    return matrix


def _torch_cka(activations: Tensor, samples: int) -> np.ndarray:
    from torch_cka import CKA

    count = activations.shape[1]
    names = [f"layers.{index}" for index in range(count)]
    loader = DataLoader(TensorDataset(activations), batch_size=samples)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        cka = CKA(_Replay(count), _Replay(count), "left", "right", names, names, device="cpu")
        cka.compare(loader, loader)
    matrix: np.ndarray = cka.export()["CKA"].double().numpy()
    return matrix


MEASURES: dict[str, Measure] = {"sglp": _sglp, "pytorch-cka": _pytorch_cka, "torch-cka": _torch_cka}
PACKAGES = {"pytorch-cka": "cka", "torch-cka": "torch_cka"}


if __name__ == "__main__":
    typer.run(main)
