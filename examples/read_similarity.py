"""Read the similarity matrix of a result, and print which neighbouring layers are most alike and which were removed.

Run it on the output of `sglp compress` or `sglp download`: `python examples/read_similarity.py smaller`
"""

import json
import sys
from pathlib import Path

import numpy as np


def main(result: Path) -> None:
    analysis = json.loads((result / "analysis.json").read_text())
    with np.load(result / "similarity.npz") as file:
        similarity = file["similarity"]  # CKA of the layers' outputs, [L, L]
    print("segments (first and last layer):", analysis["segments"])
    print("removed layers:", [layer["index"] for layer in analysis["layers"] if layer["removed"]])
    neighbours = np.diagonal(similarity, offset=1)
    for first in np.argsort(-neighbours)[:3]:
        print(f"layers {first} and {first + 1}: CKA {neighbours[first]:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
