"""The database's clock, the only one that leases and deadlines are compared with. See docs/decisions/database-clock.md.

PostgreSQL has these functions built in; SQLite keeps times as UTC text of fixed width, which sorts like time.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, Float
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class UTCDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC on both databases."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC))


class now(FunctionElement[datetime]):  # noqa: N801 - named like the SQL it becomes
    """The time on the database's clock."""

    type = UTCDateTime()
    inherit_cache = True


class later(FunctionElement[datetime]):  # noqa: N801
    """`later(seconds)`: the database's time and so many seconds; negative for the past."""

    type = UTCDateTime()
    inherit_cache = True


class seconds_until(FunctionElement[float]):  # noqa: N801
    """`seconds_until(column)`: from the database's time to the column's, negative when that has passed."""

    type = Float()
    inherit_cache = True


@compiles(now, "postgresql")
def _(element: now, compiler: SQLCompiler, **_kw: Any) -> str:
    return "now()"


@compiles(now, "sqlite")
def _(element: now, compiler: SQLCompiler, **_kw: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'"


@compiles(later, "postgresql")
def _(element: later, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(now() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(later, "sqlite")
def _(element: later, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', {seconds} || ' seconds') || '000')"


@compiles(seconds_until, "postgresql")
def _(element: seconds_until, compiler: SQLCompiler, **kw: Any) -> str:
    return f"extract(epoch from {compiler.process(element.clauses, **kw)} - now())"


@compiles(seconds_until, "sqlite")
def _(element: seconds_until, compiler: SQLCompiler, **kw: Any) -> str:
    return f"((julianday({compiler.process(element.clauses, **kw)}) - julianday('now')) * 86400.0)"
