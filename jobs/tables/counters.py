"""What the service has counted since it was set up."""

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from jobs.tables.base import Base


class Counter(Base):
    """One number that only grows; the names and labels are in `jobs/repository/counters.py`."""

    __tablename__ = "tallies"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    label: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[float]
