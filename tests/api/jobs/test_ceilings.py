"""What an operator does not let a job ask for is refused when it is submitted."""

from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.ceilings import BeyondCeilings, check_ceilings
from jobs.database import transaction
from jobs.repository import JobRepository
from jobs.settings import Settings
from jobs.spec import JobSpec
from tests.api.conftest import SPEC
from tests.api.keyed import assert_problem
from tests.api.service.test_metrics import metrics_of


def test_only_classes_that_the_operator_names_are_taken(client: httpx.Client, sessions: sessionmaker[Session]) -> None:
    answers = [client.post("/v1/jobs", json={**SPEC, "gpu_class": f"class-{number}"}) for number in range(300)]
    assert {answer.status_code for answer in answers} == {422}
    assert_problem(answers[0], 422)
    refusal = answers[0].json()
    assert (refusal["code"], refusal["gpu_classes"]) == ("unknown_gpu_class", ["default"])
    assert refusal["errors"] == [{"pointer": "/gpu_class", "detail": refusal["detail"]}]
    assert "default" in refusal["detail"]
    # What was there before the operator took a class away.
    with transaction(sessions) as session:
        for number in range(2):
            spec = JobSpec.model_validate({**SPEC, "gpu_class": f"class-{number}"})
            job = JobRepository(session).submit("default", spec, max_attempts=1)
    client.post("/v1/jobs", json=SPEC)
    ages = [key[1] for key in metrics_of(client) if key[0] == "sglp_queue_age_seconds"]
    assert sorted(ages) == ["default", "other"]
    client.post(f"/v1/jobs/{job.id}/cancel")
    assert client.post(f"/v1/jobs/{job.id}/retry").json()["code"] == "unknown_gpu_class"


CEILINGS: list[tuple[dict[str, Any], str, str, float]] = [
    ({"calibration": {"samples": 40}}, "/calibration/samples", "job_max_samples", 40),
    ({"evaluation": {"samples": 70}}, "/evaluation/samples", "job_max_samples", 70),
    ({"calibration": {"sequence_length": 100}}, "/calibration/samples", "job_max_tokens", 6400),
    ({"evaluation": {"samples": 70}}, "/evaluation/samples", "job_max_tokens", 70 * 256),
    ({"calibration": {"sequence_length": 100}}, "/calibration/batch_size", "job_max_batch_tokens", 800),
    ({"healing": {"batch_size": 9}}, "/healing/batch_size", "job_max_batch_tokens", 9 * 256),
    ({"healing": {"steps": 40}}, "/healing/steps", "job_max_healing_steps", 40),
    ({"healing": {"epochs": 40}}, "/healing/epochs", "job_max_healing_epochs", 40),
    ({"healing": {"max_seconds": 40.5}}, "/healing/max_seconds", "job_max_healing_seconds", 40.5),
    ({"deadline_seconds": 40}, "/deadline_seconds", "job_max_deadline_seconds", 40),
]


@pytest.mark.parametrize(("part", "pointer", "name", "asked"), CEILINGS)
def test_a_job_may_ask_for_what_a_ceiling_says_and_for_no_more(
    part: dict[str, Any], pointer: str, name: str, asked: float
) -> None:
    spec = JobSpec.model_validate({**SPEC, **part})
    check_ceilings(spec, Settings().model_copy(update={name: asked}))
    with pytest.raises(BeyondCeilings) as caught:
        check_ceilings(spec, Settings().model_copy(update={name: asked * 0.99}))
    (excess,) = caught.value.excesses
    assert (excess.pointer, excess.setting, excess.asked) == (pointer, f"SGLP_{name.upper()}", asked)


def test_every_excess_is_named(client: httpx.Client) -> None:
    calibration = {"samples": 4096, "sequence_length": 8192, "batch_size": 256}
    answer = client.post("/v1/jobs", json={**SPEC, "calibration": calibration, "deadline_seconds": 30 * 86400})
    assert_problem(answer, 422)
    assert answer.json()["code"] == "limit_exceeded"
    assert [(e["pointer"], e["setting"], e["limit"], e["asked"]) for e in answer.json()["errors"]] == [
        ("/calibration/samples", "SGLP_JOB_MAX_TOKENS", 8388608, 4096 * 8192),
        ("/calibration/batch_size", "SGLP_JOB_MAX_BATCH_TOKENS", 1048576, 256 * 8192),
        ("/deadline_seconds", "SGLP_JOB_MAX_DEADLINE_SECONDS", 604800, 2592000),
    ]
    assert all(e["setting"] in e["detail"] for e in answer.json()["errors"])


def test_the_class_of_a_process_is_one_that_jobs_may_name() -> None:
    assert Settings().gpu_classes == ("default",)
    assert Settings(gpu_class="a100").gpu_classes == ("default", "a100")
    assert Settings(gpu_class="a100", gpu_classes=("h100",)).gpu_classes == ("h100",)
