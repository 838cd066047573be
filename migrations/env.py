"""Alembic's entry: runs the migrations on the configured database, one process at a time."""

from alembic import context
from sqlalchemy import event, text

from jobs.database import open_engine
from jobs.settings import Settings
from jobs.tables import Base

# Any number of our own; it only has to be the same in every process.
ADVISORY_LOCK = 0x53474C50
# An index on a large table takes its time; so do the migrations of another process that are waited for.
MOST_SECONDS = 6 * 3600.0


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
                # A migration that cannot get its locks soon must not make every request wait behind it.
                connection.execute(text("SET LOCAL lock_timeout = '60s'"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
            context.run_migrations()
    engine.dispose()


run()
