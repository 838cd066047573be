"""An object store that fails in every way: what a job has made is whole, or is not there, and its end says which."""

import hashlib
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sglp_client import DownloadDamaged

from jobs.artifacts import ArtifactStore, open_store
from tests.services.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.services.postgresql import PostgreSQL
from tests.services.s3 import S3
from tests.services.stack import Stack, running_stack
from tests.worker.tiny_model import tiny_spec

SILENCE_SECONDS = 1.0
PATIENCE_SECONDS = 4.0
SWEEP_SECONDS = 30
# Requests for files of jobs, and not those by which workers try the store.
JOBS = "/jobs/"


@pytest.fixture(scope="module")
def proxy(s3_server: S3) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server.port) as running:
        yield running


@pytest.fixture(autouse=True)
def healed(proxy: FaultyProxy) -> Iterator[None]:
    yield
    proxy.heal()


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, models: Path, proxy: FaultyProxy, postgresql_server: PostgreSQL,
    redis_url: str, s3_server: S3,
) -> Iterator[Stack]:  # fmt: skip
    """All of it speaks to the store through the proxy."""
    directory = tmp_path_factory.mktemp("stack")
    with running_stack(
        directory,
        database_url=postgresql_server.database(),
        broker_url=redis_url,
        artifact_url=f"{s3_server.url}/{directory.name}",
        artifact_options=s3_server.through(proxy.port).options,
        artifact_timeout_seconds=SILENCE_SECONDS,
        artifact_patience_seconds=PATIENCE_SECONDS,
        sweep_after_seconds=1,
        model_roots=[str(models)],
    ) as running:
        running.start_worker()
        yield running


@pytest.fixture(scope="module")
def store(stack: Stack, s3_server: S3) -> ArtifactStore:
    """What is really in the store, with nothing in between."""
    return open_store(stack.read_settings().model_copy(update={"artifact_options": s3_server.options}))


@pytest.fixture(scope="module")
def compressed(stack: Stack, models: Path) -> str:
    """A job that has succeeded, and has made a model."""
    job = stack.wait_for_end(stack.client.submit(tiny_spec(models / "model", models / "text.txt"))["id"])
    assert job["status"] == "succeeded", stack.logs()
    return job["id"]


def quick_spec(models: Path) -> dict[str, Any]:
    return tiny_spec(models / "model", models / "text.txt", mode="estimate")


def ended(stack: Stack, models: Path) -> dict[str, Any]:
    return stack.wait_for_end(stack.client.submit(quick_spec(models))["id"])


# More often than one request is tried by itself. What answers to PUT holds nothing that could be damaged.
@pytest.mark.parametrize(
    ("fault", "methods", "times"),
    [
        (Fault.BUSY, {"GET", "PUT"}, 8),
        (Fault.RESET, {"GET", "PUT"}, 8),
        (Fault.CORRUPTED, {"GET"}, 2),
        (Fault.HUNG, {"GET", "PUT"}, 2),
    ],
)
def test_a_store_that_fails_for_a_while_costs_no_job(
    stack: Stack, models: Path, proxy: FaultyProxy, fault: Fault, methods: set[str], times: int
) -> None:
    proxy.do(fault, methods=methods, path=JOBS, times=times)
    job = ended(stack, models)
    assert (job["status"], job["attempt"]) == ("succeeded", 1), (job["error"], stack.logs())
    assert proxy.broken == times


def test_a_job_waits_for_a_store_that_takes_its_result(stack: Stack, models: Path, proxy: FaultyProxy) -> None:
    proxy.do(Fault.BUSY, methods={"PUT"})
    ready = f"http://127.0.0.1:{stack.port}/readyz"
    give_up = time.monotonic() + SWEEP_SECONDS
    while "artifact store" not in httpx.get(ready).json()["troubles"]:
        assert time.monotonic() < give_up, stack.logs()
        time.sleep(0.2)
    job_id = stack.client.submit(quick_spec(models))["id"]
    # Longer than a worker with a store takes.
    time.sleep(3)
    assert stack.client.get(job_id)["status"] == "queued"
    proxy.heal()
    job = stack.wait_for_end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1), stack.logs()


def ran(stack: Stack, job_id: str) -> int:
    """How often the method has run for this job."""
    return sum('"the child ended"' in line and job_id in line for line in stack.logs().splitlines())


def requeued(stack: Stack, job_id: str) -> bool:
    """Whether the job has been put back because of the store."""
    reasons = [event["data"] for event in stack.client.events(job_id) if event["type"] == "requeued"]
    return {"reason": "storage_unavailable"} in reasons


def wait_until_the_store_has_failed(stack: Stack, models: Path, proxy: FaultyProxy) -> str:
    """A job whose result the store does not take, except for a first file."""
    proxy.do(Fault.BUSY, methods={"PUT"}, path=JOBS, after=1)
    job_id = stack.client.submit(quick_spec(models))["id"]
    stack.wait_for(job_id, lambda _job: requeued(stack, job_id))
    assert stack.client.artifacts(job_id) == []
    return str(job_id)


def test_a_finished_result_waits_for_the_store_also_after_a_restart(
    stack: Stack, models: Path, proxy: FaultyProxy
) -> None:
    stack.end_workers()
    worker = stack.start_worker()
    job_id = wait_until_the_store_has_failed(stack, models, proxy)
    worker.kill()
    worker.wait()
    proxy.heal()
    stack.start_worker()
    job = stack.wait_for_end(job_id)
    assert (job["status"], ran(stack, job_id)) == ("succeeded", 1), stack.logs()
    give_up = time.monotonic() + SWEEP_SECONDS
    while stack.work_files():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_a_waiting_result_that_changed_on_the_disk_is_made_again(
    stack: Stack, models: Path, proxy: FaultyProxy
) -> None:
    job_id = wait_until_the_store_has_failed(stack, models, proxy)
    (report,) = [path for path in stack.work_files() if path.match(f"finished/{job_id}/files/report.json")]
    report.write_bytes(report.read_bytes().replace(b"0", b"1"))
    proxy.heal()
    assert stack.wait_for_end(job_id)["status"] == "succeeded", stack.logs()
    assert ran(stack, job_id) == 2


def test_the_result_of_a_job_that_is_cancelled_while_it_waits_is_removed(
    stack: Stack, models: Path, proxy: FaultyProxy
) -> None:
    job_id = wait_until_the_store_has_failed(stack, models, proxy)
    # It waits most of the time for its next try; one that runs is cancelled too.
    stack.client.cancel(job_id)
    assert stack.wait_for_end(job_id)["status"] == "cancelled"
    proxy.heal()
    assert ended(stack, models)["status"] == "succeeded"
    assert [path for path in stack.work_files() if job_id in path.parts] == []


def test_a_job_waits_for_a_store_that_gives_its_upload(stack: Stack, models: Path, proxy: FaultyProxy) -> None:
    upload = stack.client.upload(sorted((models / "model").iterdir()), kind="model")
    proxy.do(Fault.BUSY, methods={"GET"}, path="/uploads/")
    job_id = stack.client.submit({**quick_spec(models), "model": {"uri": upload["uri"]}})["id"]
    stack.wait_for(job_id, lambda _job: requeued(stack, job_id))
    assert ran(stack, job_id) == 0
    proxy.heal()
    job = stack.wait_for_end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1), stack.logs()


def test_a_worker_killed_while_it_publishes_leaves_nothing_half(
    stack: Stack, store: ArtifactStore, models: Path, proxy: FaultyProxy
) -> None:
    stack.end_workers()
    proxy.do(Fault.HUNG, methods={"PUT"}, path=JOBS, after=2)
    worker = stack.start_worker()
    job_id = stack.client.submit(quick_spec(models))["id"]
    stack.wait_for(job_id, lambda _job: proxy.broken > 0)
    worker.kill()
    assert len(store.list(f"jobs/{job_id}/1/")) == 2
    assert stack.client.artifacts(job_id) == []
    proxy.heal()
    stack.start_worker()
    job = stack.wait_for_end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2), stack.logs()
    # The line of the killed worker may be missing.
    assert ran(stack, job_id) <= 1


def healing_spec(models: Path) -> dict[str, Any]:
    return tiny_spec(models / "model", models / "text.txt", healing={"steps": 160, "trained": "all"})


def test_a_healing_goes_on_while_its_state_cannot_be_stored(stack: Stack, models: Path, proxy: FaultyProxy) -> None:
    proxy.do(Fault.BUSY, methods={"PUT"}, path=JOBS)
    job_id = stack.client.submit(healing_spec(models))["id"]
    # Of the first upload; each is tried several times by itself.
    stack.wait_for(job_id, lambda _job: "a result was not stored" in stack.logs())
    proxy.heal()
    job = stack.wait_for_end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1), (job["error"], stack.logs())


@pytest.mark.parametrize("same_disks", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_worker_killed_while_it_stores_a_state_loses_no_older_one(
    stack: Stack, models: Path, proxy: FaultyProxy, tmp_path: Path, same_disks: bool
) -> None:
    stack.end_workers()
    worker = stack.start_worker()
    spec = healing_spec(models)
    spec = {**spec, "calibration": {**spec["calibration"], "seed": 1 + same_disks}}
    # What comes before the healing is in the cache from now on, and the first that is stored is a state.
    stack.wait_for_end(stack.client.submit({**spec, "healing": {}})["id"])
    # The state of the first judgement is stored, the next one that is uploaded is only in the cache.
    proxy.do(Fault.HUNG, methods={"PUT"}, path=JOBS, after=1)
    job_id = stack.client.submit(spec)["id"]
    stack.wait_for(job_id, lambda _job: proxy.broken > 0)
    worker.kill()
    proxy.heal()
    stack.start_worker(**({} if same_disks else {"cache_dir": str(tmp_path / "cache")}))
    job = stack.wait_for_end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2), stack.logs()
    resumed_from_step = stack.client.report(job_id)["healing"]["resumed_from_step"]
    assert resumed_from_step >= 40 if same_disks else resumed_from_step == 20


def test_the_state_of_a_cancelled_healing_is_deleted(
    stack: Stack, store: ArtifactStore, models: Path, proxy: FaultyProxy
) -> None:
    job_id = stack.client.submit(healing_spec(models))["id"]
    stack.wait_for(job_id, lambda _job: store.list(f"jobs/{job_id}/kept/") != [])
    stack.client.cancel(job_id)
    assert stack.wait_for_end(job_id)["status"] == "cancelled"
    give_up = time.monotonic() + SWEEP_SECONDS
    while store.list(f"jobs/{job_id}/"):
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_what_cannot_be_deleted_at_once_is_deleted_later(
    stack: Stack, store: ArtifactStore, models: Path, proxy: FaultyProxy, compressed: str
) -> None:
    job = ended(stack, models)
    proxy.do(Fault.BUSY, methods={"DELETE"})
    stack.client.delete(job["id"])
    give_up = time.monotonic() + SWEEP_SECONDS
    while not proxy.broken:
        assert time.monotonic() < give_up
        time.sleep(0.1)
    assert store.list(f"jobs/{job['id']}/") != []
    proxy.heal()
    while store.list(f"jobs/{job['id']}/"):
        assert time.monotonic() < give_up
        time.sleep(0.1)


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.RESET, Fault.CUT, Fault.SHORTENED, Fault.CORRUPTED])
def test_no_download_of_the_sdk_is_taken_for_whole(
    stack: Stack, compressed: str, proxy: FaultyProxy, tmp_path: Path, fault: Fault
) -> None:
    proxy.do(fault, methods={"GET"})
    with pytest.raises((DownloadDamaged, httpx.HTTPError)) as caught:
        stack.client.download(compressed, tmp_path)
    assert isinstance(caught.value, DownloadDamaged) is (fault in {Fault.SHORTENED, Fault.CORRUPTED})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.RESET, Fault.CUT, Fault.SHORTENED, Fault.CORRUPTED])
@pytest.mark.parametrize("place", ["report", "artifacts.tar"])
def test_no_answer_of_the_api_is_taken_for_whole(
    stack: Stack, compressed: str, proxy: FaultyProxy, place: str, fault: Fault
) -> None:
    proxy.do(fault, methods={"GET"})
    try:
        answer = httpx.get(f"http://127.0.0.1:{stack.port}/v1/jobs/{compressed}/{place}", timeout=20)
    except httpx.RemoteProtocolError:
        # Broken off before its end, which every client notices.
        return
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")


def test_a_fault_or_two_do_not_reach_who_downloads(
    stack: Stack, compressed: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    for fault in (Fault.BUSY, Fault.RESET, Fault.CUT):
        proxy.do(fault, methods={"GET"}, times=2)
        answer = httpx.get(f"http://127.0.0.1:{stack.port}/v1/jobs/{compressed}/artifacts.tar", timeout=20)
        (tmp_path / "model.tar").write_bytes(answer.content)
        with tarfile.open(tmp_path / "model.tar") as tar:
            assert "model/config.json" in tar.getnames()
        assert proxy.broken == 2


def test_a_silent_store_is_told_in_time(stack: Stack, compressed: str, proxy: FaultyProxy) -> None:
    proxy.do(Fault.HUNG, methods={"GET"})
    started = time.monotonic()
    answer = httpx.get(f"http://127.0.0.1:{stack.port}/v1/jobs/{compressed}/report", timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    assert time.monotonic() - started < 15 * SILENCE_SECONDS


def test_in_the_end_only_what_was_published_is_in_the_store(stack: Stack, store: ArtifactStore) -> None:
    """Of the jobs above, whatever has happened to them."""
    jobs = list(stack.client.list(limit=100))
    assert {job["status"] for job in jobs} == {"succeeded", "cancelled"}
    published = {
        f"jobs/{job['id']}/{artifact['name']}": artifact["sha256"]
        for job in jobs
        for artifact in stack.client.artifacts(job["id"])
    }
    give_up = time.monotonic() + SWEEP_SECONDS
    while len(keys := store.list("jobs/")) > len(published):
        assert time.monotonic() < give_up, set(keys)
        time.sleep(0.2)
    found = {}
    for key in keys:
        place, job_id, _, name = key.split("/", 3)
        found[f"{place}/{job_id}/{name}"] = hashlib.sha256(b"".join(store.stream(key))).hexdigest()
    assert found == published
