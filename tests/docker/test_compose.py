"""What `.env` says reaches the processes that docker-compose.yml starts; nothing here needs a Docker engine."""

import json
import os

import pytest

from jobs.settings import Settings
from tests.docker.rendered import rendered

PROCESSES = ("api", "worker", "scheduler", "migrate")
FIXED = {
    "state_dir": "everything that would lie in it has a place of its own here",
    "database_url": "the database is the stack's own",
    "broker_url": "so is the broker",
    "artifact_url": "so is the artifact store",
    "artifact_options": "so are its credentials, which .env has as S3_ACCESS_KEY and S3_SECRET_KEY",
    "presign_seconds": "clients outside cannot reach the store by the name that would be signed",
    "model_roots": "the folder inside the container; .env says with SGLP_MODELS what is mounted there",
    "cache_dir": "a volume; the image says where",
    "work_dir": "a volume; the image says where",
    "host": "every address of the container; the image says so",
    "port": "the port inside the container; SGLP_PORT in .env is the one on the host",
    "require_keys": "the stack is never open",
}


# Keys that a process does not need.
WITHHELD = {"worker": {"secret_keys"}}


def environments(**variables: str) -> dict[str, dict[str, str | None]]:
    """The variables of each process, given those of docker/example.env and these."""
    services = rendered(**variables)["services"]
    return {name: services[name]["environment"] for name in PROCESSES}


def variable(field: str) -> str:
    return f"SGLP_{field.upper()}"


def test_every_setting_is_passed_on_or_fixed_for_a_reason() -> None:
    assert FIXED.keys() <= Settings.model_fields.keys()
    given = {variable(field): f"from .env: {field}" for field in Settings.model_fields}
    # The port on the host has to be a number.
    given["SGLP_PORT"] = "8001"
    for process, environment in environments(**given).items():
        passed = {
            field for field in Settings.model_fields if environment.get(variable(field)) == given[variable(field)]
        }
        assert passed == Settings.model_fields.keys() - FIXED.keys() - WITHHELD.get(process, set()), process


def test_what_env_does_not_set_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SGLP_")]:
        monkeypatch.delenv(name)
    environment = environments()["worker"]
    for name, value in environment.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    read = Settings()
    assert read.artifact_options["access_key_id"] == "change-me"
    assert read.require_keys
    defaults = {
        name: field.default for name, field in Settings.model_fields.items() if name not in {*FIXED, "secret_keys"}
    }
    constant = {name: value for name, value in defaults.items() if isinstance(value, int | float | str | tuple)}
    assert len(constant) > 15
    assert {name: getattr(read, name) for name in constant} == constant


def test_sources_and_destinations_are_read_as_they_stand_in_env(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {"s3://models": {"access_key_id": "a", "secret_access_key": 'b$"c'}, "hf://": {"token": "hf_x"}}
    for name, value in environments(SGLP_SOURCES=json.dumps(sources))["worker"].items():
        if value is not None:
            # Compose writes a dollar twice in what it renders, and once where a container gets it.
            monkeypatch.setenv(name, value.replace("$$", "$"))
    assert Settings().sources == sources
