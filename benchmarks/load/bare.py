"""The least a FastAPI service over SQLAlchemy can do: insert a row, read a row. `python -m benchmarks.load.bare`."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from sqlalchemy import JSON, Integer, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from jobs.database import make_sessions, open_engine, transaction


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "bare_rows"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    spec: Mapped[Any] = mapped_column(JSON)


def make_app(url: str) -> FastAPI:
    engine = open_engine(url)
    Base.metadata.create_all(engine)
    sessions = make_sessions(engine)
    app = FastAPI()

    @app.post("/rows", status_code=202)
    def insert(spec: dict[str, Any]) -> dict[str, Any]:
        with transaction(sessions) as session:
            row = Row(state="queued", spec=spec)
            session.add(row)
            session.flush()
            return {"id": row.id, "state": row.state, "spec": row.spec}

    @app.get("/rows/{number}")
    def read(number: int) -> dict[str, Any]:
        with transaction(sessions) as session:
            row = session.scalars(select(Row).where(Row.id == number)).one()
            return {"id": row.id, "state": row.state, "spec": row.spec}

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]), log_level="warning")
