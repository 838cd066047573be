"""Whether what a job shows is exactly what `jobs/progress.py`, `jobs/results/` and `jobs/events.py` describe."""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, TypeAdapter

from jobs.events import JobEvent
from jobs.progress import Plan, Progress, Resolved
from jobs.results import RESULTS

EVENT: TypeAdapter[Any] = TypeAdapter(JobEvent)


def require_described(job: dict[str, Any], events: Iterable[dict[str, Any]]) -> None:
    """Fails unless a job that has succeeded, and its events, hold what is described for its mode."""
    mode = job["spec"]["mode"]
    require_exact(RESULTS[mode], job["result"])
    assert (job["plan"] is not None) == (mode == "compress")
    assert (job["resolved"] is not None) == (mode != "estimate")
    for described, shown in ((Plan, job["plan"]), (Resolved, job["resolved"]), (Progress, job["progress"])):
        if shown is not None:
            require_exact(described, shown)
    for event in events:
        require_exact(type(EVENT.validate_python(event)), event)


def require_exact(described: type[BaseModel], content: dict[str, Any]) -> None:
    """Fails unless the content has, at every depth, all required fields of the model and no others."""
    read = described.model_validate(content).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert json.dumps(read, sort_keys=True) == json.dumps(content, sort_keys=True)
