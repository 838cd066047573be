"""Alembic's entry: runs the migrations on the configured database, one process at a time."""

from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from jobs.settings import Settings
from jobs.tables import Base

# Any number of our own; it only has to be the same in every process.
ADVISORY_LOCK = 0x53474C50


def run() -> None:
    url = context.config.get_main_option("sqlalchemy.url") or Settings().database_url
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        postgresql = connection.dialect.name == "postgresql"
        context.configure(connection, target_metadata=Base.metadata, render_as_batch=not postgresql)
        with context.begin_transaction():
            if postgresql:
                # A migration that cannot get its locks soon must not make every request wait behind it.
                connection.execute(text("SET LOCAL lock_timeout = '60s'"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
            context.run_migrations()
    engine.dispose()


run()
