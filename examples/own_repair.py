"""Add a repair, and compress a model with it.

python examples/own_repair.py /path/to/model text.txt smaller
"""

import sys
from pathlib import Path

import torch

from sglp_core import Calibration, Method, Target, compress
from sglp_core.options import Options
from sglp_core.repair import REPAIRS, Candidate, Cut, CutRepair, CutStreams
from sglp_core.repair.fold import fold
from sglp_core.tasks import Batch


class LouderWrite:
    """One factor s for all that the last write before the cut adds: argmin Σ ‖s · M − (y − h + M)‖².

    M is what the write adds, h the pruned stream and y the target.
    """

    def __init__(self, cut: Cut) -> None:
        self.model, self.write = cut.model, cut.writes_before().modules[0]
        self.squares = self.by_target = self.by_rest = 0.0

    def add(self, _batch: Batch, streams: CutStreams, *, held_out: bool) -> None:
        assert not held_out  # only rows with `uses_held_out` get held-out batches
        assert streams.written is not None
        added = streams.written.double()
        self.squares += float((added * added).sum())
        self.by_target += float((added * streams.target).sum())
        self.by_rest += float((added * (streams.pruned - added)).sum())

    def build(self, shrinkage: float) -> Candidate:
        factor = (self.by_target / shrinkage - self.by_rest) / self.squares
        return Candidate(fold(self.model, self.write, torch.tensor(factor)))


REPAIRS["louder_write"] = CutRepair(LouderWrite)


def main(model: str, text: str, output: Path) -> None:
    options = Options(
        method=Method(repair="auto"),  # tries louder_write beside the others; repair="louder_write" uses it alone
        calibration=Calibration(source=text, samples=16, sequence_length=32),
    )
    report = compress(model, Target("layers", 0.25), output, options=options)
    for attempt in report.repair.attempts:
        verdict = "accepted" if attempt.accepted else attempt.reason
        print(f"layers {attempt.cut[0]} to {attempt.cut[1]}, {attempt.kind}: {verdict}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
