"""The HTTP application over one database and one artifact store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from api import problems
from api.limits import BodyLimit
from api.routes import artifacts, findings, jobs, service, submissions, webhooks
from api.watching import JobWatcher
from jobs.artifacts import open_store
from jobs.database import make_engine, make_sessions
from jobs.settings import Settings


def make_app(settings: Settings) -> FastAPI:
    """The application; its connections close with it."""
    engine = make_engine(settings)

    @asynccontextmanager
    async def connected(_app: FastAPI) -> AsyncIterator[None]:
        yield
        engine.dispose()

    app = FastAPI(
        title="SGLP",
        version=version("sglp"),
        description="Makes trained neural networks smaller by removing whole layers, and proves that the result loads.",
        lifespan=connected,
    )
    app.state.settings = settings
    app.state.sessions = make_sessions(engine)
    app.state.watcher = JobWatcher(app.state.sessions)
    app.state.store = open_store(settings)
    app.add_middleware(BodyLimit, limit_bytes=settings.body_limit_bytes)
    problems.install(app)
    for router in (submissions.router, jobs.router, artifacts.router, findings.router, webhooks.router, service.router):
        app.include_router(router)
    return app
