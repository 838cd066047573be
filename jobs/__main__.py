"""`python -m jobs migrate` and `python -m jobs create-key`, beside the service; both need its database alone."""

import argparse
import re
import sys
from collections.abc import Sequence

from jobs.database import DATABASE_DOWN, make_engine, make_sessions, migrate, transaction
from jobs.repository import AuditRepository, KeyRepository, SecretRepository, TenantRepository
from jobs.security.api_keys import TENANT_NAME, Scope
from jobs.security.signing_secrets import make_sealer
from jobs.settings import Settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.command == "migrate":
        migrate_and_seal()
    else:
        create_key(parser, parsed)


def migrate_and_seal() -> None:
    """Migrate, then seal what lies plain in the database, or was sealed with a key that is not the first any more."""
    settings = Settings()
    migrate(settings.database_url)
    engine = make_engine(settings)
    with transaction(make_sessions(engine)) as session:
        left = SecretRepository(session).renew(make_sealer(settings).renew)
    engine.dispose()
    for endpoint_id, why in left.items():
        # Jobs need no webhooks, so this must not keep the service from starting.
        print(f"the secret of {endpoint_id} stays as it is: {why}", file=sys.stderr)


def create_key(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Make a key and print it, once; the tenant is made where there is none of this name."""
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
        TenantRepository(session).ensure(options.tenant)
        key, row = KeyRepository(session).create(
            options.tenant,
            options.name,
            options.scope,
            expires_in_seconds=options.expires_days and options.expires_days * 86400,
        )
        AuditRepository(session).record(
            options.tenant, "python -m jobs create-key", key_id=None, subject=row.id, address=None, request_id=None
        )
    engine.dispose()
    print(key)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs", description="What is done beside the running service.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate", help="bring the database up to date and seal its secrets with the newest key")
    create = commands.add_parser("create-key", help="make an API key and print it, once")
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
