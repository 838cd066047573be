"""Sealed secrets of all tenants, for whoever changes the keys they are sealed with."""

from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.security.signing_secrets import SecretKeyMissing
from jobs.tables import WebhookEndpoint


class SecretRepository:
    """Secrets as they are stored; nobody here can open them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def renew(self, renew: Callable[[str], str]) -> dict[str, SecretKeyMissing]:
        """Replace every stored secret by what `renew` makes of it; the endpoints for which it could not, and why."""
        left = {}
        # Locked, so that no rotation goes on meanwhile.
        for endpoint in self._session.scalars(select(WebhookEndpoint).with_for_update()):
            previous = endpoint.previous_secret
            try:
                endpoint.secret = renew(endpoint.secret)
                endpoint.previous_secret = None if previous is None else renew(previous)
            except SecretKeyMissing as missing:
                left[endpoint.id] = missing
        return left
