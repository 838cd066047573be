"""A secret in every place where one can stand, and a look into every place where none may be.

A new kind of secret is a line in `SECRETS`, and its value where the service is given it.
"""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest
import redis as redis_client
from obstore.store import from_url
from sglp_client import SGLP
from sqlalchemy import create_engine, make_url, select

from jobs.tables import Base
from tests.services.postgresql import PostgreSQL
from tests.services.processes import free_port
from tests.services.redis import redis
from tests.services.s3 import S3
from tests.services.stack import Stack
from tests.worker.tiny_model import tiny_spec

SECRETS = {
    "database password": "canary-of-the-database-5d1c",
    "broker password": "canary-of-the-broker-90ae",
    "artifact store": "canary-of-the-store-77b2",
    "hub token": "canary-of-the-hub-41f0",
    "authorization of a host": "canary-of-a-host-c3d9",
    "output destination": "canary-of-the-destination-c3e8",
    "secret key": "canaryOfTheKeyThatSealsSecretsInTheDatabase=",
}
WAIT_SECONDS = 60


class Places:
    """Texts in which no secret may be, by where they come from; `secrets` may grow while a test runs."""

    def __init__(self) -> None:
        self.secrets = dict(SECRETS)
        self._texts: dict[str, str] = {}

    def add(self, place: str, text: str) -> None:
        assert text, f"{place} is empty, and shows nothing"
        self._texts[place] = text

    def leaks(self) -> list[tuple[str, str]]:
        return [
            (name, place)
            for name, secret in self.secrets.items()
            for place, text in self._texts.items()
            if secret in text or base64.b64encode(secret.encode()).decode().rstrip("=") in text
        ]


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, postgresql_server: PostgreSQL, s3_server: S3, models: Path
) -> Iterator[dict[str, Any]]:
    """A service with a secret wherever a setting can hold one."""
    directory = tmp_path_factory.mktemp("canaries")
    # The server lets everybody in, whatever the password.
    database = make_url(postgresql_server.database()).set(password=SECRETS["database password"])
    with redis(directory, SECRETS["broker password"]) as broker_url:
        yield {
            "database_url": database.render_as_string(hide_password=False),
            "broker_url": broker_url,
            "artifact_url": f"{s3_server.url}/{directory.name}",
            "artifact_options": s3_server.options,
            "model_roots": [str(models)],
            "sources": {
                s3_server.url: s3_server.options,
                "hf://": {"token": SECRETS["hub token"]},
                "https://nowhere.example/": {"authorization": SECRETS["authorization of a host"]},
            },
            "output_destinations": [
                {"prefix": "s3://elsewhere", "options": {"secret_access_key": SECRETS["output destination"]}}
            ],
            "secret_keys": [SECRETS["secret key"]],
            "require_keys": True,
            "presign_seconds": 0,
        }


def first_key(settings: dict[str, Any]) -> str:
    environment = {**os.environ, "SGLP_DATABASE_URL": settings["database_url"]}
    command = [sys.executable, "-m", "jobs", "create-key", "--tenant", "default"]
    for scope in ("admin", "jobs:read", "jobs:write"):
        command += ["--scope", scope]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def uploaded(server: S3, model: Path) -> str:
    """The URI of a model in the bucket."""
    bucket = from_url(server.url, config=server.options, client_options={"allow_http": True})
    for file in model.iterdir():
        obstore.put(bucket, f"models/canary/{file.name}", file)
    return f"{server.url}/models/canary"


def wait_until(true: Callable[[], object], logs: Callable[[], str]) -> None:
    give_up = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < give_up, logs()
        time.sleep(0.1)


def rows(url: str) -> str:
    """Everything in the database."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {table.name: connection.execute(select(table)).all() for table in Base.metadata.sorted_tables}
    engine.dispose()
    assert found["jobs"]
    assert found["audit_events"]
    return repr(found)


def messages(url: str) -> str:
    """Everything in the broker."""
    with redis_client.Redis.from_url(url) as broker:
        lists = [key for key in broker.scan_iter() if broker.type(key) == b"list"]
        return repr([broker.lrange(key, 0, -1) for key in lists]) if lists else ""


def test_a_job_from_start_to_end_shows_no_secret(
    settings: dict[str, Any], s3_server: S3, models: Path, tmp_path: Path
) -> None:
    places = Places()
    places.secrets["artifact store"] = settings["artifact_options"]["secret_access_key"]
    key = first_key(settings)
    places.secrets["API key"] = key.rpartition("_")[2]
    stack = Stack(tmp_path, settings)
    stack.client.close()
    stack.client = SGLP(f"http://127.0.0.1:{stack.port}", api_key=key)
    try:
        stack.start_api()
        stack.start_scheduler()
        spec = tiny_spec(models / "model", models / "text.txt", mode="analyze", target=None)
        # Read with the same secret as the store's.
        spec["model"]["uri"] = uploaded(s3_server, models / "model")
        headers = {"Authorization": f"Bearer {key}"}
        hooks = f"http://127.0.0.1:{stack.port}/v1/webhook-endpoints"
        hook = httpx.post(hooks, headers=headers, json={"url": "https://nowhere.invalid/"}).raise_for_status().json()
        places.secrets["webhook secret"] = hook["secret"].removeprefix("whsec_")
        job_id = stack.client.submit(spec)["id"]
        wait_until(lambda: messages(settings["broker_url"]), stack.logs)
        places.add("broker", messages(settings["broker_url"]))
        stack.start_worker()
        job = stack.wait_for_end(job_id)
        assert job["status"] == "succeeded", stack.logs()
        assert f"{spec['model']['uri']}/config.json" in {each["uri"] for each in job["resolved"]["sources"]}
        stack.client.download(job_id, tmp_path / "out")
        places.add("job", json.dumps(job))
        places.add("events", json.dumps(list(stack.client.events(job_id))))
        places.add("report", json.dumps(stack.client.report(job_id)))
        other = stack.client.create_key("default", "other", ["jobs:read"])["key"]
        places.secrets["a made API key"] = other.rpartition("_")[2]
        for path in (
            "/v1/webhook-endpoints",
            f"/v1/webhook-endpoints/{hook['id']}/deliveries",
            "/v1/admin/keys",
            "/v1/admin/audit-events",
            "/v1/admin/tenants",
            "/openapi.json",
        ):
            places.add(path, httpx.get(f"http://127.0.0.1:{stack.port}{path}", headers=headers).text)
        wrong = {"Authorization": f"Bearer {key}x"}
        places.add("401", httpx.get(f"http://127.0.0.1:{stack.port}/v1/jobs", headers=wrong).text)
        places.add("database", rows(settings["database_url"]))
        places.add("logs", stack.logs())
    finally:
        stack.end()
    assert places.leaks() == []


def test_servers_that_cannot_be_reached_are_told_of_without_secrets(settings: dict[str, Any], tmp_path: Path) -> None:
    places = Places()
    nowhere = f"127.0.0.1:{free_port()}"
    stack = Stack(
        tmp_path,
        {
            **settings,
            "database_url": f"postgresql+psycopg://sglp:{SECRETS['database password']}@{nowhere}/sglp",
            "broker_url": f"redis://:{SECRETS['broker password']}@{nowhere}/0",
            "artifact_options": {
                **settings["artifact_options"],
                "endpoint": f"http://{nowhere}",
                "secret_access_key": SECRETS["artifact store"],
            },
        },
    )
    try:
        stack.start_api()
        stack.start_scheduler()
        stack.start_worker()
        key = f"sglp_{'0' * 26}_{'c' * 64}"
        places.secrets["API key"] = "c" * 64
        answer = httpx.get(f"http://127.0.0.1:{stack.port}/v1/jobs", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 503
        places.add("503", answer.text)
        for words in ("unavailable", "reap fails", "Cannot connect to redis"):
            wait_until(lambda words=words: words in stack.logs(), stack.logs)
        places.add("logs", stack.logs())
    finally:
        stack.end()
    assert places.leaks() == []


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ARTIFACT_OPTIONS", '{"secret_access_key": "<secret>"', "artifact_options"),
        ("ARTIFACT_OPTIONS", '{"secret_access_key": ["<secret>"]}', "artifact_options"),
        ("SOURCES", '{"s3://bucket": {"secret_access_key": ["<secret>"]}}', "sources"),
        ("SOURCES", '{"ftp://bucket": {"secret_access_key": "<secret>"}}', "every place"),
        ("OUTPUT_DESTINATIONS", '[{"prefix": "s3://a", "options": {"key": ["<secret>"]}}]', "output_destinations"),
        ("OUTPUT_DESTINATIONS", '[{"prefix": "s3://u:<secret>@a"}]', "output_destinations"),
        ("SECRET_KEYS", '["<secret>"]', "secret_keys"),
        ("OTLP_ENDPOINT", "http://u:<secret>@h/", "otlp_endpoint"),
        ("DATABASE_URL", "no-scheme:<secret>", "URL"),
        ("DATABASE_URL", "nothing://u:<secret>@h/d", "nothing"),
        ("DATABASE_URL", "postgresql+psycopg://u:<secret>@h:port/d", "port"),
    ],
)
def test_settings_that_cannot_be_read_are_told_of_without_secrets(
    variable: str, value: str, message: str, tmp_path: Path
) -> None:
    secret = "canary-of-a-setting-3c0f"
    setting = {"SGLP_STATE_DIR": str(tmp_path), f"SGLP_{variable}": value.replace("<secret>", secret)}
    refused = subprocess.run(
        [sys.executable, "-m", "api"], env={**os.environ, **setting}, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert message in refused.stderr
    assert secret not in refused.stdout + refused.stderr
