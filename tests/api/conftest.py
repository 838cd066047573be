"""The API served over real HTTP, and jobs in every state without a worker."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from cryptography.fernet import Fernet
from sqlalchemy.orm import Session, sessionmaker

from api.app import make_app
from jobs.artifacts import ArtifactStore, open_store
from jobs.database import migrate, transaction
from jobs.repository import ClaimRepository, Outcome, PublishedArtifact, StoredAnalysis
from jobs.settings import Settings
from tests.services.postgresql import PostgreSQL
from tests.services.processes import free_port
from tests.services.s3 import S3

MATRIX = np.array([[1.0, 0.5, 0.25], [0.5, 1.0, 0.75], [0.25, 0.75, 1.0]], dtype="<f4")
LAYERS = [{"index": i, "name": f"h.{i}", "removed": i == 1} for i in range(3)]
FILES = {
    "report.json": json.dumps({"table": []}).encode(),
    "report.md": b"# model <script>x</script>\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    "similarity.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "model/config.json": b'{"n_layer": 2}',
    "model/model.safetensors": bytes(range(256)) * 40,
    # Longer than the name field of a tar header.
    f"model/{'long/' * 30}file.txt": b"far away",
    "model/empty": b"",
}
MEDIA_TYPES = {".json": "application/json", ".md": "text/markdown", ".png": "image/png"}


@pytest.fixture(params=["sqlite and a folder", "PostgreSQL and S3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """The two ways the service is run."""
    roots = (tmp_path / "models",)
    if request.param == "sqlite and a folder":
        url = f"sqlite:///{tmp_path / 'test.db'}"
        migrate(url)
        return Settings(database_url=url, artifact_url=(tmp_path / "artifacts").as_uri(), model_roots=roots)
    database: PostgreSQL = request.getfixturevalue("postgresql_server")
    objects: S3 = request.getfixturevalue("s3_server")
    return Settings(
        database_url=database.database(),
        artifact_url=f"{objects.url}/{tmp_path.name}",
        artifact_options=objects.options,
        model_roots=roots,
        secret_keys=(Fernet.generate_key().decode(),),
    )


@pytest.fixture
def database_url(settings: Settings) -> str:
    return settings.database_url


@contextmanager
def serving(settings: Settings) -> Iterator[httpx.Client]:
    """The API over HTTP, and a client of it."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(make_app(settings), port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as session:
            yield session
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    with serving(settings) as session:
        yield session


@pytest.fixture
def store(settings: Settings) -> ArtifactStore:
    return open_store(settings)


@pytest.fixture
def finish(finish_for: Callable[[str, float], None]) -> Callable[[str], None]:
    """Ends a job as a worker would, with `FILES` as its artifacts, which are kept for ever."""
    return lambda job_id: finish_for(job_id, 0)


@pytest.fixture
def finish_for(sessions: sessionmaker[Session], store: ArtifactStore, tmp_path: Path) -> Callable[[str, float], None]:
    """The same for files that are kept for so many days."""

    def run(job_id: str, retention_days: float) -> None:
        with transaction(sessions) as session:
            claim = ClaimRepository(session).claim(job_id, worker="w", gpu_class="default", lease_seconds=60)
        assert claim is not None
        artifacts = []
        for name, content in FILES.items():
            file = tmp_path / "upload"
            file.write_bytes(content)
            key, media_type = f"jobs/{job_id}/1/{name}", MEDIA_TYPES.get(Path(name).suffix, "application/octet-stream")
            artifacts.append(PublishedArtifact(name, media_type, *store.put(key, file, media_type), key))
        analysis = StoredAnalysis(
            layers=LAYERS,
            matrix=MATRIX.tobytes(),
            layer_names=[str(layer["name"]) for layer in LAYERS],
            segments=[[0, 1], [2, 2]],
            loss_curve=[3.0, 1.0, 0.0],
            estimator="unbiased",
            kernel="linear",
            n_samples=64,
            sample_unit="token position",
        )
        with transaction(sessions) as session:
            outcome = Outcome({"table": []}, artifacts=artifacts, analysis=analysis)
            assert ClaimRepository(session).succeed(job_id, 1, outcome, retention_days=retention_days)

    return run


SPEC = {"model": {"uri": "hf://org/name"}, "target": {"kind": "parameters", "ratio": 0.25}}


@pytest.fixture
def submit(client: httpx.Client) -> Callable[[], str]:
    def post() -> str:
        response = client.post("/v1/jobs", json=SPEC)
        assert response.status_code == 202, response.text
        job_id: str = response.json()["id"]
        return job_id

    return post
