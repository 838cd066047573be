"""Microsoft's emulator of Azure's blob storage, which checks signatures."""

import base64
import hashlib
import hmac
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import httpx

from tests.services.processes import free_port, server_process

# The emulator's own, which everybody knows.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONTAINER = "models"
API_VERSION = "2021-08-06"


@dataclass(frozen=True)
class Azurite:
    """A running server with one container."""

    url: str
    options: dict[str, str]


@contextmanager
def azurite(directory: Path) -> Iterator[Azurite]:
    """A server that keeps everything in `directory`. Raises `FileNotFoundError` where it is not installed."""
    program = shutil.which("azurite-blob")
    if program is None:
        raise FileNotFoundError("azurite-blob")
    port = free_port()
    command = [program, "--blobPort", str(port), "--location", str(directory), "--disableTelemetry", "--silent"]
    with server_process(command, port, directory / "azurite.log"):
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        _make_container(endpoint)
        yield Azurite(f"az://{CONTAINER}", {"account_name": ACCOUNT, "account_key": KEY, "endpoint": endpoint})


def _make_container(endpoint: str) -> None:
    """Signed with the account's key (Microsoft's "Authorize with Shared Key"): obstore makes no containers."""
    own = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": API_VERSION}
    signed = [
        "PUT", *[""] * 11, *(f"{name}:{value}" for name, value in own.items()),
        f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}", "restype:container",
    ]  # fmt: skip
    digest = hmac.new(base64.b64decode(KEY), "\n".join(signed).encode(), hashlib.sha256).digest()
    signature = base64.b64encode(digest).decode()
    answer = httpx.put(
        f"{endpoint}/{CONTAINER}?restype=container",
        headers={**own, "Authorization": f"SharedKey {ACCOUNT}:{signature}"},
    )
    answer.raise_for_status()
