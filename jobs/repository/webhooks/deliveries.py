"""Webhook deliveries: written with the event they tell of, taken by senders when they are due."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from jobs.clock import later, now
from jobs.ids import new_id
from jobs.repository.counters import WEBHOOK_ATTEMPTS, increment
from jobs.tables import WebhookDelivery, WebhookEndpoint

KEPT_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True)
class DueDelivery:
    """What a sender needs to send; `attempt` counts from 1, and whoever has a later one writes.

    `taken_at` is the time on the database's clock: receivers refuse a delivery that is signed for another time.
    """

    id: str
    tenant: str
    job_id: str
    event_type: str
    created_at: datetime
    taken_at: datetime
    attempt: int
    endpoint_id: str
    url: str
    sealed_secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"DueDelivery({self.id}, attempt {self.attempt})"


class DeliveryRepository:
    """Deliveries of all tenants, for senders of which there may be several."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def take_due(self, lease_seconds: float, *, but_not_of: Collection[str] = ()) -> DueDelivery | None:
        """The delivery that is due for longest, if one is, but of none of these tenants.

        Unless its outcome is recorded, it is due again after the lease.
        """
        due = (
            select(WebhookDelivery.id)
            .join(WebhookEndpoint)
            .where(WebhookDelivery.next_at <= now(), WebhookEndpoint.disabled_reason.is_(None))
            .where(WebhookEndpoint.tenant.not_in(but_not_of))
            .order_by(WebhookDelivery.next_at)
            .limit(1)
            .with_for_update(skip_locked=True, of=WebhookDelivery)
        )
        taken = (
            update(WebhookDelivery)
            .where(WebhookDelivery.id.in_(due))
            .values(attempts=WebhookDelivery.attempts + 1, next_at=later(lease_seconds))
            .returning(WebhookDelivery)
            .execution_options(synchronize_session=False, populate_existing=True)
        )
        row = self._session.scalars(taken).one_or_none()
        if row is None:
            return None
        endpoint = self._session.get_one(WebhookEndpoint, row.endpoint_id)
        still = select(WebhookEndpoint.previous_secret).where(
            WebhookEndpoint.id == endpoint.id, WebhookEndpoint.previous_until > now()
        )
        keys = (endpoint.secret, self._session.scalar(still))
        return DueDelivery(
            row.id,
            endpoint.tenant,
            row.job_id,
            row.event_type,
            row.created_at,
            self._session.scalars(select(now())).one(),
            row.attempts,
            endpoint.id,
            endpoint.url,
            tuple(key for key in keys if key),
        )

    def delivered(self, due: DueDelivery, status: int) -> None:
        """Record that the endpoint has accepted it."""
        increment(self._session, WEBHOOK_ATTEMPTS, "delivered")
        self._record(due, {"delivered_at": now(), "next_at": None, "last_status": status, "last_error": None})

    def failed(self, due: DueDelivery, status: int | None, error: str, retry_seconds: float | None) -> None:
        """Record that the attempt failed, and when to try again; None gives the delivery up."""
        increment(self._session, WEBHOOK_ATTEMPTS, "failed")
        next_at = None if retry_seconds is None else later(retry_seconds)
        self._record(due, {"next_at": next_at, "last_status": status, "last_error": error})

    def disable(self, endpoint_id: str, reason: str) -> None:
        """Disable an endpoint and give up the deliveries that wait for it."""
        mine = WebhookEndpoint.id == endpoint_id
        self._session.execute(update(WebhookEndpoint).where(mine).values(disabled_reason=reason))
        give_up_waiting(self._session, endpoint_id)

    def forget_old(self) -> None:
        """Delete deliveries that are over, after a month."""
        over = (WebhookDelivery.next_at.is_(None), WebhookDelivery.created_at <= later(-KEPT_SECONDS))
        self._session.execute(delete(WebhookDelivery).where(*over))

    def _record(self, due: DueDelivery, values: dict[str, object]) -> None:
        mine = (WebhookDelivery.id == due.id, WebhookDelivery.attempts == due.attempt)
        self._session.execute(update(WebhookDelivery).where(*mine).values(**values))


def give_up_waiting(session: Session, endpoint_id: str) -> None:
    """Give up the deliveries that wait for an endpoint: months later they would do more harm than good."""
    waiting = (WebhookDelivery.endpoint_id == endpoint_id, WebhookDelivery.next_at.is_not(None))
    given_up = {"next_at": None, "last_error": "given up: the endpoint was disabled"}
    session.execute(update(WebhookDelivery).where(*waiting).values(**given_up))


def write_deliveries(session: Session, tenant: str, job_id: str, event_type: str) -> None:
    """A delivery of this event for every endpoint of the tenant that wants it, in the transaction of the event."""
    wanting = select(WebhookEndpoint).where(WebhookEndpoint.tenant == tenant, WebhookEndpoint.disabled_reason.is_(None))
    session.add_all(
        WebhookDelivery(
            id=new_id("msg"),
            endpoint_id=endpoint.id,
            job_id=job_id,
            event_type=event_type,
            created_at=now(),
            attempts=0,
            next_at=now(),
        )
        for endpoint in session.scalars(wanting)
        if event_type in endpoint.event_types
    )
