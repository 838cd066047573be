"""Tenants and their quotas, API keys and the audit log. All of it needs the scope `admin`."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from api.admin.schemas import (
    AuditEventView,
    AuditPage,
    KeyPage,
    KeyView,
    NewKey,
    NewKeyView,
    NewTenant,
    QuotasView,
    TenantPage,
    TenantView,
)
from api.audit import Action
from api.dependencies import BEARER, Sessions
from api.protocol.pages import After, Limit
from api.protocol.problems import Problem
from api.protocol.strict_json import StrictRoute
from jobs.database import transaction
from jobs.repository import AuditRepository, KeyRepository, TenantRepository
from jobs.security.api_keys import TENANT_NAME

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[Depends(BEARER)], route_class=StrictRoute)

TenantName = Annotated[str, Path(max_length=64)]


@router.post("/tenants", status_code=HTTPStatus.CREATED)
def create_tenant(new: NewTenant, response: Response, action: Action) -> TenantView:
    """Create a tenant; a quota that is left out is no limit."""
    with action.transaction() as session:
        tenant = TenantRepository(session).create(new.name, new.quotas.read())
        if tenant is None:
            raise Problem(HTTPStatus.CONFLICT, f"there is a tenant {new.name} already")
        action.subject = tenant.name
    response.headers["Location"] = f"/v1/admin/tenants/{tenant.name}"
    return TenantView.of(tenant)


@router.get("/tenants")
def list_tenants(sessions: Sessions, limit: Limit = 20, after: After = None) -> TenantPage:
    """Tenants by name."""
    with transaction(sessions) as session:
        return TenantPage.of(
            TenantRepository(session).page(limit=limit + 1, after=after),
            limit,
            TenantView.of,
            lambda tenant: tenant.name,
        )


@router.get("/tenants/{name}")
def get_tenant(name: TenantName, sessions: Sessions) -> TenantView:
    """One tenant."""
    with transaction(sessions) as session:
        tenant = TenantRepository(session).get(name) if "\0" not in name else None
    if tenant is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no tenant {name}")
    return TenantView.of(tenant)


@router.put("/tenants/{name}/quotas")
def set_quotas(name: TenantName, quotas: QuotasView, action: Action) -> TenantView:
    """Replace all quotas of a tenant; one that is left out is no limit, and a weight that is left out is 1. Jobs that
    the tenant already has stay.
    """
    with action.transaction() as session:
        tenant = TenantRepository(session).set_quotas(name, quotas.read()) if "\0" not in name else None
        if tenant is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"there is no tenant {name}")
    return TenantView.of(tenant)


@router.post("/keys", status_code=HTTPStatus.CREATED)
def create_key(new: NewKey, response: Response, action: Action) -> NewKeyView:
    """Create an API key. Only this answer shows it."""
    with action.transaction() as session:
        if TenantRepository(session).get(new.tenant) is None:
            errors = [{"pointer": "/tenant", "detail": f"there is no tenant {new.tenant}"}]
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"there is no tenant {new.tenant}", errors=errors)
        key, row = KeyRepository(session).create(
            new.tenant, new.name, new.scopes, expires_in_seconds=new.expires_in_seconds
        )
        action.subject = row.id
    response.headers["Location"] = f"/v1/admin/keys/{row.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewKeyView.showing(key, row)


@router.get("/keys")
def list_keys(
    sessions: Sessions,
    limit: Limit = 20,
    after: After = None,
    tenant: Annotated[str | None, Query(pattern=f"^{TENANT_NAME}$")] = None,
) -> KeyPage:
    """API keys without their secrets, newest first."""
    with transaction(sessions) as session:
        keys = KeyRepository(session).page(limit=limit + 1, before=after, tenant=tenant)
        return KeyPage.of(keys, limit, KeyView.model_validate, lambda key: key.id)


@router.delete("/keys/{key_id}", status_code=HTTPStatus.NO_CONTENT)
def revoke_key(key_id: Annotated[str, Path(max_length=64)], action: Action) -> None:
    """Revoke an API key: from the next request on it is refused. Revoking it again is not an error."""
    with action.transaction() as session:
        revoked = "\0" not in key_id and KeyRepository(session).revoke(key_id)
        if not revoked:
            raise Problem(HTTPStatus.NOT_FOUND, f"there is no key {key_id}")


@router.get("/audit-events")
def list_audit_events(
    sessions: Sessions,
    limit: Limit = 20,
    after: After = None,
    tenant: Annotated[str | None, Query(pattern=f"^{TENANT_NAME}$")] = None,
    subject: Annotated[str | None, Query(pattern="^[a-z0-9_-]{1,64}$", description="a job, key or tenant")] = None,
) -> AuditPage:
    """Who did what, newest first."""
    with transaction(sessions) as session:
        events = AuditRepository(session).page(limit=limit + 1, before=after, tenant=tenant, subject=subject)
        return AuditPage.of(events, limit, AuditEventView.model_validate, lambda event: event.id)
