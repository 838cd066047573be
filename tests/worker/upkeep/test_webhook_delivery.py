"""Webhooks from the end of a job to a receiver that checks signatures with the specification's own library."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks import Webhook, WebhookVerificationError

from jobs.clock import later, now
from jobs.database import transaction
from jobs.repository import DeliveryRepository, JobRepository, WebhookRepository
from jobs.security.signing_secrets import Sealer, new_secret
from jobs.spec import JobSpec
from jobs.tables import WebhookDelivery, WebhookEndpoint
from tests.services.receiver import Receiver, receiver
from worker.upkeep import webhook_delivery
from worker.upkeep.webhook_delivery import RETRY_SECONDS, WebhookSender

SPEC = JobSpec.model_validate({"mode": "analyze", "model": {"uri": "hf://org/name"}})
EVERY = ("job.succeeded", "job.failed", "job.cancelled")
LOOPBACK = ["127.0.0.0/8"]
SEALER = Sealer([Fernet.generate_key().decode()])


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def sender(sessions: sessionmaker[Session]) -> WebhookSender:
    return WebhookSender(sessions, SEALER, LOOPBACK)


def add(
    sessions: sessionmaker[Session], url: str, tenant: str = "default", events: tuple[str, ...] = EVERY
) -> WebhookEndpoint:
    with transaction(sessions) as session:
        return WebhookRepository(session).create(tenant, url, events, SEALER.seal(new_secret()))


def cancel_a_job(sessions: sessionmaker[Session], tenant: str = "default") -> str:
    with transaction(sessions) as session:
        jobs = JobRepository(session)
        job_id: str = jobs.submit(tenant, SPEC, max_attempts=1).id
        jobs.cancel(tenant, job_id)
    return job_id


def rows(sessions: sessionmaker[Session]) -> list[WebhookDelivery]:
    with transaction(sessions) as session:
        return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)))


def make_due(sessions: sessionmaker[Session]) -> None:
    with transaction(sessions) as session:
        session.execute(update(WebhookDelivery).where(WebhookDelivery.next_at.is_not(None)).values(next_at=now()))


def test_the_end_of_a_job_is_told_signed_and_once(
    sessions: sessionmaker[Session], hook: Receiver, sender: WebhookSender
) -> None:
    endpoint = add(sessions, hook.url)
    job_id = cancel_a_job(sessions)
    for _ in range(3):
        sender.deliver_due()
    ((headers, body),) = hook.received
    said: dict[str, Any] = Webhook(SEALER.open(endpoint.secret)).verify(body, headers)
    assert (said["type"], said["data"]["id"], said["data"]["status"]) == ("job.cancelled", job_id, "cancelled")
    assert said["data"]["links"] == {"self": f"/v1/jobs/{job_id}"}
    assert set(said) == {"type", "timestamp", "data"}
    with pytest.raises(WebhookVerificationError):
        Webhook(SEALER.open(endpoint.secret)).verify(body.replace(b"cancelled", b"succeeded"), headers)
    (row,) = rows(sessions)
    assert (row.id, row.attempts, row.last_status, row.next_at) == (headers["webhook-id"], 1, 200, None)
    assert row.delivered_at is not None


def test_there_is_one_delivery_for_each_terminal_event_and_endpoint_that_wants_it(
    sessions: sessionmaker[Session], hook: Receiver
) -> None:
    first, second = (add(sessions, hook.url) for _ in range(2))
    add(sessions, hook.url, events=("job.succeeded",))
    add(sessions, hook.url, tenant="other")
    off = add(sessions, hook.url)
    with transaction(sessions) as session:
        WebhookRepository(session).change("default", off.id, None, enabled=False)
    jobs = {cancel_a_job(sessions) for _ in range(3)}
    targets = {(row.job_id, row.endpoint_id) for row in rows(sessions)}
    assert targets == {(job, endpoint.id) for job in jobs for endpoint in (first, second)}
    assert len(rows(sessions)) == len(targets)


def test_a_delivery_is_not_written_where_its_event_is_not(sessions: sessionmaker[Session], hook: Receiver) -> None:
    add(sessions, hook.url)

    with sessions() as session:
        jobs = JobRepository(session)
        jobs.cancel("default", jobs.submit("default", SPEC, max_attempts=1).id)
        assert session.scalar(select(func.count()).select_from(WebhookDelivery)) == 1
        session.rollback()
    assert rows(sessions) == []


def test_what_is_not_taken_is_tried_again_under_the_same_id(
    sessions: sessionmaker[Session], hook: Receiver, sender: WebhookSender
) -> None:
    add(sessions, hook.url)
    cancel_a_job(sessions)
    hook.answers = [500, 302, 429]
    for _ in range(4):
        sender.deliver_due()
        # Not before its time.
        before = len(hook.received)
        sender.deliver_due()
        assert len(hook.received) == before
        make_due(sessions)
    assert len({headers["webhook-id"] for headers, _ in hook.received}) == 1
    assert len(hook.received) == 4
    (row,) = rows(sessions)
    assert (row.attempts, row.last_status, row.last_error, row.next_at) == (4, 200, None, None)


def test_after_the_last_try_it_is_given_up(
    sessions: sessionmaker[Session], hook: Receiver, sender: WebhookSender
) -> None:
    endpoint = add(sessions, hook.url)
    cancel_a_job(sessions)
    hook.answers = [503] * 100
    for _ in range(len(RETRY_SECONDS) + 3):
        sender.deliver_due()
        make_due(sessions)
    assert len(hook.received) == len(RETRY_SECONDS) + 1
    (row,) = rows(sessions)
    assert (row.next_at, row.delivered_at, row.last_status, row.last_error) == (None, None, 503, "answered 503")
    hook.answers = []
    with transaction(sessions) as session:
        assert WebhookRepository(session).redeliver("other", row.id) is None
        assert WebhookRepository(session).redeliver("default", row.id)
    sender.deliver_due()
    assert hook.received[-1][0]["webhook-id"] == row.id
    Webhook(SEALER.open(endpoint.secret)).verify(hook.received[-1][1], hook.received[-1][0])
    assert rows(sessions)[0].delivered_at is not None


def test_the_schedule_is_about_three_days() -> None:
    waits = [webhook_delivery.retry_seconds(attempt) for attempt in range(1, len(RETRY_SECONDS) + 2)]
    assert waits.pop() is None
    total = sum(wait for wait in waits if wait)
    assert 3 * 86400 < total < 4 * 86400
    assert len({webhook_delivery.retry_seconds(3) for _ in range(10)}) > 1


def test_an_endpoint_that_is_gone_is_told_nothing_more(
    sessions: sessionmaker[Session], hook: Receiver, sender: WebhookSender
) -> None:
    endpoint = add(sessions, hook.url)
    cancel_a_job(sessions)
    hook.answers = [410]
    sender.deliver_due()
    cancel_a_job(sessions)
    make_due(sessions)
    sender.deliver_due()
    assert len(hook.received) == 1
    with transaction(sessions) as session:
        disabled = WebhookRepository(session).get("default", endpoint.id)
        assert disabled is not None
        assert disabled.disabled_reason == "the endpoint answered 410 Gone"
    assert [row.next_at for row in rows(sessions)] == [None]


def test_a_sender_that_died_is_replaced_after_its_lease(
    sessions: sessionmaker[Session], hook: Receiver, sender: WebhookSender
) -> None:
    add(sessions, hook.url)
    cancel_a_job(sessions)
    with transaction(sessions) as session:
        taken = DeliveryRepository(session).take_due(lease_seconds=60)
    assert taken is not None
    sender.deliver_due()
    assert hook.received == []
    make_due(sessions)
    sender.deliver_due()
    assert hook.received[0][0]["webhook-id"] == taken.id
    # The first one comes back after all, and writes nothing.
    with transaction(sessions) as session:
        DeliveryRepository(session).failed(taken, None, "too late", 5)
    (row,) = rows(sessions)
    assert (row.delivered_at is not None, row.next_at, row.last_error) == (True, None, None)


def test_after_a_rotation_both_secrets_sign_for_a_day(
    sessions: sessionmaker[Session], hook: Receiver, sender: WebhookSender
) -> None:
    old = add(sessions, hook.url)
    with transaction(sessions) as session:
        new = WebhookRepository(session).rotate("default", old.id, SEALER.seal(new_secret()))
    assert new is not None
    assert new.secret != old.secret
    cancel_a_job(sessions)
    sender.deliver_due()
    headers, body = hook.received[-1]
    for secret in (old.secret, new.secret):
        assert json.loads(body) == Webhook(SEALER.open(secret)).verify(body, headers)
    with transaction(sessions) as session:
        session.execute(update(WebhookEndpoint).values(previous_until=later(-1)))
    cancel_a_job(sessions)
    sender.deliver_due()
    headers, body = hook.received[-1]
    Webhook(SEALER.open(new.secret)).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SEALER.open(old.secret)).verify(body, headers)


def test_a_secret_from_before_signs_and_one_whose_key_is_lost_fails_alone(
    sessions: sessionmaker[Session], hook: Receiver, sender: WebhookSender
) -> None:
    plain, lost = new_secret(), Sealer([Fernet.generate_key().decode()]).seal(new_secret())
    with transaction(sessions) as session:
        for secret in (lost, plain):
            WebhookRepository(session).create("default", hook.url, EVERY, secret)
    cancel_a_job(sessions)
    sender.deliver_due()
    ((headers, body),) = hook.received
    assert Webhook(plain).verify(body, headers)
    errors = sorted((row.last_error or "", row.next_at is not None) for row in rows(sessions))
    assert errors[0] == ("", False)
    assert errors[1][0].startswith("LostSecretKey")
    assert errors[1][1]


def test_an_address_that_is_not_public_is_not_connected_to(sessions: sessionmaker[Session], hook: Receiver) -> None:
    add(sessions, hook.url)
    add(sessions, hook.url.replace("127.0.0.1", "localhost"))
    cancel_a_job(sessions)
    WebhookSender(sessions, SEALER, []).deliver_due()
    assert hook.received == []
    assert {row.last_error is not None and "not public" in row.last_error for row in rows(sessions)} == {True}
    assert {row.next_at is not None for row in rows(sessions)} == {True}


def test_a_receiver_that_is_not_there_or_never_answers_is_an_error_of_that_delivery_alone(
    sessions: sessionmaker[Session], hook: Receiver, sender: WebhookSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_delivery, "TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        add(sessions, f"http://127.0.0.1:{silent.getsockname()[1]}/")
        add(sessions, "http://127.0.0.1:1/")
        add(sessions, "http://no-such-name.invalid/")
        add(sessions, hook.url)
        cancel_a_job(sessions)
        sender.deliver_due()
    assert len(hook.received) == 1
    errors = sorted(row.last_error or "" for row in rows(sessions))
    assert [error.partition(":")[0] for error in errors] == ["", "ConnectError", "ConnectError", "ReadTimeout"]


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"]
)
def test_a_receiver_that_drips_does_not_hold_the_others_up(
    sessions: sessionmaker[Session],
    hook: Receiver,
    sender: WebhookSender,
    monkeypatch: pytest.MonkeyPatch,
    start: bytes,
) -> None:
    monkeypatch.setattr(webhook_delivery, "TIMEOUT_SECONDS", 1.0)
    ended = threading.Event()

    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.sendall(start)
            while not ended.wait(0.1):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        dripping = threading.Thread(target=drip, args=[listening])
        dripping.start()
        add(sessions, f"http://127.0.0.1:{listening.getsockname()[1]}/")
        cancel_a_job(sessions)
        begin = time.monotonic()
        sender.deliver_due()
        took = time.monotonic() - begin
        ended.set()
        dripping.join()
    assert took < 10
    (row,) = rows(sessions)
    assert (row.last_error or "").startswith("ReadTimeout")
    assert row.delivered_at is None


@contextmanager
def silent() -> Iterator[str]:
    """A receiver that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


def test_one_tenants_slow_receivers_hold_up_nobody_elses(
    sessions: sessionmaker[Session], hook: Receiver, sender: WebhookSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_delivery, "TIMEOUT_SECONDS", 2.0)
    with silent() as slow:
        # Four times as many as are sent at once, and due before anything else.
        for _ in range(4):
            add(sessions, slow, tenant="slow")
        for _ in range(webhook_delivery.AT_ONCE):
            cancel_a_job(sessions, "slow")
        add(sessions, hook.url)
        cancelled = [cancel_a_job(sessions) for _ in range(10)]
        sending = threading.Thread(target=sender.deliver_due)
        begin = time.monotonic()
        sending.start()
        while len(hook.received) < len(cancelled) and time.monotonic() - begin < 30:
            time.sleep(0.05)
        waiting = [row for row in rows(sessions) if row.attempts == 0]
        monkeypatch.setattr(webhook_delivery, "TIMEOUT_SECONDS", 0.01)
        sending.join()
    assert {json.loads(body)["data"]["id"] for _, body in hook.received} == set(cancelled)
    # Still about the first of the slow ones by then: nobody waited for more than one round of them.
    assert len(waiting) >= 4 * webhook_delivery.AT_ONCE - 3 * webhook_delivery.AT_ONCE_OF_A_TENANT
    assert {row.attempts for row in rows(sessions)} == {1}


def test_what_cannot_be_sent_at_all_is_given_up_like_what_is_not_taken(
    sessions: sessionmaker[Session], sender: WebhookSender
) -> None:
    add(sessions, "https://ex\u00e4mple.com/hook")
    cancel_a_job(sessions)
    for _ in range(len(RETRY_SECONDS) + 3):
        sender.deliver_due()
        make_due(sessions)
    (row,) = rows(sessions)
    assert (row.attempts, row.next_at, row.delivered_at) == (len(RETRY_SECONDS) + 1, None, None)
    assert row.last_error == "not sent (TypeError)"


def test_what_waits_for_an_endpoint_that_is_switched_off_is_given_up(
    sessions: sessionmaker[Session], hook: Receiver, sender: WebhookSender
) -> None:
    endpoint = add(sessions, hook.url)
    cancel_a_job(sessions)
    with transaction(sessions) as session:
        WebhookRepository(session).change("other", endpoint.id, None, enabled=False)
        assert [row.next_at is not None for row in session.scalars(select(WebhookDelivery))] == [True]
        WebhookRepository(session).change("default", endpoint.id, None, enabled=False)
        WebhookRepository(session).change("default", endpoint.id, None, enabled=True)
    sender.deliver_due()
    assert hook.received == []
    (row,) = rows(sessions)
    assert (row.next_at, row.last_error) == (None, "given up: the endpoint was disabled")


def test_what_is_over_is_forgotten_after_a_month(
    sessions: sessionmaker[Session], hook: Receiver, sender: WebhookSender
) -> None:
    add(sessions, hook.url)
    for _ in range(2):
        cancel_a_job(sessions)
    sender.deliver_due()
    with transaction(sessions) as session:
        first = session.scalar(select(func.min(WebhookDelivery.id)))
        session.execute(
            update(WebhookDelivery).where(WebhookDelivery.id == first).values(created_at=later(-31 * 86400))
        )
    sender.forget_old()
    assert len(rows(sessions)) == 1
