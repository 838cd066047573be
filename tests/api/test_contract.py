"""The OpenAPI document against the service: schemathesis makes requests up and checks every answer."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from cryptography.fernet import Fernet
from sqlalchemy.orm import Session, sessionmaker

from jobs.security.api_keys import Scope
from jobs.settings import Settings
from tests.api.keyed import make_key, with_keys
from tests.services.postgresql import PostgreSQL

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
EXAMPLES, SEED = "10", "20261124"


@pytest.fixture
def settings(postgresql_server: PostgreSQL, tmp_path: Path) -> Settings:
    """One way of running it is enough: every answer comes from the API."""
    plain = Settings(
        database_url=postgresql_server.database(),
        artifact_url=(tmp_path / "artifacts").as_uri(),
        model_roots=(tmp_path,),
        requests_per_minute=10_000_000,
        secret_keys=(Fernet.generate_key().decode(),),
    )
    return with_keys(plain)


def test_every_answer_is_as_documented(client: httpx.Client, sessions: sessionmaker[Session], tmp_path: Path) -> None:
    key = make_key(sessions, "fuzz", *Scope)["Authorization"]
    program = Path(sys.executable).with_name("schemathesis")
    command = [
        program, "--config-file", CONFIGURATION, "run", f"{client.base_url}/openapi.json", "--header",
        f"Authorization: {key}", "--max-examples", EXAMPLES, "--seed", SEED, "--checks", "all",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    generated = re.search(r"([\d,]+) generated", run.stdout)
    assert generated
    print(generated[0])
    assert int(generated[1].replace(",", "")) > 300
