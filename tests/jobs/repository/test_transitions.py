"""Everything that can happen to a job, in any order, on PostgreSQL; the table of states is checked after each step."""

from datetime import timedelta

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import make_engine, make_sessions, transaction
from jobs.errors import JobError
from jobs.events import NewEvent, PhaseStarted
from jobs.repository import (
    Claim,
    ClaimRepository,
    JobRepository,
    JobUpdate,
    Outcome,
    QueueRepository,
    StoredAnalysis,
    UpkeepRepository,
)
from jobs.settings import Settings
from jobs.spec import JobSpec
from jobs.states import HELD, MOVES, TERMINAL, State
from jobs.tables import Event, Job, Share
from tests.services.postgresql import PostgreSQL

SPEC = JobSpec.model_validate({"model": {"uri": "hf://org/name"}, "target": {"kind": "layers", "ratio": 0.25}})
ANALYSIS = StoredAnalysis([], b"", [], [], [], "unbiased", "linear", 4, "token position")
MAX_ATTEMPTS = 3
HOUR = timedelta(hours=1)


class Life(RuleBasedStateMachine):
    """A few jobs, and every claim anybody has ever held on them: old holders keep trying."""

    sessions: sessionmaker[Session]

    def __init__(self) -> None:
        super().__init__()
        with transaction(self.sessions) as session:
            # The scheduler would go on with what the example before has left.
            session.execute(delete(Job))
            session.execute(delete(Share))
        self.claims: list[Claim] = []
        self.jobs: dict[str, State] = {}

    @precondition(lambda self: len(self.live()) < 2)
    @rule()
    def submit(self) -> None:
        with transaction(self.sessions) as session:
            job_id = JobRepository(session).submit("default", SPEC, max_attempts=MAX_ATTEMPTS).id
        self.jobs[job_id] = State.QUEUED

    def live(self) -> list[str]:
        """Jobs that have not ended: most steps are about these, or little would happen."""
        return [job_id for job_id, state in self.jobs.items() if state not in TERMINAL]

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def a_hint_comes_for_any_job(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(self.live() or list(self.jobs)))
        with transaction(self.sessions) as session:
            claim = ClaimRepository(session).claim(job_id, worker="w", gpu_class="default", lease_seconds=60)
        assert claim is None or self.jobs[job_id] == State.QUEUED
        if claim:
            self.claims.append(claim)

    @rule()
    def a_worker_asks_for_any_job(self) -> None:
        with transaction(self.sessions) as session:
            waiting = {job_id for ids in QueueRepository(session).claimable(10).values() for job_id in ids}
            claim = ClaimRepository(session).claim_next(worker="w", gpu_class="default", lease_seconds=60)
        assert (claim is not None) == bool(waiting)
        if claim:
            assert claim.job_id in waiting
            self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        act=st.sampled_from(["heartbeat", "release", "heartbeat", "cancelled", "fail", "release", "succeed"]),
    )
    def a_holder_acts_however_old_its_fence(self, data: st.DataObject, act: str) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        with transaction(self.sessions) as session:
            job = session.scalars(select(Job).where(Job.id == claim.job_id)).one()
            holds = job.fence == claim.fence and job.state in HELD
        with transaction(self.sessions) as session:
            repository = ClaimRepository(session)
            key = (claim.job_id, claim.fence)
            if act == "heartbeat":
                events = [NewEvent("phase", PhaseStarted(phase="measuring"))]
                done = repository.heartbeat(*key, JobUpdate("measuring", events=events), lease_seconds=60)
                assert (done is not None) == holds
            elif act == "succeed":
                assert repository.succeed(*key, Outcome({}, analysis=ANALYSIS)) == holds
            elif act == "fail":
                error = JobError(code="internal", message="", phase=None, attempt=claim.attempt)
                assert repository.fail(*key, error) == holds
            elif act == "release":
                assert repository.release(*key, reason="worker_shutdown") == holds
            else:
                assert repository.cancelled(*key) == (holds and self.jobs[claim.job_id] == State.CANCELLING)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), tenant=st.sampled_from(["default", "other"]))
    def somebody_cancels(self, data: st.DataObject, tenant: str) -> None:
        job_id = data.draw(st.sampled_from(list(self.jobs)))
        with transaction(self.sessions) as session:
            job = JobRepository(session).cancel(tenant, job_id)
        assert (job is None) == (tenant == "other")

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def a_worker_falls_silent(self, data: st.DataObject) -> None:
        self._move_back("lease_until", data.draw(st.sampled_from(self.live())))

    @precondition(lambda self: self.live())
    @rule(data=st.data(), chance=st.integers(0, 9))
    def a_deadline_passes(self, data: st.DataObject, chance: int) -> None:
        if chance == 0:
            self._move_back("deadline_at", data.draw(st.sampled_from(self.live())))

    def _move_back(self, column: str, job_id: str) -> None:
        with transaction(self.sessions) as session:
            job = session.scalars(select(Job).where(Job.id == job_id)).one()
            if getattr(job, column) is not None:
                setattr(job, column, getattr(job, column) - 48 * HOUR)

    @rule(duty=st.sampled_from(["reap", "expire", "advance"]))
    def the_scheduler_does_a_duty(self, duty: str) -> None:
        with transaction(self.sessions) as session:
            upkeep = UpkeepRepository(session)
            if duty == "reap":
                upkeep.reap(10, backoff_seconds=0)
            elif duty == "expire":
                upkeep.expire_queued(10)
            else:
                QueueRepository(session).advance()

    @invariant()
    def every_move_is_in_the_table_and_every_promise_holds(self) -> None:
        with transaction(self.sessions) as session:
            for job in session.scalars(select(Job).where(Job.id.in_(self.jobs))).all():
                before, now = self.jobs[job.id], State(job.state)
                assert now == before or now in MOVES[before], (before, now)
                self.jobs[job.id] = now
                assert 0 <= job.attempt <= MAX_ATTEMPTS
                assert (now in HELD) == (job.lease_until is not None) == (job.worker is not None)
                assert (now in HELD) == (job.claimed_at is not None)
                assert (now in TERMINAL) == (job.finished_at is not None)
                numbers = session.scalars(select(Event.seq).where(Event.job_id == job.id).order_by(Event.seq)).all()
                assert list(numbers) == list(range(1, job.last_event_seq + 1))
                ends = select(func.count()).where(Event.job_id == job.id, Event.type.in_(TERMINAL))
                assert session.scalar(ends) == (now in TERMINAL)


def test_a_job_keeps_every_promise_whatever_happens_in_whatever_order(postgresql_server: PostgreSQL) -> None:
    engine = make_engine(Settings(database_url=postgresql_server.database()))
    machine = type("LifeOnPostgreSQL", (Life,), {"sessions": make_sessions(engine)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=50, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    engine.dispose()
