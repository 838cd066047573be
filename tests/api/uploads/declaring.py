"""Uploads of a few files, declared, sent and completed."""

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import httpx
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore
from tests.api.conftest import SPEC

Sessions = sessionmaker[Session]
Key = dict[str, str]
# More than two parts of a multipart upload.
LARGE = random.Random(0).randbytes(1 << 20) * 20
TEXT = b"the cat sat on the mat\n"


def declared(content: bytes, name: str = "text.txt", **changes: Any) -> dict[str, Any]:
    return {"name": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}


def declare(client: httpx.Client, key: Key, *files: dict[str, Any], kind: str = "dataset") -> httpx.Response:
    return client.post("/v1/uploads", json={"name": "mine", "kind": kind, "files": files}, headers=key)


def opened(client: httpx.Client, key: Key, *files: dict[str, Any], kind: str = "dataset") -> dict[str, Any]:
    answer = declare(client, key, *files, kind=kind)
    assert answer.status_code == 201, answer.text
    return answer.json()


def ready(client: httpx.Client, key: Key, content: bytes = TEXT, kind: str = "dataset") -> dict[str, Any]:
    """An upload that jobs may read."""
    upload = opened(client, key, declared(content), kind=kind)
    assert client.put(upload["files"][0]["link"], content=content, headers=key).status_code == 204
    answer = client.post(upload["links"]["complete"], headers=key)
    assert answer.status_code == 200, answer.text
    return answer.json()


def reading(upload: dict[str, Any]) -> dict[str, Any]:
    return {**SPEC, "calibration": {"source": upload["uri"]}}


def stored(store: ArtifactStore) -> list[str]:
    return store.list("uploads/")


def in_pieces(content: bytes, size: int = 1 << 18) -> Iterator[bytes]:
    """A body whose length no header tells."""
    for start in range(0, len(content), size):
        yield content[start : start + size]
