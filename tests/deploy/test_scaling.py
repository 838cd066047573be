"""Workers of a class that KEDA scales: how many are started, and that none is stopped while it has a job."""

import re

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs.clock import later, now
from jobs.database import make_engine, make_sessions, transaction
from jobs.repository import JobRepository, Quotas, TenantRepository
from jobs.settings import Settings
from jobs.spec import JobSpec
from jobs.states import State
from jobs.tables import Job
from tests.deploy.chart import ROOT, environment, of_kind, rendered
from tests.services.postgresql import PostgreSQL


@pytest.fixture
def sessions(postgresql_server: PostgreSQL) -> sessionmaker[Session]:
    return make_sessions(make_engine(Settings(database_url=postgresql_server.database())))


def submit(sessions: sessionmaker[Session], count: int, tenant: str, state: State, gpu_class: str = "a100") -> None:
    spec = {"mode": "analyze", "model": {"uri": "hf://org/name"}, "gpu_class": gpu_class}
    held = {"lease_until": later(60)} if state in {State.RUNNING, State.CANCELLING} else {}
    ended = {"finished_at": now()} if state is State.SUCCEEDED else {}
    with transaction(sessions) as session:
        for _ in range(count):
            job = JobRepository(session).submit(tenant, JobSpec.model_validate(spec), max_attempts=3)
            session.execute(update(Job).where(Job.id == job.id).values(state=state, **held, **ended))


def wanted(sessions: sessionmaker[Session]) -> int:
    """How many workers of the class a100 KEDA is told to have, by a role with the rights that the document gives it."""
    (trigger,) = of_kind("ScaledJob", rendered())["test-sglp-worker-a100"]["spec"]["triggers"]
    grants = re.findall(r"^GRANT .*;$", (ROOT / "docs/operate/kubernetes.md").read_text(), re.MULTILINE)
    with transaction(sessions) as session:
        connection = session.connection()
        for statement in ("CREATE ROLE sglp_keda", *grants, "SET LOCAL ROLE sglp_keda"):
            connection.exec_driver_sql(statement)
        # As KEDA reads it: one number, from one row.
        number: int = connection.exec_driver_sql(trigger["metadata"]["query"]).scalar_one()
        session.rollback()
    return number


def test_one_worker_for_each_job_of_the_class_that_waits_or_runs(sessions: sessionmaker[Session]) -> None:
    assert wanted(sessions) == 0
    submit(sessions, 3, "alpha", State.QUEUED)
    submit(sessions, 2, "beta", State.RUNNING)
    submit(sessions, 1, "beta", State.CANCELLING)
    submit(sessions, 5, "alpha", State.SUCCEEDED)
    submit(sessions, 5, "alpha", State.QUEUED, gpu_class="h100")
    assert wanted(sessions) == 6


def test_no_worker_for_a_job_that_the_tenants_quota_holds_back(sessions: sessionmaker[Session]) -> None:
    submit(sessions, 9, "alpha", State.QUEUED)
    submit(sessions, 2, "beta", State.QUEUED)
    with transaction(sessions) as session:
        TenantRepository(session).ensure("alpha")
        TenantRepository(session).set_quotas("alpha", Quotas(running_jobs=4))
    assert wanted(sessions) == 6


def test_workers_that_are_started_on_demand_end_by_themselves() -> None:
    jobs = of_kind("ScaledJob", rendered())
    assert sorted(jobs) == ["test-sglp-worker-a100", "test-sglp-worker-h100"]
    # It would stop whichever worker it likes.
    assert of_kind("ScaledObject", rendered()) == {}
    for job in jobs.values():
        assert job["spec"]["rollout"] == {"strategy": "gradual"}
        target = job["spec"]["jobTargetRef"]
        assert "activeDeadlineSeconds" not in target
        assert target["template"]["spec"]["restartPolicy"] == "Never"
        variables = environment(target["template"])
        assert float(variables["SGLP_WORKER_IDLE_SECONDS"]["value"]) > 0
        assert int(variables["SGLP_WORKER_MAX_JOBS"]["value"]) > 0


def test_workers_that_always_run_do_not_end_by_themselves() -> None:
    (deployment,) = [
        each for name, each in of_kind("Deployment", rendered()).items() if name.endswith("-worker-default")
    ]
    assert not environment(deployment["spec"]["template"]).keys() & {"SGLP_WORKER_IDLE_SECONDS", "SGLP_WORKER_MAX_JOBS"}
