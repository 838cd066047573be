"""What an upload may be, and where its files lie in the artifact store."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

UploadKind = Literal["dataset", "model"]
UPLOADS = "uploads"
MOST_FILES = 200
# How long an address that was signed for sending may be good.
MOST_PRESIGN_SECONDS = 900
# No separator, no control character, and no dot in front.
BASE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9 ._+=@-]*$"


class NewFile(BaseModel):
    """A file that will be sent: exactly these bytes, or the upload does not become complete."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(max_length=200, pattern=BASE_NAME)]
    size_bytes: Annotated[int, Field(ge=0, lt=2**53, strict=True)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NewUpload(BaseModel):
    """A model (the files of one directory, or one GGUF file) or a dataset (one file) that will be sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(max_length=128, pattern=BASE_NAME)]
    kind: UploadKind
    files: Annotated[tuple[NewFile, ...], Field(min_length=1, max_length=MOST_FILES)]

    @model_validator(mode="after")
    def _files_fit(self) -> Self:
        if self.kind == "dataset" and len(self.files) > 1:
            raise ValueError("a dataset is one file; put the images of a folder into a .zip")
        if len({file.name for file in self.files}) < len(self.files):
            raise ValueError("two files have the same name")
        return self


def key_of(upload_id: str, name: str) -> str:
    """Where a file of an upload lies in the artifact store."""
    return f"{UPLOADS}/{upload_id}/{name}"
