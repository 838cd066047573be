"""What a supervisor and the child process of a job send to each other.

The supervisor writes one `ChildRequest` to a file. The child answers with JSON lines, each of them one `ChildMessage`:
progress and facts while it works, and at the end an error or `finished`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from jobs.events import Judged
from worker.sources.access import DownloadLimits
from worker.sources.local_spec import LocalSpec

# As the message comes from a process that is not trusted, what it holds fits into the database.
Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class ChildMisbehaved(Exception):
    """The process of a job sends what is no message, or too much."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChildRequest(_Message):
    """A job and how much of this machine it may use. It is written to a file, so it never holds a secret.

    `file://` URIs must lie below `roots`. HTTPS redirects may lead to `redirect_places`. Connections go to public
    addresses and to `allowed_networks`. What is downloaded is cached in `downloads`, and what of that the job uses is
    linked into the folder `links`. `cache` has results of earlier jobs. `memory_bytes` limits the child and every
    process it starts; None is no limit. `uploads` maps the URIs of uploads to their copies, relative to the child's
    working directory. `received` is a folder with the results of steps that an earlier attempt has stored, if one has.
    """

    spec: LocalSpec
    roots: tuple[Path, ...]
    downloads: Path
    links: Path
    cache: Path
    limits: DownloadLimits
    redirect_places: tuple[str, ...]
    allowed_networks: tuple[str, ...]
    memory_bytes: int | None
    uploads: dict[str, Path]
    received: Path


class PhaseProgress(_Message):
    """`done` of `total` units of the running phase."""

    phase: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
    done: Count
    total: Count
    unit: Annotated[str, Field(max_length=32)]


class ChildError(_Message):
    """Why the job failed: a code of the service's closed list, and what the user can do."""

    code: str
    message: str


class ProgressMessage(_Message):
    progress: PhaseProgress


class ResolvedMessage(_Message):
    """What the job runs on, as the method describes it: any JSON object."""

    resolved: dict[str, JsonValue]


class PlanMessage(_Message):
    """What will be removed, as the method describes it: any JSON object."""

    plan: dict[str, JsonValue]


class JudgedMessage(_Message):
    judged: Judged


class KeptMessage(_Message):
    """The result of a step, or the state of one, was kept in this file, relative to the request's `cache`."""

    kept_result: Annotated[str, Field(pattern=r"^(analyses|healings|repairs|trials|windows)/[0-9a-f]{64}\.npz$")]


class ErrorMessage(_Message):
    error: ChildError


class FinishedMessage(_Message):
    finished: Literal[True] = True


ChildMessage = (
    ProgressMessage | ResolvedMessage | PlanMessage | JudgedMessage | KeptMessage | ErrorMessage | FinishedMessage
)
_CHILD_MESSAGE: TypeAdapter[ChildMessage] = TypeAdapter(ChildMessage)


def parse_message(line: bytes) -> ChildMessage:
    """One line of the child. Raises `ChildMisbehaved` for anything that is not a `ChildMessage`."""
    if b"\\u0000" in line:
        # PostgreSQL stores no such text.
        raise ChildMisbehaved("a message has a character of number 0")
    try:
        return _CHILD_MESSAGE.validate_json(line)
    except ValidationError as error:
        raise ChildMisbehaved(f"a line is no message: {line[:200]!r}") from error
