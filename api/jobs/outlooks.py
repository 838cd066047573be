"""Places of waiting jobs, for whoever asks: how a class stands is read once for all who ask within two seconds."""

from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool

from api.service.shared import Shared
from jobs.database import transaction
from jobs.repository import Outlook, Place, RankedJob


class Outlooks:
    """Lives on one event loop."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions
        self._by_class: dict[str, Shared[Outlook]] = {}

    async def place(self, ranked: RankedJob) -> Place | None:
        """Where the job stands; None where it does not wait, or came since the class was read."""
        if ranked.ahead is None:
            return None
        gpu_class = ranked.job.gpu_class
        shared = self._by_class.setdefault(gpu_class, Shared(lambda: run_in_threadpool(self._read, gpu_class)))
        outlook = await shared.get()
        return outlook.place(ranked.job.tenant, ranked.ahead)

    def _read(self, gpu_class: str) -> Outlook:
        with transaction(self._sessions) as session:
            return Outlook.read(session, gpu_class)
