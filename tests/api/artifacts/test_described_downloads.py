"""Whatever a download is answered with, from a folder and from S3, is in the OpenAPI document."""

from collections.abc import Callable
from typing import Any

import httpx
import schemathesis
from schemathesis.specs.openapi.checks import ignored_auth

from jobs.artifacts import ArtifactStore

ONE_FILE = "/v1/jobs/{job_id}/artifacts/{name}"
FILES = ("report.json", "report.md", "similarity.png", "model/model.safetensors")
PART, KNOWN = {"Range": "bytes=1-5"}, {"If-None-Match": "*"}
ASKED: list[tuple[str, dict[str, str], dict[str, Any], int]] = [
    *((ONE_FILE, {}, {"name": name}, 200) for name in FILES),
    # A part of a file that is JSON is none.
    *((ONE_FILE, PART, {"name": name}, 206) for name in FILES[1:]),
    (ONE_FILE, {"Range": "bytes=1000000-"}, {"name": "report.md"}, 416),
    (ONE_FILE, KNOWN, {"name": "report.md"}, 304),
    ("/v1/jobs/{job_id}/report", {**PART, "Accept": "text/markdown"}, {}, 206),
    ("/v1/jobs/{job_id}/report", KNOWN, {}, 304),
    ("/v1/jobs/{job_id}/similarity", {**PART, "Accept": "image/png"}, {}, 206),
    ("/v1/jobs/{job_id}/artifacts.tar", {}, {}, 200),
]


def test_every_answer_is_as_documented(
    client: httpx.Client, submit: Callable[[], str], finish: Callable[[str], None], store: ArtifactStore
) -> None:
    finish(job_id := submit())
    described = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    signs = store.signed_url("anything") is not None
    for path, headers, names, status in ASKED:
        for redirect in (True, False) if path == ONE_FILE else (None,):
            case = described[path]["GET"].Case(
                path_parameters={"job_id": job_id, **names},
                headers=headers,
                query={} if redirect is None else {"redirect": redirect},
            )
            answer = case.call(allow_redirects=False)
            expected = {None: status, True: 307 if signs else status, False: 200}[redirect]
            assert answer.status_code == expected, (path, headers)
            # This service needs no keys.
            case.validate_response(answer, excluded_checks=[ignored_auth])
