"""The closed list of reasons for which a job fails. Codes are part of the contract: they are added, never renamed."""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, computed_field, field_validator


class Reason(NamedTuple):
    """`retryable`: whether the same job, submitted again unchanged, may succeed."""

    meaning: str
    retryable: bool


REASONS = {
    "model_not_found": Reason("There is no such model, it is not all there, or it may not be read.", False),
    "source_forbidden": Reason(
        "The URI lies outside the configured roots, places and destinations, or its place refuses the credentials.",
        False,
    ),
    "source_unreachable": Reason(
        "The model hub, store or host did not answer, or the files changed while they were read.", True
    ),
    "unsafe_format": Reason("The files could run code, or lie about what they hold.", False),
    "unsupported_architecture": Reason(
        "No stack of removable layers was found in the model, or its weights are quantised.", False
    ),
    "target_unreachable": Reason("No choice of layers reaches the target; the message says what could be.", False),
    "bad_layers": Reason(
        "Layers that the target or method.protected names do not fit the model or each other; the message begins with "
        "their JSON pointer.",
        False,
    ),
    "bad_calibration": Reason("The calibration or evaluation data is missing, empty, unreadable or too short.", False),
    "out_of_memory": Reason("The worker has not enough memory for this model and batch size.", False),
    "gpu_out_of_memory": Reason("The GPU has not enough memory for this model and batch size.", False),
    "deadline_exceeded": Reason("The job did not end within its deadline_seconds.", True),
    "queue_deadline_exceeded": Reason("No worker took the job within its deadline_seconds.", True),
    "worker_lost": Reason("Every attempt's worker died or was cut off.", True),
    "storage_unavailable": Reason("The destination of `output.uri` did not take the files.", True),
    "insufficient_storage": Reason("The disk or the artifact store is full.", True),
    "verification_failed": Reason("The written model did not reload as what was planned. It was not published.", False),
    "internal": Reason("A defect of SGLP; the worker's log says more.", True),
}


# A message may repeat what a file says, and a file may say much.
MOST_MESSAGE = 2000


class JobError(BaseModel):
    """Why a job failed: a code of `REASONS`, a message for people, and where it happened."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    phase: str | None
    attempt: int

    @field_validator("message")
    @classmethod
    def _short(cls, message: str) -> str:
        return message if len(message) <= MOST_MESSAGE else f"{message[: MOST_MESSAGE - 1]}…"

    @field_validator("code")
    @classmethod
    def _known(cls, code: str) -> str:
        if code not in REASONS:
            raise ValueError(f"{code!r} is not on the list of error codes")
        return code

    @computed_field  # type: ignore[prop-decorator]
    @property
    def retryable(self) -> bool:
        """Whether the same job, submitted again unchanged, may succeed."""
        return REASONS[self.code].retryable
