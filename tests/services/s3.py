"""An S3 server from a wheel (rclone), which checks signatures and expiry."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services.processes import free_port, server_process

BUCKET = "artifacts"


@dataclass(frozen=True)
class S3:
    """A running server; `files` is the folder in which it keeps what it is given."""

    url: str
    options: dict[str, str]
    files: Path


@contextmanager
def s3(directory: Path) -> Iterator[S3]:
    """A server with one bucket below `directory`."""
    package = importlib.util.find_spec("rclone_api")
    assert package is not None
    assert package.origin is not None
    program = Path(package.origin).parent / "bin" / "rclone"
    files = directory / "buckets" / BUCKET
    files.mkdir(parents=True)
    port, key, secret = free_port(), "test-key", "test-secret-of-some-length"
    command = [
        program, "serve", "s3", "--config", "", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}",
        files.parent,
    ]  # fmt: skip
    options = {
        "endpoint": f"http://127.0.0.1:{port}",
        "access_key_id": key,
        "secret_access_key": secret,
        "region": "us-east-1",
    }
    with server_process(command, port, directory / "s3.log"):
        yield S3(f"s3://{BUCKET}", options, files)
