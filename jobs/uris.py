"""What a URI in a job specification may look like, checked before anything is opened.

A worker checks again what the path resolves to: links are only known on its disk.
"""

import posixpath
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

MODEL_SCHEMES = ("file", "hf", "upload")
DATA_SCHEMES = ("file", "upload")
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
    elif parts.scheme == "hf" and len([part for part in f"{parts.netloc}{parts.path}".split("/") if part]) != 2:
        raise BadURI("must be hf://organisation/name")
    elif parts.scheme == "upload" and upload_id_of(uri) is None:
        raise BadURI("must be upload:// followed by the id of an upload")
    return uri


def upload_id_of(uri: str) -> str | None:
    """The id that an `upload://` URI names; None for any other URI."""
    found = UPLOAD.fullmatch(uri)
    return found[1] if found else None


def check_root(pointer: str, uri: str, roots: Sequence[Path]) -> None:
    """Raises `ForbiddenURI` for a `file://` path that does not lie below one of `roots` as written."""
    parts = urlsplit(uri)
    if parts.scheme != "file":
        return
    path = PurePosixPath(posixpath.normpath(unquote(parts.path)))
    if not any(path.is_relative_to(root.absolute()) for root in roots):
        raise ForbiddenURI(pointer, f"{path} does not lie below one of the service's model roots")
