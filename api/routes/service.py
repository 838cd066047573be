"""The service itself: what it can prune, whether it lives, whether it can work."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text

from api.dependencies import Sessions
from jobs.database import transaction

router = APIRouter(tags=["service"])


@router.get("/v1/architectures")
def architectures() -> dict[str, Any]:
    """What can be pruned: the rule, and the architectures that every release is tested with."""
    return _architectures()


@router.get("/livez")
def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(sessions: Sessions) -> dict[str, str]:
    """Jobs can be taken; 503 where the database does not answer."""
    with transaction(sessions) as session:
        session.execute(text("SELECT 1"))
    return {"status": "ok"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Counts of jobs and webhook deliveries for Prometheus; no tenant and no id is in them."""
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)


@cache
def _architectures() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files("api").joinpath("architectures.json").read_text())
    return content
