"""The service itself: what it can prune, whether it lives, whether it can work."""

import json
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from api.dependencies import Sessions
from jobs.database import transaction
from jobs.repository import HealthRepository

router = APIRouter(tags=["service"])


class Readiness(BaseModel):
    """`troubles` says what is wrong, by part."""

    status: Literal["ok", "degraded"]
    troubles: dict[str, str]


@router.get("/v1/architectures")
def architectures() -> dict[str, Any]:
    """What can be pruned: the rule, and the architectures that every release is tested with."""
    return _architectures()


@router.get("/livez")
def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(sessions: Sessions) -> Readiness:
    """Jobs can be taken; 503 where the database does not answer.

    `degraded`: jobs are taken, and will wait, since the scheduler or the broker is in trouble.
    """
    with transaction(sessions) as session:
        troubles = HealthRepository(session).troubles()
    return Readiness(status="degraded" if troubles else "ok", troubles=troubles)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """What Prometheus reads of jobs, workers, scheduler and this process's requests; no tenant and no id is in it."""
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)


@cache
def _architectures() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files("api").joinpath("architectures.json").read_text())
    return content
