"""The service over real servers, a small model, and text for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.postgresql import PostgreSQL
from tests.services.s3 import S3
from tests.services.stack import Stack, running_stack
from tests.worker.tiny_model import write_text, write_tiny_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model` and `text.txt`; the service may read nothing outside it."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_model(folder / "model")
    write_text(folder / "text.txt")
    return folder


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, models: Path, postgresql_server: PostgreSQL, redis_url: str, s3_server: S3
) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    with running_stack(
        directory,
        database_url=postgresql_server.database(),
        broker_url=redis_url,
        artifact_url=f"{s3_server.url}/{directory.name}",
        artifact_options=s3_server.options,
        model_roots=[str(models)],
    ) as running:
        yield running
