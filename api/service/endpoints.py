"""The service itself: what it can prune, whether it lives, whether it can work."""

from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from anyio import CapacityLimiter, fail_after, to_thread
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from sqlalchemy.exc import TimeoutError as DatabaseTimeout

from api.dependencies import BEARER, Sessions
from api.openapi import OpenAPIObject
from jobs.database import transaction
from jobs.repository import HealthRepository

# Shorter than those who ask usually wait.
READY_SECONDS = 3
# Without a key.
PUBLIC: OpenAPIObject = {"security": []}

router = APIRouter(tags=["service"])


class Architecture(BaseModel):
    """An architecture that every release is tested with; names as transformers has them."""

    model_class: Annotated[str, Field(alias="class")]
    model_type: str
    task: str


class Architectures(BaseModel):
    """The rule that decides which models can be pruned, and the architectures that it is tested with."""

    rule: str
    tested: list[Architecture]


class Readiness(BaseModel):
    """`troubles` says what is wrong, by part."""

    status: Literal["ok", "degraded"]
    troubles: dict[str, str]


@router.get("/v1/architectures", dependencies=[Depends(BEARER)])
def list_architectures() -> Architectures:
    """Which models can be pruned: the rule, and the architectures that every release is tested with."""
    return _architectures()


@router.get("/livez", openapi_extra=PUBLIC)
async def check_liveness() -> dict[str, str]:
    """The process answers, though every one of its threads may wait for the database."""
    return {"status": "ok"}


@router.get("/readyz", openapi_extra=PUBLIC)
async def check_readiness(sessions: Sessions) -> Readiness:
    """Jobs can be taken; 503 where the database does not answer at once.

    `degraded`: jobs are taken, and will wait, since the scheduler or the broker is in trouble.
    """

    def look() -> dict[str, str]:
        with transaction(sessions) as session:
            return HealthRepository(session).troubles()

    try:
        with fail_after(READY_SECONDS):
            # Not on a thread of those that requests share, which may all be waiting.
            troubles = await to_thread.run_sync(look, abandon_on_cancel=True, limiter=CapacityLimiter(1))
    except TimeoutError as error:
        raise DatabaseTimeout(f"nothing came for {READY_SECONDS} s") from error
    return Readiness(status="degraded" if troubles else "ok", troubles=troubles)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    openapi_extra=PUBLIC,
)
def get_metrics(request: Request) -> Response:
    """What Prometheus reads of jobs, workers, scheduler and this process's requests; no tenant and no id is in it."""
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)


@cache
def _architectures() -> Architectures:
    return Architectures.model_validate_json(files("api").joinpath("architectures.json").read_text())
