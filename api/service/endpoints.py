"""The service itself: what it can prune, whether it lives, whether it can work."""

from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from api.openapi import OpenAPIObject
from api.service.shared import Shared

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


@router.get("/v1/architectures")
def list_architectures() -> Architectures:
    """Which models can be pruned: the rule, and the architectures that every release is tested with."""
    return _architectures()


@router.get("/livez", openapi_extra=PUBLIC)
async def check_liveness() -> dict[str, str]:
    """The process answers, though every one of its threads may wait for the database."""
    return {"status": "ok"}


@router.get("/readyz", openapi_extra=PUBLIC)
async def check_readiness(request: Request) -> Readiness:
    """Jobs can be taken; 503 where the database does not answer at once, or cannot be written.

    `degraded`: jobs are taken, and will wait, since the scheduler or the broker is in trouble.
    """

    readiness: Shared[dict[str, str]] = request.app.state.readiness
    troubles = await readiness.get()
    return Readiness(status="degraded" if troubles else "ok", troubles=troubles)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    openapi_extra=PUBLIC,
)
async def get_metrics(request: Request) -> Response:
    """What Prometheus reads of jobs, workers, scheduler and this process's requests; no tenant and no id is in it.

    It is at most some seconds old.
    """
    metrics: Shared[bytes] = request.app.state.metrics
    return Response(await metrics.get(), media_type=CONTENT_TYPE_LATEST)


@cache
def _architectures() -> Architectures:
    return Architectures.model_validate_json(files("api").joinpath("architectures.json").read_text())
