"""What a finished job offers: matrix, layers, report, files and the tar."""

import csv
import hashlib
import io
import tarfile
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from jobs.artifacts import ArtifactStore
from tests.api.conftest import FILES, LAYERS, MATRIX

WEIGHTS = "model/model.safetensors"


@pytest.fixture
def job(submit: Callable[[], str], finish: Callable[[str], None]) -> str:
    """The path of a job that has succeeded."""
    job_id = submit()
    finish(job_id)
    return f"/v1/jobs/{job_id}"


def get(client: httpx.Client, path: str, **headers: str) -> httpx.Response:
    return client.get(path, headers=headers, follow_redirects=True)


def test_the_matrix_as_json(client: httpx.Client, job: str) -> None:
    similarity = get(client, f"{job}/similarity").json()
    assert np.array_equal(np.array(similarity["matrix"], dtype="f4"), MATRIX)
    assert (similarity["layers"], similarity["segments"]) == (["h.0", "h.1", "h.2"], [[0, 1], [2, 2]])
    assert (similarity["estimator"], similarity["n_samples"]) == ("unbiased", 64)


def test_the_matrix_as_csv(client: httpx.Client, job: str) -> None:
    header, *rows = csv.reader(io.StringIO(get(client, f"{job}/similarity", Accept="text/csv").text))
    assert header == ["", "h.0", "h.1", "h.2"]
    assert np.array_equal(np.array([row[1:] for row in rows], dtype="f4"), MATRIX)


def test_the_matrix_as_npy(client: httpx.Client, job: str) -> None:
    response = get(client, f"{job}/similarity", Accept="application/x-npy")
    assert np.array_equal(np.load(io.BytesIO(response.content)), MATRIX)


def test_the_matrix_as_a_picture(client: httpx.Client, job: str) -> None:
    response = get(client, f"{job}/similarity", Accept="image/png")
    assert (response.content, response.headers["Content-Type"]) == (FILES["similarity.png"], "image/png")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("*/*", "application/json"),
        ("text/*", "text/csv"),
        ("application/json; charset=utf-8", "application/json"),
        ("image/png;q=0.5, text/csv;q=0.9", "text/csv"),
        ("text/html, application/json;q=0.1", "application/json"),
    ],
)
def test_the_client_chooses_by_accept(client: httpx.Client, job: str, accept: str, chosen: str) -> None:
    assert get(client, f"{job}/similarity", Accept=accept).headers["Content-Type"].split(";")[0] == chosen


def test_what_is_not_offered_is_told_with_what_is(client: httpx.Client, job: str) -> None:
    response = get(client, f"{job}/similarity", Accept="text/html")
    assert response.status_code == 406
    assert "text/csv" in response.json()["offered"]


def test_the_layers(client: httpx.Client, job: str) -> None:
    assert get(client, f"{job}/layers").json() == {"data": LAYERS}


def test_the_report_in_three_forms(client: httpx.Client, job: str) -> None:
    assert get(client, f"{job}/report").json() == {"table": []}
    assert get(client, f"{job}/report", Accept="text/markdown").content == FILES["report.md"]
    page = get(client, f"{job}/report", Accept="text/html").text
    assert "<table>" in page
    assert "<script>" not in page
    assert f'src="{job}/artifacts/similarity.png"' in page
    assert "sweep.png" not in page


@pytest.mark.parametrize("place", ["similarity", "layers", "report"])
def test_findings_of_an_unfinished_job_are_a_conflict(
    client: httpx.Client, submit: Callable[[], str], place: str
) -> None:
    response = client.get(f"/v1/jobs/{submit()}/{place}")
    assert response.status_code == 409
    assert "queued" in response.json()["detail"]


def test_findings_of_a_cancelled_job_are_not_found(client: httpx.Client, submit: Callable[[], str]) -> None:
    job_id = submit()
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert client.get(f"/v1/jobs/{job_id}/similarity").status_code == 404


def test_artifacts_are_listed_with_size_and_hash(client: httpx.Client, job: str) -> None:
    listed = get(client, f"{job}/artifacts").json()["data"]
    assert {a["name"]: (a["size_bytes"], a["sha256"]) for a in listed} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in FILES.items()
    }
    for artifact in listed:
        assert get(client, artifact["link"]).content == FILES[artifact["name"]]


def test_a_part_of_an_artifact(client: httpx.Client, job: str) -> None:
    for requested, part in (
        ("bytes=0-9", slice(0, 10)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-5", slice(-5, None)),
    ):
        response = get(client, f"{job}/artifacts/{WEIGHTS}", Range=requested)
        assert (response.status_code, response.content) == (206, FILES[WEIGHTS][part])
        assert response.headers["Content-Range"].endswith(f"/{len(FILES[WEIGHTS])}")


def test_a_part_beyond_the_end_is_refused(client: httpx.Client, job: str) -> None:
    assert get(client, f"{job}/artifacts/{WEIGHTS}", Range="bytes=99999999-").status_code == 416
    # What is small comes from the API itself, whatever the store.
    response = get(client, f"{job}/report", Range="bytes=99999999-")
    assert (response.status_code, response.headers["Content-Range"]) == (416, f"bytes */{len(FILES['report.json'])}")


def test_a_store_that_can_sign_is_redirected_to(client: httpx.Client, job: str, store: ArtifactStore) -> None:
    response = client.get(f"{job}/artifacts/{WEIGHTS}")
    link = client.get(f"{job}/artifacts/{WEIGHTS}", params={"redirect": "false"}).json()["url"]
    if store.signed_url("any"):
        assert (response.status_code, response.headers["Cache-Control"]) == (307, "no-store")
        assert "X-Amz-Signature" in response.headers["Location"]
        assert "X-Amz-Signature" in link
    else:
        assert (response.status_code, link) == (200, f"{job}/artifacts/{WEIGHTS}")


def test_a_known_artifact_is_not_sent_again(client: httpx.Client, job: str) -> None:
    etag = get(client, f"{job}/report").headers["ETag"]
    again = get(client, f"{job}/report", **{"If-None-Match": f'"other", {etag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert get(client, f"{job}/report", **{"If-None-Match": "*"}).status_code == 304
    assert "Accept" in again.headers["Vary"]


def test_a_part_of_a_file_that_has_changed_is_sent_whole(client: httpx.Client, job: str) -> None:
    etag = get(client, f"{job}/report").headers["ETag"]
    part = get(client, f"{job}/report", Range="bytes=0-1", **{"If-Range": etag})
    whole = get(client, f"{job}/report", Range="bytes=0-1", **{"If-Range": '"other"'})
    weak = get(client, f"{job}/report", Range="bytes=0-1", **{"If-Range": f"W/{etag}"})
    assert (part.status_code, whole.status_code, weak.status_code) == (206, 200, 200)


def test_names_cannot_leave_the_job(client: httpx.Client, job: str) -> None:
    for name in ("..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "%00", "model", "model/", "none"):
        assert client.get(f"{job}/artifacts/{name}").status_code == 404


def test_the_tar_holds_the_model_and_is_as_long_as_announced(client: httpx.Client, job: str) -> None:
    response = get(client, f"{job}/artifacts.tar")
    assert int(response.headers["Content-Length"]) == len(response.content)
    with tarfile.open(fileobj=io.BytesIO(response.content)) as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert contents == {name: content for name, content in FILES.items() if name.startswith("model/")}


def test_a_job_without_a_model_has_no_tar(client: httpx.Client, submit: Callable[[], str]) -> None:
    assert client.get(f"/v1/jobs/{submit()}/artifacts.tar").status_code == 404


def test_a_lost_object_is_a_clear_error(client: httpx.Client, job: str, store: ArtifactStore) -> None:
    store.delete_prefix("jobs/")
    for place in ("report", "artifacts.tar"):
        response = client.get(f"{job}/{place}")
        assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable")
