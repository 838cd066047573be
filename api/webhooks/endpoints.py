"""Webhook endpoints of a tenant, and what was delivered there."""

from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Path, Query, Response

from api.audit import Action
from api.dependencies import SecretSealer, ServiceSettings, Sessions, Tenant
from api.protocol.problems import Problem
from api.protocol.strict_json import StrictRoute
from api.webhooks.schemas import (
    DeliveryList,
    DeliveryView,
    EndpointChange,
    EndpointList,
    EndpointView,
    EndpointWithSecret,
    NewEndpoint,
)
from jobs.database import transaction
from jobs.locations.addresses import literal_address, may_connect
from jobs.repository import MOST_ENDPOINTS, TooManyEndpoints, WebhookRepository
from jobs.security.signing_secrets import new_secret
from jobs.settings import Settings
from jobs.tables import WebhookEndpoint

EndpointId = Annotated[str, Path(pattern="^whe_[0-9a-z]{26}$")]
DeliveryId = Annotated[str, Path(pattern="^msg_[0-9a-z]{26}$")]

router = APIRouter(prefix="/v1", tags=["webhooks"], route_class=StrictRoute)


@router.post("/webhook-endpoints", status_code=HTTPStatus.CREATED)
def create_webhook_endpoint(
    new: NewEndpoint,
    response: Response,
    action: Action,
    tenant: Tenant,
    settings: ServiceSettings,
    sealer: SecretSealer,
) -> EndpointWithSecret:
    """Add an endpoint. The answer holds the secret to verify deliveries with, and no other answer ever does."""
    _check(new.url, settings)
    secret = new_secret()
    sealed = sealer.seal(secret)
    try:
        with action.transaction() as session:
            endpoint = WebhookRepository(session).create(tenant, new.url, new.event_types, sealed)
            action.subject = endpoint.id
    except TooManyEndpoints:
        detail = f"a tenant has at most {MOST_ENDPOINTS} webhook endpoints; delete one first"
        raise Problem(HTTPStatus.CONFLICT, detail) from None
    response.headers["Location"] = f"/v1/webhook-endpoints/{endpoint.id}"
    return EndpointWithSecret.of(endpoint, secret=secret)


@router.get("/webhook-endpoints")
def list_webhook_endpoints(sessions: Sessions, tenant: Tenant) -> EndpointList:
    """All endpoints."""
    with transaction(sessions) as session:
        return EndpointList(data=[EndpointView.of(each) for each in WebhookRepository(session).list(tenant)])


@router.get("/webhook-endpoints/{endpoint_id}")
def get_webhook_endpoint(endpoint_id: EndpointId, sessions: Sessions, tenant: Tenant) -> EndpointView:
    """One endpoint."""
    with transaction(sessions) as session:
        return EndpointView.of(_endpoint_or_404(WebhookRepository(session).get(tenant, endpoint_id), endpoint_id))


@router.patch("/webhook-endpoints/{endpoint_id}")
def change_webhook_endpoint(
    endpoint_id: EndpointId, change: EndpointChange, action: Action, tenant: Tenant
) -> EndpointView:
    """Change which events an endpoint receives, or switch it off or on."""
    with action.transaction() as session:
        changed = WebhookRepository(session).change(tenant, endpoint_id, change.event_types, change.enabled)
        return EndpointView.of(_endpoint_or_404(changed, endpoint_id))


@router.delete("/webhook-endpoints/{endpoint_id}", status_code=HTTPStatus.NO_CONTENT)
def delete_webhook_endpoint(endpoint_id: EndpointId, action: Action, tenant: Tenant) -> None:
    """Delete an endpoint; deliveries that still wait are not sent."""
    with action.transaction() as session:
        if not WebhookRepository(session).delete(tenant, endpoint_id):
            _endpoint_or_404(None, endpoint_id)


@router.post("/webhook-endpoints/{endpoint_id}/rotate-secret")
def rotate_webhook_secret(
    endpoint_id: EndpointId, action: Action, tenant: Tenant, sealer: SecretSealer
) -> EndpointWithSecret:
    """Give an endpoint a new secret. For 24 hours deliveries carry a signature by the old one too."""
    secret = new_secret()
    sealed = sealer.seal(secret)
    with action.transaction() as session:
        endpoint = _endpoint_or_404(WebhookRepository(session).rotate(tenant, endpoint_id, sealed), endpoint_id)
        return EndpointWithSecret.of(endpoint, secret=secret)


@router.get("/webhook-endpoints/{endpoint_id}/deliveries")
def list_webhook_deliveries(
    endpoint_id: EndpointId, sessions: Sessions, tenant: Tenant, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> DeliveryList:
    """The newest deliveries of an endpoint, with their outcome."""
    with transaction(sessions) as session:
        webhooks = WebhookRepository(session)
        _endpoint_or_404(webhooks.get(tenant, endpoint_id), endpoint_id)
        rows = webhooks.deliveries(tenant, endpoint_id, limit=limit)
        return DeliveryList(data=[DeliveryView.model_validate(row) for row in rows])


@router.post("/webhook-deliveries/{delivery_id}/redeliver", status_code=HTTPStatus.ACCEPTED)
def redeliver_webhook(delivery_id: DeliveryId, action: Action, tenant: Tenant) -> DeliveryView:
    """Send a delivery again, under the same `webhook-id`."""
    with action.transaction() as session:
        row = WebhookRepository(session).redeliver(tenant, delivery_id)
        if row is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"there is no delivery {delivery_id}")
        return DeliveryView.model_validate(row)


def _endpoint_or_404(endpoint: WebhookEndpoint | None, endpoint_id: str) -> WebhookEndpoint:
    if endpoint is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no webhook endpoint {endpoint_id}")
    return endpoint


def _check(url: str, settings: Settings) -> None:
    """Refuse at once what could never be delivered; a name is checked again whenever it is connected to."""
    allowed = settings.egress_allowed_networks
    schemes = ("https", "http") if allowed else ("https",)
    detail = ""
    try:
        parts = urlsplit(url)
        literal = literal_address(parts.hostname or "")
        if parts.scheme not in schemes or not parts.hostname or not url.isprintable() or " " in url:
            detail = f"must be {' or '.join(schemes)}:// and a host"
        elif not url.isascii():
            detail = "must be ASCII: a name in other letters in its xn-- form, and what follows it percent-encoded"
        elif "@" in parts.netloc or parts.fragment or parts.port == 0:
            detail = "must have no user name and no fragment"
        elif literal is not None and not may_connect(literal, allowed):
            detail = "must not be an address that is not public; see SGLP_EGRESS_ALLOWED_NETWORKS"
    except ValueError:
        detail = "is not a URL"
    if detail:
        errors = [{"pointer": "/url", "detail": detail}]
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"the url {detail}", code="source_forbidden", errors=errors)
