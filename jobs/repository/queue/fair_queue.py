"""Whose turn it is among the tenants whose jobs wait for workers of one class: start-time fair queueing.

Each tenant has a virtual time in each class: the worker seconds that its attempts have taken, divided by its weight.
The next job is that of the tenant whose virtual time is lowest, and within a tenant the one of highest priority that
was submitted first. What runs counts by the seconds it has run, or by those an attempt of its tenant usually takes, if
that is more. The class has a virtual time too, that of the tenants which are served: one who comes after a pause starts
there, so that nobody saves up for later, and nobody pays for having used what no one else wanted.

P. Goyal, H. M. Vin, H. Cheng: Start-Time Fair Queueing (1997). See docs/decisions/fair-shares.md.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    Double,
    Integer,
    bindparam,
    case,
    event,
    func,
    literal,
    literal_column,
    select,
    true,
    union,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from jobs.clock import now, seconds_until
from jobs.repository.quotas import tenants_at_running_quota
from jobs.states import State
from jobs.tables import Job, Queue, Share, Tenant

# Before an attempt in the class has ended. Any number does: it only has to count as something that a job was started.
UNKNOWN_SECONDS = 1.0
# Of the mean of a tenant's attempts, the part that the newest has.
NEWEST = 0.2
PENDING = "pending_attempts"
INSERT: dict[str, Callable[[type[Queue | Share]], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}

CLASS: BindParameter[str] = bindparam("class_of_jobs")
# Written out, as the partial index is only used where the database sees the state.
WAITING = (Job.state == literal_column(f"'{State.QUEUED}'"), Job.gpu_class == CLASS)
CLAIMABLE = (*WAITING, Job.not_before <= now(), Job.deadline_at > now())
IN_ORDER = (Job.precedence, Job.id)


class Standing(NamedTuple):
    """A tenant with jobs in a class. `start` is the virtual time at which its next job, `head`, starts, None where none
    may; `lag` is how far its own virtual time is behind that; `estimate` is the seconds an attempt takes.
    """

    tenant: str
    weight: float
    running: int
    estimate: float
    is_known: bool
    start: float
    lag: float
    head: str | None


def _standings() -> Any:
    """A statement for the `Standing` of each tenant with waiting or running jobs, in the order of their turns."""
    # From one tenant to the next by the index: of the thousands of jobs that one may have waiting, one is looked at.
    first = select(func.min(Job.tenant).label("tenant")).where(*WAITING).cte("waiting", recursive=True)
    further = select(func.min(Job.tenant)).where(*WAITING, Job.tenant > first.c.tenant).scalar_subquery()
    waiting = first.union_all(select(further).where(first.c.tenant.is_not(None)))
    seconds = -seconds_until(func.coalesce(Job.claimed_at, Job.started_at))
    held = (
        select(Job.tenant, seconds.label("seconds"))
        .where(Job.lease_until.is_not(None), Job.gpu_class == CLASS)
        .cte("held")
    )
    active = union(select(waiting.c.tenant).where(waiting.c.tenant.is_not(None)), select(held.c.tenant)).cte("active")
    mean = select(func.avg(Share.mean_seconds).label("seconds")).where(Share.gpu_class == CLASS).cte("mean")
    weight = func.coalesce(Tenant.weight, 1.0)
    estimate = func.coalesce(Share.mean_seconds, mean.c.seconds, UNKNOWN_SECONDS)
    taken = func.sum(case((held.c.seconds > estimate, held.c.seconds), else_=estimate))
    mine = (held.c.tenant == active.c.tenant,)
    head = (
        select(Job.id)
        .where(*CLAIMABLE, Job.tenant == active.c.tenant, Job.tenant.not_in(tenants_at_running_quota()))
        .order_by(*IN_ORDER)
        .limit(1)
    )
    standing = (
        select(
            active.c.tenant,
            weight.label("weight"),
            select(func.count()).where(*mine).scalar_subquery().label("running"),
            estimate.label("estimate"),
            mean.c.seconds.is_not(None).label("is_known"),
            (
                func.coalesce(Share.virtual_time, 0.0)
                + func.coalesce(select(taken).where(*mine).correlate(active, Share, mean).scalar_subquery(), 0.0)
                / weight
            ).label("own"),
            head.correlate(active).scalar_subquery().label("head"),
        )
        .select_from(active)
        .join(mean, true())
        .outerjoin(Tenant, Tenant.name == active.c.tenant)
        .outerjoin(Share, (Share.tenant == active.c.tenant) & (Share.gpu_class == CLASS))
        .cte("standing")
        # Or its columns would be computed wherever they are named.
        .prefix_with("MATERIALIZED")
    )
    queue = select(Queue.virtual_time).where(Queue.gpu_class == CLASS)
    floor = func.coalesce(queue.scalar_subquery(), 0.0)
    start = case((standing.c.own > floor, standing.c.own), else_=floor)
    columns = [standing.c[name] for name in ("tenant", "weight", "running", "estimate", "is_known")]
    return select(*columns, start.label("start"), (start - standing.c.own).label("lag"), standing.c.head).order_by(
        "start", standing.c.head
    )


def _classes() -> Any:
    """A statement for the classes that jobs wait for, from one to the next by the index."""
    queued = WAITING[0]
    first = select(func.min(Job.gpu_class).label("gpu_class")).where(queued).cte("classes", recursive=True)
    further = select(func.min(Job.gpu_class)).where(queued, Job.gpu_class > first.c.gpu_class).scalar_subquery()
    classes = first.union_all(select(further).where(first.c.gpu_class.is_not(None)))
    return select(classes.c.gpu_class).where(classes.c.gpu_class.is_not(None))


STANDINGS = _standings()
CLASSES = _classes()
CLAIMABLE_IDS = (
    select(Job.id)
    .where(*CLAIMABLE, Job.tenant.not_in(tenants_at_running_quota()))
    .order_by(Job.tenant, *IN_ORDER)
    .limit(bindparam("most", type_=Integer))
)


class QueueRepository:
    """The order of the waiting jobs of all tenants."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def claimable(self, limit: int) -> dict[str, Sequence[str]]:
        """By class up to `limit` waiting jobs that a worker could take now, in no order that matters."""
        return {
            gpu_class: self._session.scalars(CLAIMABLE_IDS, {CLASS.key: gpu_class, "most": limit}).all()
            for gpu_class in self._session.scalars(CLASSES).all()
        }

    def advance(self) -> None:
        """Move the virtual time of each class on to that of the tenant whose turn is next, or where no job may start to
        that of the one which has had most: those that run have all they want.

        A claim does so too, but between two claims hours may pass, and who comes then must not begin where these began.
        """
        for gpu_class in self._session.scalars(select(Queue.gpu_class).order_by(Queue.gpu_class)).all():
            lock(self._session, gpu_class)
            found = standings(self._session, gpu_class)
            next_ones = [each for each in found if each.head is not None] or [each for each in found if each.running][
                -1:
            ]
            if next_ones:
                _move_on(self._session, gpu_class, next_ones[0].start)


def lock(session: Session, gpu_class: str) -> None:
    """Wait until no other transaction chooses a job of this class: two at once would choose the same tenant."""
    queue = select(Queue.gpu_class).where(Queue.gpu_class == gpu_class).with_for_update()
    if session.scalar(queue) is None:
        new = INSERT[session.get_bind().dialect.name](Queue).values(gpu_class=gpu_class, virtual_time=0.0)
        session.execute(new.on_conflict_do_nothing())
        session.scalar(queue)


def standings(session: Session, gpu_class: str) -> Sequence[Standing]:
    """Every tenant with waiting or running jobs of this class, in the order of their turns."""
    return [Standing(*row) for row in session.execute(STANDINGS, {CLASS.key: gpu_class})]


def take_turn(session: Session, gpu_class: str, turn: Standing) -> None:
    """Note that the tenant's next job has been claimed; the queue is locked."""
    _move_on(session, gpu_class, turn.start)
    if turn.lag > 0:
        _add(session, gpu_class, turn.tenant, {"virtual_time": turn.lag})


def count_attempt(session: Session, job: Job) -> None:
    """Count the attempt that is just over when this transaction is committed."""
    if job.attempt_seconds is not None:
        session.info.setdefault(PENDING, []).append((job.gpu_class, job.tenant, job.attempt_seconds))


@event.listens_for(Session, "before_commit")
def _write(session: Session) -> None:
    # In one order for all, so that no two transactions wait for each other.
    for gpu_class, tenant, seconds in sorted(session.info.pop(PENDING, [])):
        weight = select(Tenant.weight).where(Tenant.name == tenant).scalar_subquery()
        virtual = literal(seconds, Double) / func.coalesce(weight, 1.0)
        _add(session, gpu_class, tenant, {"virtual_time": virtual, "mean_seconds": seconds})


def _move_on(session: Session, gpu_class: str, virtual_time: float) -> None:
    behind = (Queue.gpu_class == gpu_class, Queue.virtual_time < virtual_time)
    session.execute(update(Queue).where(*behind).values(virtual_time=virtual_time))


def _add(session: Session, gpu_class: str, tenant: str, values: Mapping[str, Any]) -> None:
    """Add to the tenant's virtual time, and take the seconds of an attempt, if they are given, into the mean."""
    row = INSERT[session.get_bind().dialect.name](Share).values(gpu_class=gpu_class, tenant=tenant, **values)
    mean, newest = Share.mean_seconds, row.excluded.mean_seconds
    changed = {
        "virtual_time": Share.virtual_time + row.excluded.virtual_time,
        "mean_seconds": func.coalesce(mean + NEWEST * (newest - mean), newest, mean),
    }
    session.execute(row.on_conflict_do_update(index_elements=["gpu_class", "tenant"], set_=changed))
