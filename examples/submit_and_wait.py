"""Submit a job to a running service, wait for its end, and download what it made.

Run it beside `sglp up --models /path/to/models`:
`python examples/submit_and_wait.py file:///path/to/models/mine smaller`
"""

import argparse
import sys
from pathlib import Path

from sglp_client import SGLP


def main() -> None:
    arguments = parse_arguments()
    spec = {
        "model": {"uri": arguments.model},
        "target": {"kind": "layers", "ratio": arguments.remove},
        "calibration": {"source": arguments.calibration, "samples": 16, "sequence_length": 32},
    }
    with SGLP(arguments.url) as service:
        # The same key never makes a second job, so a pipeline may run this step again.
        job = service.submit(spec, idempotency_key=arguments.key)
        job = service.wait(job["id"], on_update=lambda each: print(each["status"], each["phase"] or ""))
        if job["plan"] is None or job["status"] != "succeeded":
            sys.exit(f"{job['status']}: {job['error']}")
        print("removed layers:", job["plan"]["removed_layers"])
        print("files:", service.download(job["id"], arguments.output))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Submit a job, wait for its end, download the result.")
    parser.add_argument("model", help="URI of a model, such as hf://org/name or file:///path")
    parser.add_argument("output", type=Path, help="folder for the result")
    parser.add_argument("--remove", type=float, default=0.25, help="fraction of the layers to remove")
    parser.add_argument("--calibration", default="self", help="'self', or the URI of a file of text")
    parser.add_argument("--key", help="idempotency key")
    parser.add_argument("--url", default="http://localhost:8000", help="where the service listens")
    return parser.parse_args()


if __name__ == "__main__":
    main()
