"""The secrets that webhooks are signed with: made here, sealed before they lie in the database, opened to sign.

Where the keys come from that seal them, and what holds without any: docs/decisions/webhook-secrets.md.
"""

import base64
import os
import secrets
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import make_url

from jobs.settings import Settings

PLAIN = "whsec_"


class SecretKeyMissing(Exception):
    """A secret can be neither sealed nor opened; the message says why."""


class NoSecretKey(SecretKeyMissing):
    """There is no key to seal a secret with."""

    def __init__(self) -> None:
        super().__init__(
            "webhooks need a key to keep their secrets with, and SGLP_SECRET_KEYS of this service has none"
        )


class LostSecretKey(SecretKeyMissing):
    """A secret was sealed with a key that this process was not started with."""

    def __init__(self) -> None:
        super().__init__("the secret is sealed with a key that is not in SGLP_SECRET_KEYS")


class Sealer:
    """Seals with the first of its keys and opens with any. Secrets that were never sealed are read as they are."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._first = Fernet(keys[0]) if keys else None
        self._any = MultiFernet([Fernet(key) for key in keys]) if keys else None

    def seal(self, secret: str) -> str:
        """Raises `NoSecretKey`."""
        if self._first is None:
            raise NoSecretKey
        return self._first.encrypt(secret.encode()).decode()

    def open(self, stored: str) -> str:
        """Raises `LostSecretKey`."""
        if stored.startswith(PLAIN):
            return stored
        if self._any is None:
            raise LostSecretKey
        try:
            return self._any.decrypt(stored).decode()
        except InvalidToken:
            raise LostSecretKey from None

    def renew(self, stored: str) -> str:
        """The same secret sealed with the first key. Raises `NoSecretKey` and `LostSecretKey`."""
        if self._first is not None and not stored.startswith(PLAIN):
            with suppress(InvalidToken):
                self._first.decrypt(stored)
                return stored
        return self.seal(self.open(stored))


def new_secret() -> str:
    """256 bits, as Standard Webhooks writes them."""
    return PLAIN + base64.b64encode(secrets.token_bytes(32)).decode()


def make_sealer(settings: Settings) -> Sealer:
    """With the keys of the settings, and that beside a SQLite database; it is made where there is no other."""
    keys = list(settings.secret_keys)
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        file = Path(f"{url.database}.key")
        if not keys:
            _make_once(file)
        if file.exists():
            keys.append(file.read_text())
    return Sealer(keys)


def _make_once(file: Path) -> None:
    """Several processes may start at once, and all must read the same whole key: the first to finish wins."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    # Only its owner may read what this makes.
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f"{file.name}.")
    with os.fdopen(handle, "wb") as unnamed:
        unnamed.write(Fernet.generate_key())
        unnamed.flush()
        os.fsync(unnamed.fileno())
    with suppress(FileExistsError):
        os.link(name, file)
    Path(name).unlink()
