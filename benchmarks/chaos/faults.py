"""Faults that can be undone: each is injected, lasts for a while, and is healed."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from celery import Celery

from tests.services.faulty_proxy import Fault, FaultyProxy
from tests.services.postgresql import PostgreSQL
from tests.services.processes import free_port, stopped, wait_for_port
from tests.services.redis import redis_command
from tests.services.stack import LEASE_SECONDS, Stack, freeze, thaw
from worker.celery_app import TASK, queue_of

SCHEDULERS, WORKERS = 2, 4
HANG_SECONDS = 3.0
REQUEST_SECONDS = 10.0
REPEATED_HINTS = 20


class Nothing(Enum):
    """The result of a fault that had no target."""

    TO_BREAK = "nothing to break"


class Redis:
    """A server that can be killed and started again on its port."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory, self._port = directory, port
        self._log = directory / "redis.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(redis_command(self._port, self._directory), stdout=log, stderr=log)
        wait_for_port(self.process, self._port, self._log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Faults:
    """Injects one fault after the other and counts them in `counts`. A killed process is replaced."""

    def __init__(
        self, stack: Stack, database: PostgreSQL, redis: Redis, proxy: FaultyProxy, celery: Celery, seed: int
    ) -> None:
        """Starts the service's processes: the APIs, on `api_ports`, the schedulers and the workers."""
        self._stack, self._database, self._redis, self._proxy, self._celery = stack, database, redis, proxy, celery
        self._random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.api_ports = (stack.port, free_port())
        self._apis = {port: stack.start_api(port) for port in self.api_ports}
        self._schedulers = [stack.start_scheduler() for _ in range(SCHEDULERS)]
        self._workers = [stack.start_worker() for _ in range(WORKERS)]
        self._kinds: dict[str, Callable[[], Nothing | None]] = {
            "worker killed": self._kill_worker,
            "worker frozen past its lease": self._freeze_worker,
            "job's process killed": self._kill_child,
            "scheduler killed": self._kill_scheduler,
            "API killed": self._kill_api,
            "Redis killed": self._kill_redis,
            "Redis frozen": lambda: self._hang([psutil.Process(self._redis.process.pid)]),
            "Redis flushed": self._flush_redis,
            "PostgreSQL restarted at once": self._database.restart_at_once,
            "PostgreSQL frozen": lambda: self._hang(self._database.processes),
            "object store frozen": self._freeze_s3,
            "object store answers 503": partial(self._break_s3, Fault.BUSY),
            "object store resets connections": partial(self._break_s3, Fault.RESET),
            "object store corrupts what is read": partial(self._break_s3, Fault.CORRUPTED),
            "object store never answers": partial(self._break_s3, Fault.HUNG),
            "hints repeated": self._repeat_hints,
        }

    def do_one(self, job_ids: list[str]) -> str:
        """Inject a random fault and heal it; returns its name."""
        kind = self._random.choice(list(self._kinds))
        self._job_ids = job_ids
        if self._kinds[kind]() is Nothing.TO_BREAK:
            return f"{kind}: there was none"
        self.counts[kind] += 1
        return kind

    def _kill_worker(self) -> None:
        worker = self._workers.pop(self._random.randrange(len(self._workers)))
        worker.kill()
        worker.wait()
        self._workers.append(self._stack.start_worker())

    def _freeze_worker(self) -> None:
        worker = self._random.choice(self._workers)
        freeze(worker)
        time.sleep(LEASE_SECONDS + 2)
        thaw(worker)

    def _kill_child(self) -> Nothing | None:
        children = [child for worker in self._workers for child in psutil.Process(worker.pid).children()]
        if not children:
            return Nothing.TO_BREAK
        with suppress(psutil.NoSuchProcess):
            self._random.choice(children).kill()
        return None

    def _kill_scheduler(self) -> None:
        scheduler = self._schedulers.pop(self._random.randrange(SCHEDULERS))
        scheduler.kill()
        scheduler.wait()
        self._schedulers.append(self._stack.start_scheduler())

    def _kill_api(self) -> None:
        port = self._random.choice(self.api_ports)
        self._apis[port].kill()
        self._apis[port].wait()
        self._apis[port] = self._stack.start_api(port)

    def _kill_redis(self) -> None:
        self._redis.kill()
        time.sleep(self._random.uniform(0, HANG_SECONDS))
        self._redis.start()

    def _flush_redis(self) -> None:
        with self._celery.connection_for_write() as connection:
            connection.default_channel.client.flushall()

    def _freeze_s3(self) -> None:
        listening = [
            process
            for process in psutil.process_iter()
            if any(
                each.status == psutil.CONN_LISTEN and each.laddr.port == self._proxy.upstream_port
                for each in _connections(process)
            )
        ]
        self._hang(listening)

    def _break_s3(self, fault: Fault) -> Nothing | None:
        """From the first request that it meets, if there is one."""
        self._proxy.do(fault)
        give_up = time.monotonic() + REQUEST_SECONDS
        while not self._proxy.broken and time.monotonic() < give_up:
            time.sleep(0.1)
        if self._proxy.broken:
            time.sleep(HANG_SECONDS)
        self._proxy.heal()
        return None if self._proxy.broken else Nothing.TO_BREAK

    def _repeat_hints(self) -> Nothing | None:
        if not self._job_ids:
            return Nothing.TO_BREAK
        with self._celery.connection_for_write() as connection, self._celery.amqp.Producer(connection) as producer:
            # The newest, which may be waiting or running, and an older one.
            for job_id in (self._job_ids[-1], self._random.choice(self._job_ids)):
                for _ in range(REPEATED_HINTS):
                    self._celery.send_task(TASK, args=[job_id], queue=queue_of("default"), producer=producer)
        return None

    def _hang(self, processes: list[psutil.Process]) -> None:
        with stopped(processes):
            time.sleep(HANG_SECONDS)


def _connections(process: psutil.Process) -> list[Any]:
    try:
        connections: list[Any] = process.net_connections("tcp")
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return []
    return connections
