"""Where results may be pushed beside the service's own store: an allow-list of prefixes, each with its credentials."""

import posixpath
import re
from collections.abc import Sequence
from typing import Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from jobs.locations.uris import BadURI, ForbiddenURI, check_form

OUTPUT_SCHEMES = ("file", "s3", "gs", "az", "hf")
HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
HUB_OPTIONS = {"token", "endpoint"}


class Destination(BaseModel):
    """A prefix below which the results of these tenants may be written; without `tenants`, of all."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    prefix: str
    """`s3://bucket/folder`, `gs://…`, `az://…`, `file:///absolute/folder`, `hf://organisation` or one repository."""

    options: dict[str, str] = Field(default_factory=dict, repr=False)
    """Options of the store as obstore names them, such as `access_key_id`; of a hub its `token`, and its `endpoint`
    where it is not the usual one."""

    tenants: tuple[str, ...] | None = None

    @field_validator("prefix")
    @classmethod
    def _formed(cls, prefix: str) -> str:
        return prefix if prefix.startswith("hf://") and HUB_NAME.fullmatch(prefix[5:]) else check_output(prefix)

    @model_validator(mode="after")
    def _has_its_options(self) -> Self:
        if self.prefix.startswith("hf://") and not {"token"} <= self.options.keys() <= HUB_OPTIONS:
            raise ValueError("a hub takes the options token and, if need be, endpoint")
        return self


def check_output(uri: str) -> str:
    """The URI unchanged. Raises `BadURI` where it is not a bucket or an absolute folder, with plain names below it, or
    a repository on a hub."""
    check_form(uri, OUTPUT_SCHEMES)
    parts = urlsplit(uri)
    if parts.scheme == "hf":
        names = f"{parts.netloc}{parts.path}".split("/")
        if len(names) != 2 or not all(HUB_NAME.fullmatch(name) for name in names):
            raise BadURI("must be hf://organisation/name; the result becomes a commit of its main branch")
        return uri
    if parts.scheme != "file" and not parts.netloc:
        raise BadURI(f"must be {parts.scheme}:// followed by a bucket")
    path = unquote(parts.path)
    if not path.isprintable() or any(step in {".", ".."} for step in path.split("/")) or "//" in path:
        raise BadURI("must be a plain path, without empty steps, `.` and `..`")
    return uri


def destination_of(pointer: str, uri: str, destinations: Sequence[Destination], tenant: str) -> Destination:
    """The destination that this URI lies below, if the tenant may use it; the longest prefix decides.

    Of several with the same prefix the first that the tenant may use. Raises `ForbiddenURI`, also where a place of
    others lies below the URI.
    """
    place = _place(uri)
    own = [each for each in destinations if each.tenants is None or tenant in each.tenants]
    longest = max(
        (_place(each.prefix) for each in destinations if place.startswith(_place(each.prefix))), key=len, default=None
    )
    chosen = next((each for each in own if _place(each.prefix) == longest), None)
    if chosen is None:
        raise ForbiddenURI(pointer, f"{uri} does not lie below one of the destinations that you may write to")
    of_others = {_place(each.prefix) for each in destinations} - {_place(each.prefix) for each in own}
    if any(other.startswith(place) for other in of_others):
        raise ForbiddenURI(
            pointer, f"a destination that you may not write to lies below {uri}; name a folder beside it"
        )
    return chosen


def _place(uri: str) -> str:
    """A URI as it is compared with others."""
    parts = urlsplit(uri)
    # The slash, so that /results-of-others is not below /results.
    return f"{parts.scheme}://{parts.netloc}" + posixpath.normpath(f"/{unquote(parts.path)}").rstrip("/") + "/"
