"""Run a program of this folder with the packages of this worktree or of another one.

So one run measures the code of two commits: `git worktree add ../old COMMIT`, and `--old ../old`.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
LOG_TAIL = 2000


@dataclass(frozen=True)
class Answer:
    """The answer of a program; `stopped` says why it ended early, and is empty otherwise."""

    content: dict[str, Any]  # Each program of a benchmark answers in its own form.
    stopped: str = ""


@dataclass(frozen=True)
class Worktree:
    """A checkout of this repository; `python` imports its packages, `environment` is added to that of each process."""

    name: str
    python: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def slowed(self, environment: Mapping[str, str]) -> "Worktree":
        """The same with more variables in the environment."""
        return replace(self, environment={**self.environment, **environment})

    def call(self, program: str, request: Mapping[str, object], limit_seconds: float) -> Answer:
        """Run `benchmarks/PROGRAM.py`, this file's neighbour, for at most `limit_seconds`."""
        with tempfile.TemporaryDirectory() as name:
            request_file, answer_file = Path(name) / "request.json", Path(name) / "answer.json"
            request_file.write_text(json.dumps(request))
            # With -P, nothing is imported from the folder of the program.
            program_file = HERE / "benchmarks" / f"{program}.py"
            command: list[str | Path] = [self.python, "-P", program_file, request_file, answer_file]
            stopped = ""
            with (Path(name) / "log").open("w+", errors="replace") as log:
                try:
                    status = subprocess.run(
                        command,
                        cwd=name,
                        env={**os.environ, **self.environment},
                        stdout=log,
                        stderr=log,
                        timeout=limit_seconds,
                        check=False,
                    ).returncode
                    if status:
                        log.seek(0)
                        stopped = f"status {status}: {log.read()[-LOG_TAIL:].strip()}"
                except subprocess.TimeoutExpired:
                    stopped = f"stopped after {limit_seconds:.0f} s"
            content = json.loads(answer_file.read_text()) if answer_file.exists() else {}
        return Answer(content, stopped)


@contextmanager
def worktrees(old: Path | None) -> Iterator[list[Worktree]]:
    """The old code first, if a worktree of it is named, then that of this file."""
    with tempfile.TemporaryDirectory() as folder:
        roots = {**({"old": old.resolve()} if old else {}), "new": HERE}
        yield [Worktree(name, _python_of(root, Path(folder) / name)) for name, root in roots.items()]


def _python_of(root: Path, environment: Path) -> Path:
    """An interpreter that imports our packages from `root`, and libraries as this one does.

    A virtual environment, because the service starts its jobs without PYTHONPATH.
    """
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    installed = [path for path in sys.path if path and Path(path) not in {HERE, HERE / "client"}]
    (packages / "worktree.pth").write_text("\n".join([str(root), str(root / "client"), *installed]))
    return environment / "bin" / "python"
