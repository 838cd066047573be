"""Whose turn it is: how much of a class's workers each tenant has used. `jobs/repository/queue/` says how."""

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from jobs.tables.base import Base


class Queue(Base):
    """The waiting jobs of a GPU class. The row is locked while a job is chosen; `virtual_time` only grows."""

    __tablename__ = "queues"

    gpu_class: Mapped[str] = mapped_column(String(64), primary_key=True)
    virtual_time: Mapped[float]


class Share(Base):
    """A tenant's part of a class: `virtual_time` is what its attempts that are over have taken, in worker seconds by
    weight; `mean_seconds` is how long one takes, a mean in which the last ones count most.
    """

    __tablename__ = "shares"

    gpu_class: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    virtual_time: Mapped[float]
    mean_seconds: Mapped[float | None]
