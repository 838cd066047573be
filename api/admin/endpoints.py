"""Tenants and their quotas, API keys and the audit log. All of it needs the scope `admin`."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from sqlalchemy.orm import Session

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
from api.dependencies import Sessions
from api.dependencies import Tenant as CallerTenant
from api.protocol.pages import After, Limit
from api.protocol.problems import Problem
from api.protocol.strict_json import StrictRoute
from jobs.database import transaction
from jobs.repository import AuditRepository, KeyRepository, RemovalRepository, TenantRepository
from jobs.security.api_keys import TENANT_NAME
from jobs.tables import Tenant

router = APIRouter(prefix="/v1/admin", tags=["admin"], route_class=StrictRoute)

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
        return _view(session, tenant)


@router.get("/tenants")
def list_tenants(sessions: Sessions, limit: Limit = 20, after: After = None) -> TenantPage:
    """Tenants by name."""
    with transaction(sessions) as session:
        return TenantPage.of(
            TenantRepository(session).page(limit=limit + 1, after=after),
            limit,
            lambda tenant: _view(session, tenant),
            lambda tenant: tenant.name,
        )


@router.get("/tenants/{name}")
def get_tenant(name: TenantName, sessions: Sessions) -> TenantView:
    """One tenant; of one that is being deleted, what is left of it. Once it is gone the answer is 404."""
    with transaction(sessions) as session:
        return _view(session, _tenant_or_404(session, name))


@router.delete("/tenants/{name}", status_code=HTTPStatus.ACCEPTED)
def delete_tenant(name: TenantName, action: Action, caller: CallerTenant) -> TenantView:
    """Delete a tenant with all it has. Its keys and submissions are refused from now on, its jobs are cancelled, and
    its jobs, uploads and files are removed once none of them runs; the answer, as `GET` later on, says what is left.
    Audit events stay until their retention is over. Asking again is not an error.
    """
    if name == caller:
        raise Problem(HTTPStatus.CONFLICT, f"this key is {name}'s own; use one of another tenant")
    with action.transaction() as session:
        _tenant_or_404(session, name)
        RemovalRepository(session).begin(name)
        return _view(session, _tenant_or_404(session, name))


@router.put("/tenants/{name}/quotas")
def set_quotas(name: TenantName, quotas: QuotasView, action: Action) -> TenantView:
    """Replace all quotas of a tenant; one that is left out is no limit, and a weight that is left out is 1. Jobs that
    the tenant already has stay.
    """
    with action.transaction() as session:
        tenant = TenantRepository(session).set_quotas(name, quotas.read()) if "\0" not in name else None
        if tenant is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"there is no tenant {name}")
        return _view(session, tenant)


@router.post("/keys", status_code=HTTPStatus.CREATED)
def create_key(new: NewKey, response: Response, action: Action) -> NewKeyView:
    """Create an API key. Only this answer shows it."""
    with action.transaction() as session:
        tenant = TenantRepository(session).get(new.tenant)
        if tenant is None:
            errors = [{"pointer": "/tenant", "detail": f"there is no tenant {new.tenant}"}]
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"there is no tenant {new.tenant}", errors=errors)
        if tenant.deleting_at is not None:
            raise Problem(HTTPStatus.CONFLICT, f"the tenant {new.tenant} is being deleted")
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
    """Revoke an API key: within a second it is refused. Revoking it again is not an error."""
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


def _tenant_or_404(session: Session, name: str) -> Tenant:
    tenant = TenantRepository(session).get(name) if "\0" not in name else None
    if tenant is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no tenant {name}")
    return tenant


def _view(session: Session, tenant: Tenant) -> TenantView:
    left = RemovalRepository(session).left(tenant.name) if tenant.deleting_at is not None else None
    return TenantView.of(tenant, left)
