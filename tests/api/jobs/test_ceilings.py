"""What an operator does not let a job ask for is refused when it is submitted."""

import httpx
from sqlalchemy.orm import Session, sessionmaker

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


def test_the_class_of_a_process_is_one_that_jobs_may_name() -> None:
    assert Settings().gpu_classes == ("default",)
    assert Settings(gpu_class="a100").gpu_classes == ("default", "a100")
    assert Settings(gpu_class="a100", gpu_classes=("h100",)).gpu_classes == ("h100",)
