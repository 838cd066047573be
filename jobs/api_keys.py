"""API keys: their form `sglp_<keyid>_<secret>`, what is kept of them, and `python -m jobs.api_keys create` for the first.

The secret is 256 random bits, so nobody can try them all, and its plain SHA-256 is enough: the slow hashes that guard
passwords make up for what a person chooses. Every request pays for this hash.
"""

import argparse
import hashlib
import re
import secrets
from collections.abc import Sequence
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
    found = FORM.fullmatch(text)
    return Presented(f"key_{found[1]}", _digest(found[2])) if found else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a key on the service's own machine; only its database is needed. The key is printed once."""
    # Not above: the repository knows this file.
    from jobs.database import DATABASE_DOWN, make_engine, make_sessions, transaction
    from jobs.repository import AuditRepository, KeyRepository, TenantRepository
    from jobs.settings import Settings

    parser = _parser()
    given = parser.parse_args(arguments)
    engine = make_engine(Settings())
    try:
        with engine.connect():
            pass
    except DATABASE_DOWN:
        parser.error(
            f"no database answers at {engine.url!r}; run this where the service runs, or set SGLP_STATE_DIR or "
            "SGLP_DATABASE_URL"
        )
    with transaction(make_sessions(engine)) as session:
        TenantRepository(session).ensure(given.tenant)
        key, row = KeyRepository(session).create(
            given.tenant, given.name, given.scope, expires_in_seconds=given.expires_days and given.expires_days * 86400
        )
        AuditRepository(session).note(
            given.tenant, "python -m jobs.api_keys create", key_id=None, subject=row.id, address=None, request_id=None
        )
    engine.dispose()
    print(key)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.api_keys", description="Make an API key and print it, once.")
    commands = parser.add_subparsers(required=True)
    create = commands.add_parser("create")
    create.add_argument("--tenant", required=True, type=_tenant_name, help="made where there is none of this name")
    create.add_argument("--name", default="first key", help="what the key is for")
    create.add_argument("--scope", required=True, action="append", type=Scope, choices=list(Scope), help="repeatable")
    create.add_argument("--expires-days", type=int, help="without it the key holds until it is revoked")
    return parser


def _tenant_name(text: str) -> str:
    if not re.fullmatch(TENANT_NAME, text):
        raise argparse.ArgumentTypeError("must have small letters, digits and hyphens, at most 63")
    return text


if __name__ == "__main__":
    main()
