"""News without polling: conditional requests, long polls, event streams."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction
from jobs.events import NewEvent, PhaseStarted
from jobs.repository import ClaimRepository, JobRepository, JobUpdate

Submit = Callable[[], str]
LONG_SECONDS = 20


@pytest.fixture
def later_on() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Does something while a request waits."""
    threads = []

    def start(action: Callable[[], object]) -> None:
        threads.append(threading.Timer(0.7, action))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()


def cancel(sessions: sessionmaker[Session], job_id: str) -> None:
    with transaction(sessions) as session:
        assert JobRepository(session).cancel("default", job_id)


def read_stream(response: httpx.Response) -> list[tuple[str, str]]:
    """(id, event) of every event until the stream is closed."""
    found, fields = [], {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        fields[name] = value
        if not line and "id" in fields:
            found.append((fields["id"], fields["event"]))
            fields = {}
    return found


def test_a_job_is_sent_again_only_when_it_has_changed(client: httpx.Client, submit: Submit) -> None:
    job_id = submit()
    first = client.get(f"/v1/jobs/{job_id}")
    known = {"If-None-Match": first.headers["ETag"]}
    again = client.get(f"/v1/jobs/{job_id}", headers=known)
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    # As a proxy that compresses sends it back.
    assert client.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": f"W/{first.headers['ETag']}"}).status_code == 304
    client.post(f"/v1/jobs/{job_id}/cancel")
    changed = client.get(f"/v1/jobs/{job_id}", headers=known)
    assert (changed.status_code, changed.json()["status"]) == (200, "cancelled")
    assert changed.headers["ETag"] != first.headers["ETag"]


def test_a_waiting_job_is_sent_again_when_it_has_moved_up(client: httpx.Client, submit: Submit) -> None:
    first, second = submit(), submit()
    asked = client.get(f"/v1/jobs/{second}")
    assert asked.json()["queue"] == {"position": 2, "expected_start_seconds": None}
    client.post(f"/v1/jobs/{first}/cancel")
    moved = client.get(f"/v1/jobs/{second}", headers={"If-None-Match": asked.headers["ETag"]})
    assert (moved.status_code, moved.json()["queue"]["position"]) == (200, 1)
    assert client.get(f"/v1/jobs/{second}", headers={"If-None-Match": moved.headers["ETag"]}).status_code == 304
    assert client.get(f"/v1/jobs/{first}").json()["queue"] is None


def test_a_long_poll_answers_when_the_job_changes(
    client: httpx.Client,
    submit: Submit,
    sessions: sessionmaker[Session],
    later_on: Callable[[Callable[[], object]], None],
) -> None:
    job_id = submit()
    etag = client.get(f"/v1/jobs/{job_id}").headers["ETag"]
    later_on(lambda: cancel(sessions, job_id))
    headers = {"Prefer": f"respond-async, wait={LONG_SECONDS}", "If-None-Match": etag}
    begin = time.monotonic()
    answer = client.get(f"/v1/jobs/{job_id}", headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.headers["Preference-Applied"] == f"wait={LONG_SECONDS}"
    assert 0.5 < time.monotonic() - begin < LONG_SECONDS
    # Nothing will change any more, so nobody waits.
    headers["If-None-Match"] = answer.headers["ETag"]
    begin = time.monotonic()
    assert client.get(f"/v1/jobs/{job_id}", headers=headers, timeout=60).status_code == 304
    assert time.monotonic() - begin < LONG_SECONDS


def test_a_long_poll_without_news_ends_in_time(client: httpx.Client, submit: Submit) -> None:
    job_id = submit()
    etag = client.get(f"/v1/jobs/{job_id}").headers["ETag"]
    answer = client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=1", "If-None-Match": etag})
    assert answer.status_code == 304


@pytest.mark.parametrize("prefer", ["wait=soon", "wait", "wait=-1", "handling=lenient"])
def test_a_preference_that_is_none_is_ignored(client: httpx.Client, submit: Submit, prefer: str) -> None:
    answer = client.get(f"/v1/jobs/{submit()}", headers={"Prefer": prefer})
    assert (answer.status_code, "Preference-Applied" in answer.headers) == (200, False)


def test_a_stream_tells_every_event_once_and_closes_at_the_end(
    client: httpx.Client, submit: Submit, sessions: sessionmaker[Session]
) -> None:
    job_id = submit()
    path, accept = f"/v1/jobs/{job_id}/events", {"Accept": "text/event-stream"}
    streams = []
    with client.stream("GET", path, headers=accept, timeout=60) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        with transaction(sessions) as session:
            claims = ClaimRepository(session)
            claim = claims.claim(job_id, worker="w", gpu_class="default", lease_seconds=60)
            assert claim
            events = [NewEvent("phase", PhaseStarted(phase=phase)) for phase in ("opening", "planning")]
            claims.heartbeat(job_id, claim.fence, JobUpdate("planning", events=events), lease_seconds=60)
        threading.Timer(1, cancel, [sessions, job_id]).start()
        threading.Timer(1.5, end_cancelled, [sessions, job_id, claim.fence]).start()
        streams.append(read_stream(response))
    expected = [(str(event["seq"]), event["type"]) for event in client.get(path).json()["data"]]
    assert [kind for _, kind in expected] == ["queued", "running", "phase", "phase", "cancelling", "cancelled"]
    assert streams == [expected]
    # Coming back: only what was missed.
    with client.stream("GET", path, headers={**accept, "Last-Event-ID": "4"}, timeout=60) as response:
        assert read_stream(response) == expected[4:]
    with client.stream("GET", path, params={"after": 5}, headers=accept, timeout=60) as response:
        assert read_stream(response) == expected[5:]
    # Nothing was missed: a stream would never say anything, and a browser would come back for ever.
    for after in ("6", "7"):
        done = client.get(path, headers={**accept, "Last-Event-ID": after})
        assert (done.status_code, done.content) == (204, b"")


def end_cancelled(sessions: sessionmaker[Session], job_id: str, fence: int) -> None:
    with transaction(sessions) as session:
        assert ClaimRepository(session).cancelled(job_id, fence)


def test_watchers_of_one_job_each_get_what_they_have_not_seen(
    client: httpx.Client, submit: Submit, sessions: sessionmaker[Session]
) -> None:
    job_id = submit()
    path, accept = f"/v1/jobs/{job_id}/events", {"Accept": "text/event-stream"}
    with transaction(sessions) as session:
        claim = ClaimRepository(session).claim(job_id, worker="w", gpu_class="default", lease_seconds=60)
        assert claim
    with ThreadPoolExecutor(3) as pool:

        def watch(after: int) -> list[tuple[str, str]]:
            with client.stream("GET", path, params={"after": after}, headers=accept, timeout=60) as response:
                return read_stream(response)

        # The second and third have seen all there is, and wait; the first is behind when the reader looks again.
        behind, *others = [pool.submit(watch, after) for after in (0, 2, 2)]
        time.sleep(1)
        cancel(sessions, job_id)
        end_cancelled(sessions, job_id, claim.fence)
        late = watch(1)
        assert [seq for seq, _ in behind.result()] == ["1", "2", "3", "4"]
        assert [[seq for seq, _ in other.result()] for other in others] == [["3", "4"]] * 2
    assert [seq for seq, _ in late] == ["2", "3", "4"]


def test_a_stream_of_no_job_is_a_problem(client: httpx.Client) -> None:
    answer = client.get(f"/v1/jobs/job_{'0' * 26}/events", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")


def test_jobs_are_filtered_by_time_and_metadata(client: httpx.Client) -> None:
    spec = {"mode": "analyze", "model": {"uri": "hf://org/name"}}
    made = [
        client.post("/v1/jobs", json={**spec, "metadata": metadata}).json()
        for metadata in ({"team": "a", "run": "1"}, {"team": "b", "it's": "x"}, {"team": "a"}, {})
    ]
    ids = [job["id"] for job in made]

    def listed(**query: str) -> list[int]:
        return [ids.index(job["id"]) for job in client.get("/v1/jobs", params=query).json()["data"]]

    assert listed(**{"metadata[team]": "a"}) == [2, 0]
    assert listed(**{"metadata[team]": "a", "metadata[run]": "1"}) == [0]
    assert listed(**{"metadata[it's]": "x"}) == [1]
    assert listed(**{"metadata[team]": "c"}) == []
    assert listed(created_after=made[1]["created_at"]) == [3, 2]
    assert listed(created_after=made[1]["created_at"], status="queued", **{"metadata[team]": "a"}) == [2]
    assert client.get("/v1/jobs", params={"created_after": "yesterday"}).status_code == 422
    assert client.get("/v1/jobs", params={"created_after": "2026-01-01T00:00:00"}).status_code == 422
    page = client.get("/v1/jobs", params={"metadata[team]": "a", "limit": 1}).json()
    assert page["has_more"]
    rest = client.get("/v1/jobs", params={"metadata[team]": "a", "after": page["next_cursor"]}).json()
    assert [job["id"] for job in rest["data"]] == [ids[0]]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("staus=failed", "staus"),
        ("status=failed&status=queued", "status"),
        ("metadata=a", "metadata"),
        ("metadata[]=a", "metadata[]"),
        ("metadata[team]=a&metadata[team]=b", "metadata[team]"),
        ("labels[team]=a", "labels[team]"),
    ],
)
def test_a_filter_that_is_not_understood_is_refused(client: httpx.Client, query: str, parameter: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422
    assert [error["parameter"] for error in answer.json()["errors"]] == [parameter]


def test_what_takes_no_parameters_says_so(client: httpx.Client) -> None:
    answer = client.post("/v1/jobs?mode=analyze", json={"mode": "analyze", "model": {"uri": "hf://org/name"}})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"parameter": "mode", "detail": "is not known here, as no parameter is"}]
    assert client.get("/v1/jobs").json()["data"] == []
