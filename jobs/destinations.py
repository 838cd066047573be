"""Where results may be pushed beside the service's own store: an allow-list of prefixes, each with its credentials."""

import posixpath
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from jobs.uris import BadURI, ForbiddenURI, check_form

OUTPUT_SCHEMES = ("file", "s3", "gs", "az")


class Destination(BaseModel):
    """A prefix below which the results of these tenants may be written; without `tenants`, of all."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    prefix: str
    """`s3://bucket/folder`, `gs://…`, `az://…` or `file:///absolute/folder`."""

    options: dict[str, str] = Field(default_factory=dict, repr=False)
    """Options of the store as obstore names them, such as `access_key_id`."""

    tenants: tuple[str, ...] | None = None

    @field_validator("prefix")
    @classmethod
    def _formed(cls, prefix: str) -> str:
        return check_output(prefix)


def check_output(uri: str) -> str:
    """The URI unchanged. Raises `BadURI` where it is not a bucket or an absolute folder, with plain names below it."""
    check_form(uri, OUTPUT_SCHEMES)
    parts = urlsplit(uri)
    if parts.scheme != "file" and not parts.netloc:
        raise BadURI(f"must be {parts.scheme}:// followed by a bucket")
    path = unquote(parts.path)
    if not path.isprintable() or any(step in {".", ".."} for step in path.split("/")) or "//" in path:
        raise BadURI("must be a plain path, without empty steps, `.` and `..`")
    return uri


def destination_of(pointer: str, uri: str, destinations: Sequence[Destination], tenant: str) -> Destination:
    """The first destination that this URI lies below and the tenant may use. Raises `ForbiddenURI`."""
    for destination in destinations:
        allowed = destination.tenants is None or tenant in destination.tenants
        if allowed and _is_below(uri, destination.prefix):
            return destination
    raise ForbiddenURI(pointer, f"{uri} does not lie below one of the destinations that you may write to")


def _is_below(uri: str, prefix: str) -> bool:
    inner, outer = urlsplit(uri), urlsplit(prefix)
    if (inner.scheme, inner.netloc) != (outer.scheme, outer.netloc):
        return False
    # The slash, so that /results-of-others is not below /results.
    below, above = (posixpath.normpath(f"/{unquote(parts.path)}").rstrip("/") + "/" for parts in (inner, outer))
    return below.startswith(above)
