"""API keys: their form `sglp_<keyid>_<secret>`, and what is kept of them.

The secret is 256 random bits, so nobody can try them all, and its plain SHA-256 is enough: the slow hashes that guard
passwords make up for what a person chooses. Every request pays for this hash.
"""

import hashlib
import re
import secrets
from enum import StrEnum
from typing import NamedTuple

from jobs.ids import new_id

SECRET_BYTES = 32
FORM = re.compile(r"sglp_([0-9a-z]{26})_([0-9a-f]{64})")
TENANT_NAME = r"[a-z0-9][a-z0-9-]{0,62}"


class Scope(StrEnum):
    """What a key is good for. `admin` is for the whole service and holds none of the others."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    ADMIN = "admin"


class Presented(NamedTuple):
    """What a key says: which it is, and the digest of its secret."""

    key_id: str
    secret_sha256: bytes


def make_key() -> tuple[str, Presented]:
    """A new key as its user gets it, and what the service keeps of it."""
    key_id, secret = new_id("key"), secrets.token_hex(SECRET_BYTES)
    return f"sglp_{key_id.removeprefix('key_')}_{secret}", Presented(key_id, _digest(secret))


def read_key(text: str) -> Presented | None:
    """The parts of a key; None for what has not the form of one."""
    matched = FORM.fullmatch(text)
    return Presented(f"key_{matched[1]}", _digest(matched[2])) if matched else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
