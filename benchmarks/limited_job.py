"""A job through the embedded service under a limit of memory, watched from outside; for `larger_than_memory.py`.

Run by `worktree_process.py`. The limit is RLIMIT_DATA, which the service sets for the job and every process it starts
(SGLP_JOB_MEMORY_BYTES). It counts what a process allocates, heap and private mappings, and not the pages of shared file
mappings, which the kernel drops when memory is short. A version 2 control group would limit what is resident, but only
an administrator may make one.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
from sglp_client import SGLP

from sglp_service.embedded_stack import EmbeddedStack

SAMPLE_SECONDS = 0.02
SAMPLES_A_QUESTION = 50
JOB = ["-m", "worker.child.confined"]
# What a job's process has imported before it reads any weight.
IMPORTED = "import worker.child.confined, sglp_core; print(open('/proc/self/status').read())"
COUNTED = {"VmData": "allocated", "RssAnon": "anonymous", "RssFile": "files", "RssShmem": "shared"}


def main(request_file: Path, answer_file: Path) -> None:
    """Run the job of the request; `share` is what the job may allocate beside its imports, of `weight_bytes`."""
    request = json.loads(request_file.read_text())
    status = subprocess.run([sys.executable, "-c", IMPORTED], check=True, stdout=subprocess.PIPE, text=True).stdout
    imported = _bytes_of(status)
    limit = imported["allocated"] + int(request["share"] * request["weight_bytes"])
    os.environ["SGLP_JOB_MEMORY_BYTES"] = str(limit)
    with (
        EmbeddedStack(Path(request["state"]), model_roots=[Path(request["root"])]) as stack,
        SGLP(stack.url) as service,
    ):
        begin = time.perf_counter()
        job_id = service.submit(request["spec"])["id"]
        peaks: dict[str, int] = {}
        while (job := service.get(job_id))["finished_at"] is None:
            answer = {"imported": imported, "limit_bytes": limit, "peaks": peaks, "phase": job["phase"]}
            answer_file.write_text(json.dumps(answer))
            _watch(peaks)
        answer |= {
            "seconds": time.perf_counter() - begin,
            "error": job["error"],
            "report": service.report(job_id) if job["status"] == "succeeded" else None,
        }
    answer_file.write_text(json.dumps(answer))


def _watch(peaks: dict[str, int]) -> None:
    """For a second, raise `peaks` to the most that one process of the job holds, in bytes of each kind."""
    family = _processes_of_the_job()
    for _ in range(SAMPLES_A_QUESTION):
        for process in family:
            with suppress(FileNotFoundError, ProcessLookupError):
                for kind, value in _bytes_of(Path(f"/proc/{process.pid}/status").read_text()).items():
                    peaks[kind] = max(peaks.get(kind, 0), value)
        time.sleep(SAMPLE_SECONDS)


def _processes_of_the_job() -> list[psutil.Process]:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.cmdline()[2:4] == JOB:
                return [process, *process.children(recursive=True)]
    return []


def _bytes_of(status: str) -> dict[str, int]:
    """The figures of a `/proc/PID/status` that are counted."""
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {kind: int(lines[name].split()[0]) * 1024 for name, kind in COUNTED.items() if name in lines}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
