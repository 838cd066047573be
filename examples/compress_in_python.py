"""Compress a model with the library, without the service.

Run it: `python examples/compress_in_python.py /path/to/model text.txt smaller`
"""

import sys
from pathlib import Path

from sglp_core import Calibration, Options, Target, compress


def main(model: str, text: str, output: Path) -> None:
    options = Options(calibration=Calibration(source=text, samples=16, sequence_length=32))
    report = compress(model, Target("layers", 0.25), output, options)
    for row in report.table:
        print(f"{row.metric}: {row.before} -> {row.after}")
    print("removed layers:", report.plan.removed_layers)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
