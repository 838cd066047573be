"""A client that openapi-python-client generates from the OpenAPI document has right types and works."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import migrate
from jobs.security.api_keys import Scope
from jobs.settings import Settings
from tests.api.keyed import key_of, make_key, with_keys

PROGRAM = Path(__file__).with_name("submit_by_generated_client.py")
DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
# The generator's own template passes `*args: object` to `__exit__`.
MYPY = "[mypy]\nstrict = true\n[mypy-generated_client.client]\ndisable_error_code = arg-type\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """One way of running it is enough: the answers are the same."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    migrate(url)
    return with_keys(Settings(database_url=url, artifact_url=(tmp_path / "artifacts").as_uri()))


def test_a_generated_client_type_checks_and_submits_a_job(
    client: httpx.Client, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    authorization = make_key(sessions, "acme", Scope.JOBS_READ, Scope.JOBS_WRITE)
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "MYPYPATH": str(tmp_path),
        "PYTHONPATH": str(tmp_path),
    }

    def run(*command: str | Path) -> str:
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    package = tmp_path / "generated_client"
    run(programs / "openapi-python-client", "generate", "--path", DOCUMENT, "--meta", "none", "--output-path", package)
    (tmp_path / "mypy.ini").write_text(MYPY)
    run(programs / "mypy", "--config-file", tmp_path / "mypy.ini", package, PROGRAM)
    job_id, *shown = run(sys.executable, PROGRAM, str(client.base_url), key_of(authorization)).split()
    assert shown == ["0.25", "queued", "cancelled"]
    assert client.get(f"/v1/jobs/{job_id}", headers=authorization).json()["status"] == "cancelled"
