"""Tenants: made, listed, and given quotas."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from jobs.clock import now
from jobs.tables import Tenant


@dataclass(frozen=True)
class Quotas:
    """How much a tenant may have at a time, None does not limit; and of workers that others want too, its share by
    `weight`.
    """

    queued_jobs: int | None = None
    running_jobs: int | None = None
    stored_bytes: int | None = None
    weight: float = 1.0


class TenantRepository:
    """All tenants; only administrators come here."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, name: str, quotas: Quotas) -> Tenant | None:
        """A new tenant; None where the name is taken."""
        tenant = Tenant(name=name, created_at=now(), **vars(quotas))
        try:
            with self._session.begin_nested():
                self._session.add(tenant)
        except IntegrityError:
            return None
        self._session.refresh(tenant)
        return tenant

    def ensure(self, name: str) -> None:
        """Make the tenant where there is none of this name."""
        self.create(name, Quotas())

    def get(self, name: str) -> Tenant | None:
        """The tenant of this name."""
        return self._session.get(Tenant, name)

    def page(self, *, limit: int, after: str | None) -> Sequence[Tenant]:
        """Up to `limit` tenants by name, from those behind the name `after`."""
        chosen = select(Tenant).order_by(Tenant.name).limit(limit)
        return self._session.scalars(chosen if after is None else chosen.where(Tenant.name > after)).all()

    def set_quotas(self, name: str, quotas: Quotas) -> Tenant | None:
        """Replace all quotas of a tenant; jobs that it already has stay. None where there is no such tenant."""
        changed = update(Tenant).where(Tenant.name == name).values(**vars(quotas)).returning(Tenant)
        return self._session.scalars(changed.execution_options(populate_existing=True)).one_or_none()
