"""Tenants, API keys and audit events as administrators send and see them."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from api.protocol.pages import Page
from jobs.repository import Left, Quotas
from jobs.security.api_keys import TENANT_NAME, Scope
from jobs.tables import ApiKey, Tenant

Count = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Bytes = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
TEN_YEARS_SECONDS = 10 * 366 * 86400


class QuotasView(BaseModel):
    """The most that a tenant may have at a time; null, or left out, is no limit, but of `queued_jobs` the service's.

    `weight` is its share of the workers where several tenants wait for them: one of 2 gets twice the time of one of 1.
    """

    model_config = ConfigDict(extra="forbid", from_attributes=True)

    queued_jobs: Count | None = None
    running_jobs: Count | None = None
    stored_bytes: Bytes | None = None
    weight: Annotated[float, Field(ge=0.01, le=100)] = 1.0

    def read(self) -> Quotas:
        return Quotas(**self.model_dump())


class NewTenant(BaseModel):
    """A tenant to create."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=f"^{TENANT_NAME}$")
    quotas: QuotasView = QuotasView()


class DeletionView(BaseModel):
    """What is left of a tenant that is being deleted: jobs that have not ended and that have, deleted jobs whose files
    are still stored, and uploads. Nobody sees any of it any more.
    """

    model_config = ConfigDict(from_attributes=True)

    requested_at: datetime
    unfinished_jobs: int
    ended_jobs: int
    deleted_jobs: int
    uploads: int


class TenantView(BaseModel):
    """A tenant and its quotas; `deletion` is null unless it is being deleted."""

    name: str
    created_at: datetime
    quotas: QuotasView
    deletion: DeletionView | None

    @classmethod
    def of(cls, tenant: Tenant, left: Left | None) -> Self:
        """`left` is given where the tenant is being deleted."""
        deletion = None
        if tenant.deleting_at is not None and left is not None:
            deletion = DeletionView(requested_at=tenant.deleting_at, **vars(left))
        quotas = QuotasView.model_validate(tenant)
        return cls(name=tenant.name, created_at=tenant.created_at, quotas=quotas, deletion=deletion)


class NewKey(BaseModel):
    """An API key to create."""

    model_config = ConfigDict(extra="forbid")

    tenant: str = Field(pattern=f"^{TENANT_NAME}$")
    name: str = Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")
    scopes: list[Scope] = Field(min_length=1, max_length=len(Scope))
    expires_in_seconds: int | None = Field(default=None, gt=0, le=TEN_YEARS_SECONDS, strict=True)


class KeyView(BaseModel):
    """An API key without its secret. `last_used_at` is updated at most once a minute."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    tenant: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewKeyView(KeyView):
    """A new API key with its secret, which no other answer shows."""

    key: str = Field(repr=False)

    @classmethod
    def showing(cls, key: str, row: ApiKey) -> Self:
        return cls(key=key, **KeyView.model_validate(row).model_dump())


class AuditEventView(BaseModel):
    """`action` is a method and a route; `subject` is the id of the job, key or tenant that it changed."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    created_at: datetime
    tenant: str
    key_id: str | None
    action: str
    subject: str | None
    address: str | None
    request_id: str | None


class TenantPage(Page[TenantView]):
    """A page of tenants, by name."""


class KeyPage(Page[KeyView]):
    """A page of keys, newest first."""


class AuditPage(Page[AuditEventView]):
    """A page of audit events, newest first."""
