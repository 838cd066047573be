"""A service that asks for keys."""

import os
import sys
from collections.abc import Iterator

import pytest

from jobs.database import migrate
from tests.client.cli.keyed_service import Service, run_module
from tests.services.processes import free_port, server_process


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Its key was made first."""
    folder, port = tmp_path_factory.mktemp("service"), free_port()
    url = f"sqlite:///{folder / 'sglp.db'}"
    migrate(url)
    settings = {"SGLP_STATE_DIR": str(folder), "SGLP_PORT": str(port), "SGLP_REQUIRE_KEYS": "true"}
    environment = {**os.environ, **settings, "COLUMNS": "200"}
    made = run_module(environment, "--tenant", "operators", "--scope", "admin", "--scope", "jobs:read")
    assert made.returncode == 0, made.stderr
    address = f"http://127.0.0.1:{port}"
    with server_process([sys.executable, "-m", "api"], port, folder / "api.log", environment):
        yield address, {**environment, "SGLP_API_KEY": made.stdout.strip(), "SGLP_URL": address}
