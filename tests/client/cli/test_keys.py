"""`sglp keys` and the key of every other command, against a real API that asks for keys."""

import subprocess
import sys
from pathlib import Path

import pytest
from sglp_client import SGLP, BadKey, SGLPProblem

from tests.client.cli.keyed_service import Service, run_module, sglp


def test_a_key_is_made_listed_used_and_revoked(service: Service) -> None:
    made = sglp(service, "keys", "create", "--tenant", "operators", "--name", "nightly", "--scope", "jobs:read")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    key_id = f"key_{key.split('_')[1]}"
    assert sglp(service, "jobs", SGLP_API_KEY=key).returncode == 0
    assert sglp(service, "--api-key", key, "jobs", SGLP_API_KEY="").returncode == 0
    listed = sglp(service, "keys", "list").stdout
    assert key_id in listed
    assert "nightly" in listed
    assert key.rpartition("_")[2] not in listed
    assert sglp(service, "keys", "revoke", key_id).returncode == 0
    assert "revoked" in sglp(service, "keys", "list").stdout
    refused = sglp(service, "jobs", SGLP_API_KEY=key)
    assert (refused.returncode, "an API key that holds" in refused.stderr) == (1, True)


def test_the_first_key_is_refused_where_a_word_is_wrong(service: Service) -> None:
    for wrong in (("--tenant", "No"), ("--scope", "all"), ("--expires-days", "x")):
        refused = run_module(service[1], "--tenant", "a", "--scope", "admin", *wrong)
        assert (refused.returncode, refused.stdout) == (2, "")


def test_a_key_that_cannot_be_sent_is_not_repeated(service: Service) -> None:
    for bad in ("secret\nkey", "secretäkey"):
        refused = sglp(service, "jobs", SGLP_API_KEY=bad)
        assert refused.returncode == 1
        assert "secret" not in refused.stderr + refused.stdout
        assert "the API key has characters" in refused.stderr
    with pytest.raises(BadKey), SGLP(service[0], api_key="a\nb"):
        pass


def test_the_help_does_not_show_the_key(service: Service) -> None:
    shown = sglp(service, "--help").stdout
    assert "SGLP_API_KEY" in shown
    assert service[1]["SGLP_API_KEY"] not in shown


def test_the_sdk_takes_a_key_of_its_own(service: Service) -> None:
    with SGLP(service[0], api_key=service[1]["SGLP_API_KEY"]) as client:
        assert list(client.list()) == []
        assert service[1]["SGLP_API_KEY"] not in repr(vars(client))
    with SGLP(service[0], api_key="sglp_x") as client, pytest.raises(SGLPProblem):
        list(client.list())


def test_a_service_that_is_not_here_is_one_plain_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs", "create-key", "--tenant", "ops", "--scope", "admin"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert refused.returncode == 2
    assert "run this where the service runs, or set SGLP_STATE_DIR" in refused.stderr
    assert "Traceback" not in refused.stderr
