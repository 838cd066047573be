"""What tenants may do with their webhook endpoints and see of their deliveries."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from jobs.clock import later, now
from jobs.ids import new_id
from jobs.repository.webhooks.deliveries import give_up_waiting
from jobs.tables import WebhookDelivery, WebhookEndpoint

ROTATION_SECONDS = 24 * 3600
# Of one tenant: the end of a job writes a row for each.
MOST_ENDPOINTS = 20


class TooManyEndpoints(Exception):
    """The tenant has `MOST_ENDPOINTS` already."""


class WebhookRepository:
    """Endpoints and deliveries as their tenant sees them; another tenant's do not exist."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, tenant: str, url: str, event_types: Sequence[str], sealed_secret: str) -> WebhookEndpoint:
        """Write a new endpoint. Raises `TooManyEndpoints`."""
        if len(self.list(tenant)) >= MOST_ENDPOINTS:
            raise TooManyEndpoints
        endpoint = WebhookEndpoint(
            id=new_id("whe"),
            tenant=tenant,
            url=url,
            event_types=list(event_types),
            secret=sealed_secret,
            created_at=now(),
        )
        self._session.add(endpoint)
        self._session.flush()
        self._session.refresh(endpoint)
        return endpoint

    def list(self, tenant: str) -> Sequence[WebhookEndpoint]:
        """The tenant's endpoints, oldest first."""
        chosen = select(WebhookEndpoint).where(WebhookEndpoint.tenant == tenant)
        return self._session.scalars(chosen.order_by(WebhookEndpoint.id)).all()

    def get(self, tenant: str, endpoint_id: str) -> WebhookEndpoint | None:
        """One endpoint."""
        return self._session.scalars(select(WebhookEndpoint).where(*_owned(tenant, endpoint_id))).one_or_none()

    def change(
        self, tenant: str, endpoint_id: str, event_types: Sequence[str] | None, enabled: bool | None
    ) -> WebhookEndpoint | None:
        """Change which events an endpoint receives, or disable or enable it."""
        values: dict[str, object] = {} if event_types is None else {"event_types": list(event_types)}
        if enabled is not None:
            values["disabled_reason"] = None if enabled else "switched off"
        if values:
            self._session.execute(update(WebhookEndpoint).where(*_owned(tenant, endpoint_id)).values(**values))
        endpoint = self.get(tenant, endpoint_id)
        if endpoint is not None and enabled is False:
            give_up_waiting(self._session, endpoint_id)
        return endpoint

    def rotate(self, tenant: str, endpoint_id: str, sealed_secret: str) -> WebhookEndpoint | None:
        """Give an endpoint another secret; the one it had signs too for a day."""
        values = {
            "previous_secret": WebhookEndpoint.secret,
            "previous_until": later(ROTATION_SECONDS),
            "secret": sealed_secret,
        }
        self._session.execute(update(WebhookEndpoint).where(*_owned(tenant, endpoint_id)).values(**values))
        return self.get(tenant, endpoint_id)

    def delete(self, tenant: str, endpoint_id: str) -> bool:
        """Delete an endpoint and its deliveries."""
        gone = delete(WebhookEndpoint).where(*_owned(tenant, endpoint_id)).returning(WebhookEndpoint.id)
        return self._session.scalar(gone) is not None

    def deliveries(self, tenant: str, endpoint_id: str, *, limit: int) -> Sequence[WebhookDelivery]:
        """The newest deliveries of an endpoint."""
        chosen = select(WebhookDelivery).join(WebhookEndpoint).where(*_owned(tenant, endpoint_id))
        return self._session.scalars(chosen.order_by(WebhookDelivery.id.desc()).limit(limit)).all()

    def redeliver(self, tenant: str, delivery_id: str) -> WebhookDelivery | None:
        """Send a delivery again from the start, under the same id."""
        owned = select(WebhookDelivery.id).join(WebhookEndpoint).where(WebhookEndpoint.tenant == tenant)
        again = (
            update(WebhookDelivery)
            .where(WebhookDelivery.id == delivery_id, WebhookDelivery.id.in_(owned))
            .values(attempts=0, next_at=now(), delivered_at=None)
            .returning(WebhookDelivery)
            .execution_options(synchronize_session=False, populate_existing=True)
        )
        return self._session.scalars(again).one_or_none()


def _owned(tenant: str, endpoint_id: str) -> list[ColumnElement[bool]]:
    return [WebhookEndpoint.tenant == tenant, WebhookEndpoint.id == endpoint_id]
