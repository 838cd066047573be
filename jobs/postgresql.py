"""Connections to PostgreSQL that are closed when it does not answer in time.

A server that was stopped, or hangs on its disk, still has a kernel that keeps its connections alive: neither TCP's
timeouts nor the server's own end a wait for it.
"""

from typing import Any, Self, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

CONNECT_SECONDS = 5
# A server that works says itself that a statement took too long.
SLACK_SECONDS = 2.0

Answer = TypeVar("Answer")


class AnswerTimeoutConnection(psycopg.Connection[TupleRow]):
    """Waits `answer_timeout_seconds` for an answer; a connection without an answer by then is closed."""

    answer_timeout_seconds: float = CONNECT_SECONDS

    @classmethod
    def open(cls, statement_seconds: float, *arguments: Any, **parameters: Any) -> Self:
        """A connection whose server ends every statement after `statement_seconds`; if it does not, we close the
        connection `SLACK_SECONDS` later.
        """
        milliseconds = round(statement_seconds * 1000)
        limits = {
            "connect_timeout": CONNECT_SECONDS,
            "options": f"-c timezone=UTC -c statement_timeout={milliseconds} -c lock_timeout=10s "
            "-c idle_in_transaction_session_timeout=60s",
            "keepalives_idle": 10,
            "tcp_user_timeout": 30_000,
        }
        connection = cls.connect(*arguments, **{**parameters, **limits})
        connection.answer_timeout_seconds = statement_seconds + SLACK_SECONDS
        return connection

    def wait(self, gen: PQGen[Answer], interval: float = 0.1, timeout: float | None = None) -> Answer:
        try:
            return super().wait(gen, interval, timeout or self.answer_timeout_seconds)
        except psycopg.OperationalError:
            if self.info.transaction_status is TransactionStatus.ACTIVE:
                # What is still to come would be taken for the answer to the next statement.
                self.close()
            raise
