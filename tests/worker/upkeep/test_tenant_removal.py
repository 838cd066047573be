"""A deleted tenant is refused at once and leaves nothing, in any table or in the artifact store."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from jobs.__main__ import main
from jobs.artifacts import ArtifactStore, open_place
from jobs.database import transaction
from jobs.repository import (
    AuditRepository,
    ClaimRepository,
    DeclaredFile,
    IdempotentRequest,
    JobRepository,
    KeyRepository,
    Left,
    Outcome,
    PublishedArtifact,
    RemovalRepository,
    SubmissionRepository,
    TenantDeleting,
    TenantRepository,
    UploadRepository,
    WebhookRepository,
)
from jobs.security.api_keys import Scope, read_key
from jobs.settings import Settings
from jobs.spec import JobSpec
from jobs.tables import Base
from tests.jobs.repository.lives import ANALYSIS, SPEC, Sessions
from worker.upkeep.cleanup import Sweeper
from worker.upkeep.tenant_caches import remove_departed_caches
from worker.upkeep.tenant_removal import TenantRemoval

# Of the service, not of a tenant; and the trail of who did what, which stays as long as its retention says.
NOT_REMOVED = {"tallies", "health", "queues", "audit_events"}
AT_ONCE = Settings(sweep_after_seconds=1e-9)
Rows = dict[str, list[tuple[Any, ...]]]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_place((tmp_path / "store").as_uri(), {})


def rows(sessions: Sessions) -> Rows:
    with transaction(sessions) as session:
        tables = Base.metadata.tables.items()
        return {name: sorted(map(tuple, session.execute(select(table))), key=repr) for name, table in tables}


def objects(store: ArtifactStore) -> list[str]:
    return sorted(store.list(""))


def put(store: ArtifactStore, tmp_path: Path, key: str) -> tuple[int, str]:
    file = tmp_path / "file"
    file.write_bytes(b"of the tenant")
    return store.put(key, file, "text/plain")


def submit(sessions: Sessions, tenant: str, key: str | None = None, **spec: Any) -> str:
    request = IdempotentRequest(key, "0" * 64) if key else None
    with transaction(sessions) as session:
        asked = JobSpec.model_validate({**SPEC.model_dump(mode="json"), **spec})
        submitted = SubmissionRepository(session).submit(tenant, asked, request, max_attempts=3, max_queued=100)
        return submitted[0].id


def start(sessions: Sessions, job_id: str) -> None:
    with transaction(sessions) as session:
        assert ClaimRepository(session).claim(job_id, worker="w", gpu_class="default", lease_seconds=60)


def succeed(sessions: Sessions, store: ArtifactStore, tmp_path: Path, job_id: str) -> None:
    start(sessions, job_id)
    key = f"jobs/{job_id}/1/report.json"
    artifact = PublishedArtifact("report.json", "application/json", *put(store, tmp_path, key), key)
    put(store, tmp_path, f"jobs/{job_id}/1/never-published")
    with transaction(sessions) as session:
        assert ClaimRepository(session).succeed(job_id, 1, Outcome({}, artifacts=[artifact], analysis=ANALYSIS))


def furnish(sessions: Sessions, store: ArtifactStore, tmp_path: Path, tenant: str) -> tuple[str, str]:
    """Everything a tenant can have; its key, and the job that is running."""
    with transaction(sessions) as session:
        TenantRepository(session).ensure(tenant)
        key, _ = KeyRepository(session).create(tenant, "test", [Scope.JOBS_READ], expires_in_seconds=None)
        WebhookRepository(session).create(tenant, "https://example.com/", ["job.succeeded"], "sealed")
        uploads = UploadRepository(session)
        upload = uploads.create(tenant, "mine", "dataset", [DeclaredFile("mine.txt", 13, "0" * 64)])
        uploads.complete(tenant, upload.id, retention_days=0)
        AuditRepository(session).record(
            tenant, "POST /v1/jobs", key_id=None, subject=None, address=None, request_id=None
        )
    put(store, tmp_path, f"uploads/{upload.id}/mine.txt")
    succeed(sessions, store, tmp_path, submit(sessions, tenant, "key", calibration={"source": f"upload://{upload.id}"}))
    deleted = submit(sessions, tenant)
    succeed(sessions, store, tmp_path, deleted)
    with transaction(sessions) as session:
        assert JobRepository(session).delete(tenant, deleted)
    submit(sessions, tenant)
    running = submit(sessions, tenant, calibration={"source": f"upload://{upload.id}"})
    start(sessions, running)
    put(store, tmp_path, f"jobs/{running}/1/healing-state")
    return key, running


def begin(sessions: Sessions, tenant: str) -> bool:
    with transaction(sessions) as session:
        return RemovalRepository(session).begin(tenant)


def left(sessions: Sessions, tenant: str) -> Left:
    with transaction(sessions) as session:
        return RemovalRepository(session).left(tenant)


def test_nothing_of_a_deleted_tenant_is_left_and_nothing_of_another_is_touched(
    sessions: Sessions, store: ArtifactStore, tmp_path: Path
) -> None:
    furnish(sessions, store, tmp_path, "stays")
    Sweeper(sessions, store, AT_ONCE).remove_deleted_jobs()
    before, objects_before = rows(sessions), objects(store)
    _, running = furnish(sessions, store, tmp_path, "goes")
    for name, there in rows(sessions).items():
        assert name in NOT_REMOVED or len(there) > len(before[name]), f"put a row of the tenant into {name}"
    assert {key.split("/")[0] for key in set(objects(store)) - set(objects_before)} == {"jobs", "uploads"}

    assert begin(sessions, "goes")
    assert left(sessions, "goes") == Left(unfinished_jobs=2, ended_jobs=1, deleted_jobs=1, uploads=1)
    removals = [TenantRemoval(sessions, store, AT_ONCE) for _ in range(2)]

    def both() -> None:
        """As two schedulers do it at once."""
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(removal.remove_tenants) for removal in removals]:
                done.result()

    both()
    # A job that runs, and the upload that it reads, stay until its worker has stopped.
    assert left(sessions, "goes") == Left(unfinished_jobs=1, ended_jobs=0, deleted_jobs=1, uploads=1)
    with transaction(sessions) as session:
        assert ClaimRepository(session).cancelled(running, 1)
    both()
    assert left(sessions, "goes") == Left(unfinished_jobs=0, ended_jobs=0, deleted_jobs=1, uploads=0)
    Sweeper(sessions, store, AT_ONCE).remove_deleted_jobs()
    both()

    after = rows(sessions)
    assert {name: after[name] for name in after if name not in NOT_REMOVED} == {
        name: before[name] for name in before if name not in NOT_REMOVED
    }
    assert objects(store) == objects_before
    # Also by the round in which there was nothing to do.
    both()
    (event,) = [event for event in rows(sessions)["audit_events"] if "tenant removed" in event]
    assert "goes" in event


def test_who_acts_for_a_tenant_that_is_being_deleted_is_refused_at_once(
    sessions: Sessions, store: ArtifactStore, tmp_path: Path
) -> None:
    key, _ = furnish(sessions, store, tmp_path, "goes")
    presented = read_key(key)
    assert presented is not None
    begin(sessions, "goes")
    with transaction(sessions) as session:
        assert KeyRepository(session).check(presented) is None
    with pytest.raises(TenantDeleting):
        submit(sessions, "goes")
    with pytest.raises(TenantDeleting), transaction(sessions) as session:
        UploadRepository(session).create("goes", "more", "dataset", [])
    # Made by a request that saw the tenant before it was to be deleted.
    with transaction(sessions) as session:
        late, _ = KeyRepository(session).create("goes", "late", [Scope.JOBS_READ], expires_in_seconds=None)
    TenantRemoval(sessions, store, Settings()).remove_tenants()
    presented = read_key(late)
    assert presented is not None
    with transaction(sessions) as session:
        assert KeyRepository(session).check(presented) is None
        # A request that was let in before may still be at work, so the name is not free yet.
        assert TenantRepository(session).get("goes") is not None


def test_the_command_begins_and_then_says_what_is_left(
    sessions: Sessions,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SGLP_DATABASE_URL", database_url)

    def run(*arguments: str) -> Sequence[str]:
        main(arguments)
        return capsys.readouterr().out.split("; ")

    with pytest.raises(SystemExit):
        run("delete-tenant", "goes")
    with transaction(sessions) as session:
        TenantRepository(session).ensure("goes")
    submit(sessions, "goes")
    for _ in range(2):
        assert "left: 1 unfinished jobs, 0 ended jobs" in run("delete-tenant", "goes")[1]
    with pytest.raises(SystemExit):
        run("create-key", "--tenant", "goes", "--scope", "admin")


def test_a_worker_removes_the_caches_of_tenants_that_are_gone(sessions: Sessions, tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path)
    remove_departed_caches(settings, sessions)
    for tenant in ("gone", "there", "keyless"):
        (tmp_path / "tenants" / tenant / "analyses").mkdir(parents=True)
    with transaction(sessions) as session:
        TenantRepository(session).ensure("there")
    # Where no keys are required, a tenant has jobs and no row.
    submit(sessions, "keyless")
    remove_departed_caches(settings, sessions)
    assert sorted(each.name for each in (tmp_path / "tenants").iterdir()) == ["keyless", "there"]
