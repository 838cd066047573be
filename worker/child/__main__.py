"""The process as it begins: it ends with its parent, reads its input, fetches files, and becomes the confined one."""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import pyprctl

from worker.child.fetch import fetch_files
from worker.child.pipe_reporter import PipeReporter
from worker.child.reported import reported
from worker.confinement import Access, confine
from worker.supervision.messages import ChildRequest


def main(request_file: Path, output: Path, pipe: int, parent: int) -> None:
    """Fetch what the job works on, then run the method on it without a network and without credentials."""
    pyprctl.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        # The supervisor died before the line above took effect, so nobody will ever kill this process.
        sys.exit(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Other jobs on this machine cannot read the credentials in the memory of this one.
    pyprctl.set_dumpable(False)
    credentials = json.load(sys.stdin)
    # Processes that the job starts cannot read the credentials again.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    with reported(pipe) as lines:
        request = ChildRequest.model_validate_json(request_file.read_bytes())
        _limit_memory(request.memory_bytes)
        files = fetch_files(request, credentials, PipeReporter(lines))
        files_file = request_file.with_name("files.json")
        files_file.write_text(files.model_dump_json())
        temporary = Path(os.environ["TMPDIR"])
        request.cache.mkdir(parents=True, exist_ok=True)
        confine(Access([request_file.parent, request.links, *request.roots], [output, temporary, request.cache]))
        # A new program: it has none of the threads, which are not confined, and of the credentials of this one.
        # With the last one, imports start no CUDA, which a fork of that process could not use.
        own = {"HOME": str(temporary), "HF_HUB_OFFLINE": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
        environment = {**os.environ, **own}
        arguments = [str(request_file), str(files_file), str(output), str(pipe)]
        os.execve(sys.executable, [sys.executable, "-P", "-m", "worker.child.confined", *arguments], environment)


def _limit_memory(max_bytes: int | None) -> None:
    """Limit this process and every process it starts. RLIMIT_AS would also count files that torch only maps."""
    if max_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
