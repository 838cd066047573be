"""Names of published files that mean harm: they come back as they are, and stay inside their header."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore, StorageUnavailable
from jobs.database import transaction
from jobs.repository import ClaimRepository, Outcome, PublishedArtifact

NAMES = [
    'model/a"; filename="b.exe',
    "model/ünï ☃",
    "model/%0d%0aSet-Cookie: stolen=1",
    "model/<script>alert(1)</script>",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_published_name_stays_in_its_header(
    name: str,
    client: httpx.Client,
    submit: Any,
    sessions: sessionmaker[Session],
    store: ArtifactStore,
    tmp_path: Path,
) -> None:
    job_id = submit()
    (tmp_path / "file").write_bytes(b"content")
    key = f"jobs/{job_id}/1/{name}"
    with transaction(sessions) as session:
        assert ClaimRepository(session).claim(job_id, worker="w", gpu_class="default", lease_seconds=60)
    published = PublishedArtifact(name, "text/plain", *store.put(key, tmp_path / "file", "text/plain"), key)
    with transaction(sessions) as session:
        assert ClaimRepository(session).succeed(job_id, 1, Outcome({}, artifacts=[published]))
    (listed,) = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    assert listed["name"] == name
    answer = client.get(listed["link"], follow_redirects=True)
    assert (answer.status_code, answer.content) == (200, b"content")
    assert "set-cookie" not in answer.headers
    if not answer.history:
        disposition = answer.headers["content-disposition"]
        assert disposition.startswith("attachment; filename*=UTF-8''")
        assert disposition.isascii()
        assert not set('"\r\n; ') & set(disposition.removeprefix("attachment; "))


@pytest.mark.parametrize("name", ["a\r\nSet-Cookie: stolen=1", "\x1b[31mred", "a\0b"])
def test_no_name_with_a_control_character_is_stored(name: str, store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(StorageUnavailable):
        store.put(f"jobs/job_1/1/{name}", tmp_path / "file", "text/plain")
    assert store.list("jobs/") == []
