"""What jobs have made, on this machine's disk until it is published: neither a store that fails nor a restart of the
worker costs the work. See docs/decisions/kept-results.md.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction
from jobs.repository import UpkeepRepository
from jobs.settings import Settings
from jobs.tables import JsonObject
from worker.results.collect import Collected, collect
from worker.untrusted_files import UntrustedFile

FOLDER = "finished"
# In the folder of the job's next attempt.
EARLIER = "finished-earlier"
FILES, FACTS = "files", "facts.json"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Finished:
    """The files that a job has made, and the `facts` of it that the database stores, by name."""

    collected: Collected
    facts: dict[str, JsonObject]


class FinishedResults:
    """The results below `work_dir`; workers that share that folder share them."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session]) -> None:
        self._root = settings.work_dir / FOLDER
        self._max_bytes = settings.output_max_bytes
        self._sessions = sessions

    def keep(self, job_id: str, output: Path, facts: dict[str, JsonObject], directory: Path) -> Finished:
        """Take what a job has written to `output`, by way of its attempt's `directory`. Raises `UntrustedFile`."""
        new = directory / FOLDER
        new.mkdir()
        collected = collect(output, new / FILES, self._max_bytes)
        (new / FACTS).write_text(json.dumps(facts))
        self._root.mkdir(parents=True, exist_ok=True)
        # An earlier attempt may have left one.
        self.forget(job_id)
        # In one step, as a worker may be killed at any moment.
        new.rename(self._root / job_id)
        return Finished(replace(collected, folder=self._root / job_id / FILES), facts)

    def find(self, job_id: str, directory: Path) -> Finished | None:
        """The result of an earlier attempt, if it is here, with files below `directory`."""
        kept = self._root / job_id
        if not kept.is_dir():
            return None
        try:
            collected = collect(kept / FILES, directory / EARLIER, self._max_bytes)
            facts: dict[str, Any] = json.loads((kept / FACTS).read_bytes())
        except (UntrustedFile, OSError, ValueError) as error:
            log.warning("the finished result of an earlier attempt cannot be used", error=str(error))
            self.forget(job_id)
            return None
        return Finished(collected, facts)

    def jobs(self) -> list[str]:
        """The jobs whose results are here, whatever has become of them."""
        return [path.name for path in self._root.iterdir()] if self._root.is_dir() else []

    def remove_ended(self) -> None:
        """Remove the results of jobs that have ended, or that there are no more."""
        kept = self.jobs()
        if not kept:
            return
        with transaction(self._sessions) as session:
            unfinished = UpkeepRepository(session).unfinished(kept)
        for job_id in set(kept) - unfinished:
            self.forget(job_id)

    def forget(self, job_id: str) -> None:
        """Remove the result of this job."""
        shutil.rmtree(self._root / job_id, ignore_errors=True)
