"""The user in the chaos: submits with idempotency keys, repeats requests, cancels, and records every accepted job."""

import random
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
from sglp_client import SGLP, SGLPProblem

from tests.worker.tiny_model import tiny_spec

PAUSE_SECONDS = (3.0, 8.0)
CANCELLED_SHARE = 0.1
REPEATED_SHARE = 0.3
POISON_SHARE = 0.05


class Load(threading.Thread):
    """`accepted` maps each key to the job the service promised; `broken` lists promises it broke on the spot."""

    def __init__(self, url: str, models: Path, seed: int) -> None:
        super().__init__(name="load")
        self.accepted: dict[str, str] = {}
        self.broken: list[str] = []
        self.stopping = threading.Event()
        self._service = SGLP(url)
        self._models = models
        self._random = random.Random(seed)

    def run(self) -> None:
        while not self.stopping.wait(self._random.uniform(*PAUSE_SECONDS)):
            key = str(uuid.UUID(int=self._random.getrandbits(128)))
            spec = self._spec()
            job_id = self._persist(lambda key=key, spec=spec: self._service.submit(spec, idempotency_key=key))["id"]
            self.accepted[key] = job_id
            if self._random.random() < REPEATED_SHARE:
                again = self._persist(lambda key=key, spec=spec: self._service.submit(spec, idempotency_key=key))["id"]
                if again != job_id:
                    self.broken.append(f"{key} made {job_id} and {again}")
            if self._random.random() < CANCELLED_SHARE:
                self._persist(lambda job_id=job_id: self._service.cancel(job_id))

    def _spec(self) -> dict[str, Any]:
        model = "missing" if self._random.random() < POISON_SHARE else "model"
        modes: list[dict[str, Any]] = [{"mode": "estimate", "target": None}, {"mode": "analyze", "target": None}, {}]
        return tiny_spec(self._models / model, self._models / "text.txt", **self._random.choice(modes))

    def _persist(self, request: Any) -> dict[str, Any]:
        """Repeat the request until there is an answer, as a pipeline would; a refusal is an answer too."""
        while True:
            try:
                answer: dict[str, Any] = request()
                return answer
            except SGLPProblem as error:
                # A job that has ended meanwhile cannot be cancelled.
                if error.status == httpx.codes.CONFLICT:
                    return {}
                if error.status < 500:
                    self.broken.append(f"refused: {error}")
                    return {"id": "refused"}
            except (httpx.TransportError, httpx.HTTPStatusError):
                pass
            time.sleep(0.2)
