"""Alembic's entry: runs the migrations on the configured database, one process at a time."""

from alembic import context
from alembic.util import CommandError
from psycopg.errors import LockNotAvailable
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from jobs.database import open_engine
from jobs.settings import Settings
from jobs.tables import Base

# Any number of our own; it only has to be the same in every process.
ADVISORY_LOCK = 0x53474C50
# An index on a large table takes its time; so do the migrations of another process that are waited for.
MOST_SECONDS = 6 * 3600.0
# Of a migration that waits for a table, every request that needs the table waits behind it.
LOCK_SECONDS = 5


def run() -> None:
    url = context.config.get_main_option("sqlalchemy.url") or Settings().database_url
    # On SQLite its transactions begin with the write lock, so a second process waits here, too.
    engine = open_engine(url, MOST_SECONDS)
    postgresql = engine.dialect.name == "postgresql"
    if not postgresql:
        # SQLite changes a table by copying it, and dropping the old one would delete every row that refers to it.
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = OFF"))
    with engine.connect() as connection:
        context.configure(
            connection, target_metadata=Base.metadata, render_as_batch=not postgresql, transactional_ddl=True
        )
        with context.begin_transaction():
            if postgresql:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
                connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
            try:
                context.run_migrations()
            except OperationalError as error:
                if not isinstance(error.orig, LockNotAvailable):
                    raise
                raise CommandError(
                    f"another transaction has held a table for {LOCK_SECONDS} s; nothing was changed. End it "
                    "(`SELECT pid, query FROM pg_stat_activity ORDER BY xact_start`) or wait, and migrate again"
                ) from error
    engine.dispose()


run()
