"""Add an importance criterion, and compress a model with it.

python examples/own_criterion.py /path/to/model text.txt smaller
"""

import json
import sys
from pathlib import Path

import numpy as np

from sglp_core import Calibration, Method, Target, compress
from sglp_core.analysis.criteria import CRITERIA, Criterion, LayerTrace
from sglp_core.options import Options


def turned_gradient(trace: LayerTrace) -> np.ndarray:
    """The gradient's norm times how far the layer turns the residual stream: one score a layer, `[L]`."""
    scores: np.ndarray = np.sqrt(trace.squared_gradient.mean(0)) * trace.angle.mean(0)
    return scores


CRITERIA["turned_gradient"] = Criterion(turned_gradient)


def main(model: str, text: str, output: Path) -> None:
    options = Options(
        method=Method(importance="turned_gradient"),
        calibration=Calibration(source=text, samples=16, sequence_length=32),
    )
    report = compress(model, Target("layers", 0.25), output, options=options)
    print("removed layers:", report.plan.removed_layers)
    for layer in json.loads((output / "analysis.json").read_text())["layers"]:
        print(f"layer {layer['index']}: {layer['importance']['turned_gradient']:.4f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
