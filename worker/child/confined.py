"""`python -m worker.child.confined REQUEST FILES OUTPUT PIPE`: the method, in the process that is confined by now."""

import gc
import signal
import sys
from pathlib import Path

from worker.child.fetch import LocalFiles
from worker.child.method import run_method
from worker.child.pipe_reporter import PipeReporter
from worker.child.reported import reported
from worker.supervision.messages import ChildRequest, FinishedMessage


def main(request_file: Path, files_file: Path, output: Path, pipe: int) -> None:
    """Run the method and report how it ended; the exit status is 0 only after `finished`."""
    # Importing makes a million objects that stay: looking through them for garbage would take a sixth of the time.
    gc.disable()
    # Before torch is imported, which takes seconds.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with reported(pipe) as lines:
        files = LocalFiles.model_validate_json(files_file.read_bytes())
        request = ChildRequest.model_validate_json(request_file.read_bytes())
        run_method(files, request, output, PipeReporter(lines, files.sources))
        lines.write(FinishedMessage().model_dump_json() + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
