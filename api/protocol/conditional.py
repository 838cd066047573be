"""Conditional requests (RFC 9110) and preferences (RFC 7240) for a job: has it changed since, and wait until it has."""

import re

from fastapi import Request
from werkzeug.http import parse_etags

from jobs.repository import Place
from jobs.tables import Job

MOST_WAIT_SECONDS = 60


def etag_of(job: Job, place: Place | None) -> str:
    """A validator of the job's visible state: its version, and its position while it waits."""
    position = f"-{place.position}" if place else ""
    return f'"{job.id[4:]}-{job.version}{position}"'


def is_known(request: Request, job: Job, place: Place | None) -> bool:
    """Whether the client already has this version at this position."""
    known = parse_etags(request.headers.get("if-none-match", ""))
    # A proxy that compresses makes a strong validator a weak one.
    return known.contains_weak(etag_of(job, place).strip('"'))


def wanted_wait(request: Request) -> int:
    """The seconds of `Prefer: wait=…`, at most 60; 0 where none are asked for."""
    for preference in request.headers.get("prefer", "").split(","):
        match = re.fullmatch(r'\s*wait\s*=\s*"?(\d{1,6})"?\s*', preference, re.IGNORECASE)
        if match:
            return min(int(match[1]), MOST_WAIT_SECONDS)
    return 0
