"""How the parts of the service that the API does not speak to are doing, as they say themselves."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from jobs.tables.base import Base


class Health(Base):
    """`trouble` is empty while a part works; `seen_at` is when it last said so."""

    __tablename__ = "health"

    part: Mapped[str] = mapped_column(String(32), primary_key=True)
    trouble: Mapped[str | None]
    seen_at: Mapped[datetime]
