"""`python -m jobs migrate`, `create-key`, `delete-tenant` and `check`, beside the service. They need its database
alone, but for the last, which compares it with the artifact store.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from alembic.util import CommandError
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import StorageUnavailable, open_store
from jobs.consistency import compare
from jobs.database import DATABASE_DOWN, make_engine, make_sessions, migrate, transaction
from jobs.repository import AuditRepository, KeyRepository, RemovalRepository, SecretRepository, TenantRepository
from jobs.security.api_keys import TENANT_NAME, Scope
from jobs.security.signing_secrets import make_sealer
from jobs.settings import Settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.command == "migrate":
        migrate_and_seal()
    elif parsed.command == "create-key":
        create_key(parser, parsed)
    elif parsed.command == "delete-tenant":
        delete_tenant(parser, parsed.name)
    else:
        sys.exit(check(parser, read_contents=parsed.hash))


def migrate_and_seal() -> None:
    """Migrate, then seal what lies plain in the database, or was sealed with a key that is not the first any more."""
    settings = Settings()
    try:
        migrate(settings.database_url)
    except CommandError as error:
        sys.exit(str(error))
    engine = make_engine(settings)
    with transaction(make_sessions(engine)) as session:
        left = SecretRepository(session).renew(make_sealer(settings).renew)
    engine.dispose()
    for endpoint_id, why in left.items():
        # Jobs need no webhooks, so this must not keep the service from starting.
        print(f"the secret of {endpoint_id} stays as it is: {why}", file=sys.stderr)


def create_key(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Make a key and print it, once; the tenant is made where there is none of this name."""
    with _sessions(parser) as sessions, transaction(sessions) as session:
        tenants = TenantRepository(session)
        tenants.ensure(options.tenant)
        tenant = tenants.get(options.tenant)
        if tenant is None or tenant.deleting_at is not None:
            parser.error(f"the tenant {options.tenant} is being deleted")
        key, row = KeyRepository(session).create(
            options.tenant,
            options.name,
            options.scope,
            expires_in_seconds=options.expires_days and options.expires_days * 86400,
        )
        AuditRepository(session).record(
            options.tenant, "python -m jobs create-key", key_id=None, subject=row.id, address=None, request_id=None
        )
    print(key)


def delete_tenant(parser: argparse.ArgumentParser, name: str) -> None:
    """Begin to delete a tenant, or ask once more, and print what is left of it."""
    with _sessions(parser) as sessions, transaction(sessions) as session:
        removal = RemovalRepository(session)
        if not removal.begin(name):
            parser.error(f"there is no tenant {name}")
        left = removal.left(name)
        AuditRepository(session).record(
            name, "python -m jobs delete-tenant", key_id=None, subject=name, address=None, request_id=None
        )
    counts = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in vars(left).items())
    print(f"{name} is being deleted by the scheduler; left: {counts}")


def check(parser: argparse.ArgumentParser, *, read_contents: bool) -> int:
    """Compare database and artifact store, and print what does not fit; 1 where something is lost."""
    with _sessions(parser) as sessions:
        try:
            found = compare(sessions, open_store(Settings()), read_contents=read_contents)
        except StorageUnavailable as error:
            parser.error(str(error))
    for fault, keys in found.keys_by_fault().items():
        for key in keys:
            print(f"{fault:<20} {key}")
    print(f"{'files in rows':<20} {found.files}, {found.size_bytes} bytes")
    for fault, keys in found.keys_by_fault().items():
        print(f"{fault:<20} {len(keys)}")
    return 0 if found.is_whole else 1


@contextmanager
def _sessions(parser: argparse.ArgumentParser) -> Iterator[sessionmaker[Session]]:
    """The database of the settings."""
    engine = make_engine(Settings())
    try:
        try:
            engine.connect().close()
        except DATABASE_DOWN:
            parser.error(
                f"no database answers at {engine.url!r}; run this where the service runs, or set SGLP_STATE_DIR or "
                "SGLP_DATABASE_URL"
            )
        yield make_sessions(engine)
    finally:
        engine.dispose()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs", description="What is done beside the running service.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate", help="bring the database up to date and seal its secrets with the newest key")
    create = commands.add_parser("create-key", help="make an API key and print it, once")
    create.add_argument("--tenant", required=True, type=_tenant_name, help="made where there is none of this name")
    create.add_argument("--name", default="first key", help="what the key is for")
    create.add_argument("--scope", required=True, action="append", type=Scope, choices=list(Scope), help="repeatable")
    create.add_argument("--expires-days", type=int, help="without it the key holds until it is revoked")
    remove = commands.add_parser("delete-tenant", help="delete a tenant with all it has; asked again, say what is left")
    remove.add_argument("name", type=_tenant_name)
    compared = commands.add_parser("check", help="compare database and artifact store; 1 where an object is missing")
    compared.add_argument("--hash", action="store_true", help="read every file and compare its sha256 too")
    return parser


def _tenant_name(text: str) -> str:
    if not re.fullmatch(TENANT_NAME, text):
        raise argparse.ArgumentTypeError("must have small letters, digits and hyphens, at most 63")
    return text


if __name__ == "__main__":
    main()
