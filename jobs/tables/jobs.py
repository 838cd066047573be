"""Jobs, and what hangs on one: its events, its published files, what it has measured."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, String, text
from sqlalchemy.orm import Mapped, mapped_column

from jobs.states import TERMINAL, State
from jobs.tables.base import Base, Json, JsonObject


def _in(column: str, words: frozenset[State]) -> str:
    return f"{column} IN ({', '.join(repr(word.value) for word in sorted(words))})"


class Job(Base):
    """A job and where it stands. `fence` grows with every change of holder; `version` with every visible change.

    `precedence` is minus its priority, so that an index sorts jobs as they wait; `claimed_at` is when its holder took
    it, `attempt_seconds` how long the last attempt took that is over. `hinted_at` is of the release before, whose
    schedulers still write it.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(_in("state", frozenset(State)), name="state"),
        CheckConstraint("(state IN ('running', 'cancelling')) = (lease_until IS NOT NULL)", name="lease"),
        CheckConstraint(f"({_in('state', TERMINAL)}) = (finished_at IS NOT NULL)", name="finished"),
        CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name="error"),
        Index("ix_jobs_tenant_id", "tenant", "id"),
        Index("ix_jobs_tenant_state", "tenant", "state"),
        Index("ix_jobs_state_hinted_at", "state", "hinted_at"),
        Index("ix_jobs_lease_until", "lease_until"),
        Index(
            "ix_jobs_held",
            "gpu_class",
            "tenant",
            postgresql_where=text("lease_until IS NOT NULL"),
            sqlite_where=text("lease_until IS NOT NULL"),
        ),
        Index(
            "ix_jobs_waiting",
            "gpu_class",
            "tenant",
            "precedence",
            "id",
            postgresql_where=text("state = 'queued'"),
            sqlite_where=text("state = 'queued'"),
        ),
        Index(
            "ix_jobs_unswept",
            "finished_at",
            postgresql_where=text("swept_at IS NULL AND finished_at IS NOT NULL"),
            sqlite_where=text("swept_at IS NULL AND finished_at IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    spec: Mapped[JsonObject]
    gpu_class: Mapped[str] = mapped_column(String(64))
    precedence: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime]
    version: Mapped[int]
    last_event_seq: Mapped[int]
    attempt: Mapped[int]
    max_attempts: Mapped[int]
    fence: Mapped[int]
    worker: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    claimed_at: Mapped[datetime | None]
    attempt_seconds: Mapped[float | None]
    not_before: Mapped[datetime]
    hinted_at: Mapped[datetime | None]
    phase: Mapped[str | None] = mapped_column(String(32))
    progress: Mapped[JsonObject | None]
    resolved: Mapped[JsonObject | None]
    plan: Mapped[JsonObject | None]
    result: Mapped[JsonObject | None]
    error: Mapped[JsonObject | None]
    retry_of: Mapped[str | None] = mapped_column(String(40))
    swept_at: Mapped[datetime | None]
    traceparent: Mapped[str | None] = mapped_column(String(55))


class Event(Base):
    """What happened to a job, numbered without gaps from 1. At most one event of a job is its end."""

    __tablename__ = "job_events"
    __table_args__ = (
        Index(
            "ix_job_events_terminal",
            "job_id",
            unique=True,
            postgresql_where=text(_in("type", TERMINAL)),
            sqlite_where=text(_in("type", TERMINAL)),
        ),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(32))
    data: Mapped[JsonObject]
    created_at: Mapped[datetime]


class Artifact(Base):
    """A published file of a job; the row is what publishes it. The object goes at `removed_at`, once it has expired."""

    __tablename__ = "artifacts"
    __table_args__ = (
        Index(
            "ix_artifacts_expires_at",
            "expires_at",
            postgresql_where=text("removed_at IS NULL"),
            sqlite_where=text("removed_at IS NULL"),
        ),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(512), primary_key=True)
    media_type: Mapped[str] = mapped_column(String(128))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    removed_at: Mapped[datetime | None]


class Analysis(Base):
    """What a job has measured. `matrix` is the L × L similarity, float32, little endian, row by row."""

    __tablename__ = "analyses"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    layers: Mapped[list[JsonObject]] = mapped_column(Json)
    matrix: Mapped[bytes] = mapped_column(LargeBinary)
    layer_names: Mapped[list[str]]
    segments: Mapped[list[list[int]]] = mapped_column(Json)
    loss_curve: Mapped[list[float | None]] = mapped_column(Json)
    estimator: Mapped[str] = mapped_column(String(16))
    kernel: Mapped[str] = mapped_column(String(16))
    n_samples: Mapped[int] = mapped_column(BigInteger)
    sample_unit: Mapped[str] = mapped_column(String(32))
