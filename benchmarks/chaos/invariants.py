"""The invariants that must hold after the faults, checked in the database and the object store."""

import hashlib
import itertools
from collections.abc import Mapping

from sqlalchemy import Connection, func, select

from jobs.artifacts import ArtifactStore
from jobs.states import TERMINAL
from jobs.tables import Artifact, Event, Job, WebhookDelivery, WebhookEndpoint
from worker.upkeep.cleanup import attempt_of


def violations(connection: Connection, store: ArtifactStore, accepted: Mapping[str, str]) -> dict[str, list[str]]:
    """The violations of each invariant; an empty list means that it holds. `accepted` maps keys to jobs."""
    jobs = {row.id: row for row in connection.execute(select(Job.__table__))}
    counted = select(Event.job_id, func.count()).where(Event.type.in_(TERMINAL)).group_by(Event.job_id)
    ends = dict(connection.execute(counted).tuples().all())
    promised = set(accepted.values())
    return {
        "lost": sorted(promised - jobs.keys()),
        "duplicated": sorted(jobs.keys() - promised),
        "stuck": [job_id for job_id, job in jobs.items() if job.state not in TERMINAL],
        "not exactly one end": [job_id for job_id in jobs if ends.get(job_id, 0) != 1],
        "too many attempts": [job_id for job_id, job in jobs.items() if job.attempt > job.max_attempts],
        "a live lease": [job_id for job_id, job in jobs.items() if job.lease_until is not None],
        "events with gaps": _gaps(connection, {job_id: job.last_event_seq for job_id, job in jobs.items()}),
        "an artifact without its bytes": _damaged(connection, store),
        "objects nobody published": _unpublished(connection, store),
        "webhooks not one for each end": _webhooks(connection, jobs.keys()),
    }


def restart_seconds(connection: Connection) -> list[float]:
    """From every requeue after a lost lease to the next start of the job."""
    rows = connection.execute(select(Event.__table__).order_by(Event.job_id, Event.seq)).all()
    return [
        (after.created_at - before.created_at).total_seconds()
        for before, after in itertools.pairwise(rows)
        if before.job_id == after.job_id and before.type == "requeued" and after.type == "running"
    ]


def _gaps(connection: Connection, last: Mapping[str, int]) -> list[str]:
    counted = select(Event.job_id, func.count(), func.max(Event.seq)).group_by(Event.job_id)
    return [job_id for job_id, count, top in connection.execute(counted) if not count == top == last[job_id]]


def _damaged(connection: Connection, store: ArtifactStore) -> list[str]:
    bad = []
    for row in connection.execute(select(Artifact.__table__)):
        digest = hashlib.sha256()
        try:
            for chunk in store.stream(row.key):
                digest.update(chunk)
        except (FileNotFoundError, OSError) as error:
            bad.append(f"{row.key}: {type(error).__name__}")
            continue
        if digest.hexdigest() != row.sha256:
            bad.append(row.key)
    return bad


def _unpublished(connection: Connection, store: ArtifactStore) -> list[str]:
    published = {attempt_of(key) for (key,) in connection.execute(select(Artifact.key))}
    return [key for key in store.list("jobs/") if attempt_of(key) not in published]


def _webhooks(connection: Connection, job_ids: object) -> list[str]:
    endpoints = list(connection.execute(select(WebhookEndpoint.id)).scalars())
    delivered = sorted(connection.execute(select(WebhookDelivery.job_id, WebhookDelivery.endpoint_id)).tuples())
    expected = sorted((job_id, endpoint) for job_id in job_ids for endpoint in endpoints)  # type: ignore[attr-defined]
    repeated = ["repeated"] if len(delivered) != len(set(delivered)) else []
    return [str(each) for each in set(delivered) ^ set(expected)] + repeated
