"""Deliver webhooks as standardwebhooks.com specifies them: signed, at least once, for about three days."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import httpcore
import structlog
from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks import Webhook

from jobs.database import transaction
from jobs.repository import DeliveryRepository, DueDelivery
from jobs.security.signing_secrets import LostSecretKey, Sealer
from worker.network.egress import guarded_pool

# Between attempts; with the jitter about three days in all.
RETRY_SECONDS = (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
JITTER = 0.1
TIMEOUT_SECONDS = 15.0
# Longer than a request can take, so that no other sender takes the same delivery meanwhile.
LEASE_SECONDS = 4 * TIMEOUT_SECONDS
AT_ONCE = 16
# So that slow receivers of one tenant do not delay the deliveries of others.
AT_ONCE_OF_A_TENANT = 2
POLL_SECONDS = 0.5
READ_BYTES = 64 * 1024
GONE = 410

log = structlog.get_logger(__name__)


class WebhookSender:
    """Sends due deliveries. Any number may run; a delivery whose sender died is sent again after its lease."""

    def __init__(self, sessions: sessionmaker[Session], sealer: Sealer, allowed_networks: Sequence[str]) -> None:
        self._sessions = sessions
        self._sealer = sealer
        self._allowed = allowed_networks

    def deliver_due(self) -> None:
        """Send until nothing is due: `AT_ONCE` deliveries at a time, of one tenant at most `AT_ONCE_OF_A_TENANT`."""
        sending: dict[Future[None], str] = {}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            while True:
                due = self._take(Counter(sending.values())) if len(sending) < AT_ONCE else None
                if due is not None:
                    sending[pool.submit(self._deliver, due)] = due.tenant
                    continue
                if not sending:
                    return
                for ended in wait(sending, POLL_SECONDS, FIRST_COMPLETED).done:
                    del sending[ended]
                    ended.result()

    def _take(self, sending: Counter[str]) -> DueDelivery | None:
        at_their_share = [tenant for tenant, count in sending.items() if count >= AT_ONCE_OF_A_TENANT]
        with transaction(self._sessions) as session:
            return DeliveryRepository(session).take_due(LEASE_SECONDS, but_not_of=at_their_share)

    def forget_old(self) -> None:
        """Delete deliveries that ended long ago."""
        with transaction(self._sessions) as session:
            DeliveryRepository(session).forget_old()

    def _deliver(self, due: DueDelivery) -> None:
        status: int | None = None
        error = ""
        try:
            status = self._send(due)
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, LostSecretKey) as failure:
            # The message may contain bytes that the receiver sent.
            error = (
                f"{type(failure).__name__}: {failure}".encode("ascii", "backslashreplace").decode().replace("\0", "")
            )
        except Exception as failure:
            # A delivery without an outcome would be retried for ever.
            log.exception("a webhook could not be sent", delivery_id=due.id, endpoint_id=due.endpoint_id)
            error = f"not sent ({type(failure).__name__})"
        with transaction(self._sessions) as session:
            deliveries = DeliveryRepository(session)
            if status is not None and 200 <= status < 300:
                deliveries.delivered(due, status)
                return
            error = error or f"answered {status}"
            log.info(
                "a webhook was not accepted",
                delivery_id=due.id,
                endpoint_id=due.endpoint_id,
                job_id=due.job_id,
                error=error,
            )
            deliveries.failed(due, status, error, None if status == GONE else retry_seconds(due.attempt))
            if status == GONE:
                deliveries.disable(due.endpoint_id, "the endpoint answered 410 Gone")

    def _send(self, due: DueDelivery) -> int:
        body = payload(due)
        signatures = [
            Webhook(secret).sign(due.id, due.taken_at, body) for secret in map(self._sealer.open, due.sealed_secrets)
        ]
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "SGLP-Webhooks",
            "webhook-id": due.id,
            "webhook-timestamp": str(int(due.taken_at.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
        extensions = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_SECONDS)}
        with (
            guarded_pool(self._allowed, TIMEOUT_SECONDS) as pool,
            pool.stream(
                "POST", due.url, headers=list(headers.items()), content=body.encode(), extensions=extensions
            ) as response,
        ):
            received = 0
            for chunk in response.iter_stream():
                received += len(chunk)
                if received > READ_BYTES:
                    break
            return int(response.status)


def payload(due: DueDelivery) -> str:
    """The body: what happened to which job. The receiver gets everything else from the API, with a key."""
    job = {"id": due.job_id, "status": due.event_type.removeprefix("job."), "links": {"self": f"/v1/jobs/{due.job_id}"}}
    timestamp = due.created_at.isoformat().replace("+00:00", "Z")
    return json.dumps({"type": due.event_type, "timestamp": timestamp, "data": job}, separators=(",", ":"))


def retry_seconds(attempt: int) -> float | None:
    """The pause after the attempt of this number, counted from 1; None after the last."""
    if attempt > len(RETRY_SECONDS):
        return None
    return RETRY_SECONDS[attempt - 1] * random.uniform(1, 1 + JITTER)
