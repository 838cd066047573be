"""What a URI in a job specification may look like, checked before anything is opened.

A worker checks again what the path resolves to: links are only known on its disk.
"""

import posixpath
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

# What is read only from places that the operator names.
PLACE_SCHEMES = ("s3", "gs", "az", "https")
MODEL_SCHEMES = ("file", "hf", "upload", *PLACE_SCHEMES)
DATA_SCHEMES = ("file", "upload", *PLACE_SCHEMES)
UPLOAD = re.compile(r"upload://(upload_[0-9a-z]{26})")


class BadURI(ValueError):
    """Not a URI of an allowed form; the message says what is."""


class ForbiddenURI(Exception):
    """A well-formed URI to a place the service may not read; `pointer` is its place in the specification."""

    def __init__(self, pointer: str, message: str) -> None:
        self.pointer = pointer
        super().__init__(message)


def check_form(uri: str, schemes: Sequence[str]) -> str:
    """The URI unchanged. Raises `BadURI` for another scheme, user info, a host in `file://`, a query or a fragment."""
    if not uri.isprintable():
        raise BadURI("must have no control characters")
    parts = urlsplit(uri)
    if parts.scheme not in schemes:
        raise BadURI(f"must start with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise BadURI("must have no user name, query or fragment")
    if parts.scheme == "file":
        path = unquote(parts.path)
        if parts.netloc or not path.startswith("/") or not path.isprintable():
            raise BadURI("must be file:/// followed by an absolute path")
    elif parts.scheme == "hf":
        name, at, revision = f"{parts.netloc}{parts.path}".partition("@")
        if len([part for part in name.split("/") if part]) != 2 or (at and not revision):
            raise BadURI("must be hf://organisation/name or hf://organisation/name@revision")
    elif parts.scheme in PLACE_SCHEMES and not (parts.netloc and is_plain_path(parts.path)):
        raise BadURI(f"must be {parts.scheme}:// followed by a bucket or host, and a path without dot segments")
    elif parts.scheme == "upload" and upload_id_of(uri) is None:
        raise BadURI("must be upload:// followed by the id of an upload")
    return uri


def upload_id_of(uri: str) -> str | None:
    """The id that an `upload://` URI names; None for any other URI."""
    matched = UPLOAD.fullmatch(uri)
    return matched[1] if matched else None


def is_plain_path(path: str) -> bool:
    """Whether a path stays what it is whoever normalises it: no `.`, `..`, empty or encoded separator inside."""
    inner = path.removeprefix("/").removesuffix("/")
    decoded = [unquote(segment) for segment in inner.split("/")]
    return inner == "" or all(
        segment not in {"", ".", ".."} and "/" not in segment and "\\" not in segment and segment.isprintable()
        for segment in decoded
    )


def check_root(pointer: str, uri: str, roots: Sequence[Path]) -> None:
    """Raises `ForbiddenURI` for a `file://` path that does not lie below one of `roots` as written."""
    parts = urlsplit(uri)
    if parts.scheme != "file":
        return
    path = PurePosixPath(posixpath.normpath(unquote(parts.path)))
    if not any(path.is_relative_to(root.absolute()) for root in roots):
        raise ForbiddenURI(
            pointer,
            f"{path} does not lie below one of the service's model roots; see SGLP_MODEL_ROOTS, or `sglp up --models`",
        )


def place_of(uri: str, places: Iterable[str]) -> str | None:
    """The longest of `places` (URI prefixes that end where a segment does) that a URI lies in, or None."""
    uri = uri.partition("@")[0] if uri.startswith("hf://") else uri
    within = [place for place in places if f"{uri}/".startswith(place if place.endswith("/") else f"{place}/")]
    return max(within, key=len, default=None)


def check_place(pointer: str, uri: str, places: Iterable[str]) -> None:
    """Raises `ForbiddenURI` for a bucket or host that is not one of the service's places."""
    if urlsplit(uri).scheme in PLACE_SCHEMES and place_of(uri, places) is None:
        raise ForbiddenURI(pointer, f"{uri} does not lie in one of the places this service reads from (SGLP_SOURCES)")
