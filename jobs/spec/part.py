"""What all parts of a job specification have in common."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a job specification: unknown fields are refused, and it does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
