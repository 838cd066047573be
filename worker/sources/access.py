"""What a job may download: how much, and from where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DownloadLimits:
    """`max_bytes` and `max_files` apply to one model or data file; `seconds` to all downloads of a job together;
    `cache_bytes` to the cache that all jobs on this disk share.
    """

    max_bytes: int
    max_files: int
    seconds: float
    cache_bytes: int


@dataclass(frozen=True)
class SourceAccess:
    """`options` maps each place that the job reads (a URI prefix) to its options, which may be secrets.

    HTTPS redirects may lead to `redirect_places`. Connections go to public addresses and to `allowed_networks`.
    """

    options: Mapping[str, Mapping[str, str]] = field(repr=False)
    redirect_places: Sequence[str] = ()
    allowed_networks: Sequence[str] = ()
