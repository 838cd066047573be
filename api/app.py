"""The HTTP application over one database and one artifact store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import Depends, FastAPI

from api.admin import endpoints as admin
from api.analyses import endpoints as findings
from api.artifacts import endpoints as artifacts
from api.events.watcher import JobWatcher
from api.jobs import endpoints as jobs
from api.jobs import submissions
from api.jobs.outlooks import Outlooks
from api.middleware.access_log import Requests
from api.middleware.allowed_hosts import AllowedHosts
from api.middleware.authentication import Callers
from api.middleware.body_limit import BodyLimit
from api.openapi import LICENSE, SERVERS, TAGS, describe, operation_id
from api.protocol import problems
from api.protocol.query_parameters import refuse_unknown_parameters
from api.service import endpoints as service
from api.service.metrics import RequestMetrics, make_registry, read_metrics
from api.service.readiness import read_troubles
from api.service.shared import Shared
from api.uploads import endpoints as uploads
from api.webhooks import endpoints as webhooks
from api.webhooks import sent as sent_webhooks
from jobs.artifacts import open_store
from jobs.database import make_engine, make_sessions
from jobs.security.signing_secrets import make_sealer
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
        generate_unique_id_function=operation_id,
        openapi_tags=TAGS,
        servers=SERVERS,
        license_info=LICENSE,
        webhooks=sent_webhooks.router,
    )
    app.state.settings = settings
    app.state.sessions = make_sessions(engine)
    app.state.watcher = JobWatcher(app.state.sessions)
    app.state.outlooks = Outlooks(app.state.sessions)
    app.state.store = open_store(settings)
    app.state.sealer = make_sealer(settings)
    # From the inside out: what is added last sees a request first.
    app.add_middleware(BodyLimit, limit_bytes=settings.body_limit_bytes)
    app.add_middleware(
        Callers,
        sessions=app.state.sessions,
        require_keys=settings.require_keys,
        requests_per_minute=settings.requests_per_minute,
    )
    app.add_middleware(AllowedHosts, allowed_hosts=settings.allowed_hosts, same_origin=not settings.require_keys)
    registry = make_registry(app.state.sessions, settings.gpu_classes)
    app.state.metrics = Shared(partial(read_metrics, registry))
    app.state.readiness = Shared(partial(read_troubles, app.state.sessions))
    app.add_middleware(Requests, metrics=RequestMetrics(registry))
    problems.install(app)
    # As FastAPI documents it.
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    for module in (submissions, jobs, artifacts, findings, uploads, webhooks, admin):
        app.include_router(module.router, dependencies=[Depends(refuse_unknown_parameters)])
    # Probes and scrapers may add what they like.
    app.include_router(service.router)
    return app
