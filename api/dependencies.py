"""What routes need: the database, the artifact store, the settings, and whose jobs a request is about."""

import re
from http import HTTPStatus
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from sqlalchemy.orm import Session, sessionmaker

from api.events.watcher import JobWatcher
from api.protocol.problems import Problem
from jobs.artifacts import ArtifactStore
from jobs.repository import Caller, RankedJob
from jobs.security.signing_secrets import Sealer
from jobs.settings import Settings
from jobs.tables import Job

AnyJob = TypeVar("AnyJob", Job, RankedJob)
JOB_ID = re.compile("job_[0-9a-z]{26}")

# All are `async`: the framework runs other dependencies in a thread pool.


async def _sessions(request: Request) -> sessionmaker[Session]:
    sessions: sessionmaker[Session] = request.app.state.sessions
    return sessions


async def _store(request: Request) -> ArtifactStore:
    store: ArtifactStore = request.app.state.store
    return store


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _sealer(request: Request) -> Sealer:
    sealer: Sealer = request.app.state.sealer
    return sealer


async def _tenant(request: Request) -> str:
    """The tenant of the caller, who has been let in; see `api/middleware/authentication.py`."""
    caller: Caller = request.state.caller
    return caller.tenant


async def _watcher(request: Request) -> JobWatcher:
    watcher: JobWatcher = request.app.state.watcher
    return watcher


Sessions = Annotated[sessionmaker[Session], Depends(_sessions)]
Store = Annotated[ArtifactStore, Depends(_store)]
SecretSealer = Annotated[Sealer, Depends(_sealer)]
ServiceSettings = Annotated[Settings, Depends(_settings)]
Watcher = Annotated[JobWatcher, Depends(_watcher)]
Tenant = Annotated[str, Depends(_tenant)]


async def _job_id(job_id: str) -> str:
    """An id as this service makes them; whatever else is asked for is not there."""
    if not JOB_ID.fullmatch(job_id):
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no job {job_id}")
    return job_id


JobId = Annotated[str, Depends(_job_id)]


def job_or_404(job: AnyJob | None, job_id: str) -> AnyJob:
    """The job, or a 404; another tenant's job is answered exactly like one that never was."""
    if job is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no job {job_id}")
    return job


def expired(job_id: str) -> Problem:
    """A 410 for files that are kept no longer."""
    return Problem(HTTPStatus.GONE, f"the files of {job_id} were kept until their expires_at; retry the job")
