"""Every setting of the service, read from environment variables named `SGLP_…`."""

from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Literal

from cryptography.fernet import Fernet
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobs.locations.destinations import Destination
from jobs.locations.uploads import MOST_PRESIGN_SECONDS
from jobs.locations.uris import PLACE_SCHEMES
from jobs.spec import GPU_CLASS

GPUClass = Annotated[str, Field(pattern=GPU_CLASS)]
SOURCE_SCHEMES = ("hf", *PLACE_SCHEMES)


def _known_schemes(sources: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    if any(place.partition("://")[0] not in SOURCE_SCHEMES or "@" in place for place in sources):
        raise ValueError(f"every place must start with one of {', '.join(f'{each}://' for each in SOURCE_SCHEMES)}")
    return sources


def _fernet_key(key: str) -> str:
    # Both alphabets of base64 are usual; Fernet takes one.
    key = key.strip().replace("+", "-").replace("/", "_")
    try:
        Fernet(key)
    except ValueError:
        raise ValueError("every key must be 32 bytes in base64, as `openssl rand -base64 32` makes them") from None
    return key


class Settings(BaseSettings):
    """Defaults suit one machine; addresses and options that may hold secrets are left out of the representation."""

    model_config = SettingsConfigDict(env_prefix="SGLP_", frozen=True, hide_input_in_errors=True)

    state_dir: Path = Path(".sglp")
    """Folder that the defaults below lie in."""

    database_url: str = Field(default_factory=lambda data: f"sqlite:///{data['state_dir'] / 'sglp.db'}", repr=False)
    """`postgresql+psycopg://…` or `sqlite:///…`."""

    database_timeout_seconds: PositiveFloat = 15
    """A statement that PostgreSQL has not answered by then has failed."""

    broker_url: str = Field(
        default_factory=lambda data: f"filesystem://{(data['state_dir'] / 'broker').absolute()}", repr=False
    )
    """`redis://…`, or `filesystem:///absolute/folder` for workers on one machine."""

    secret_keys: tuple[Annotated[str, AfterValidator(_fernet_key)], ...] = Field(default=(), repr=False)
    """What webhook secrets in the database are sealed with, each key as `openssl rand -base64 32` makes it; as a JSON
    list. The first one seals, all open. Without any, a key lies in a file beside a SQLite database, and over PostgreSQL
    there are no webhooks."""

    artifact_url: str = Field(default_factory=lambda data: (data["state_dir"] / "artifacts").absolute().as_uri())
    """Where artifacts go: `s3://bucket/prefix`, `gs://…`, `az://…` or `file:///absolute/folder`."""

    artifact_options: dict[str, str] = Field(default_factory=dict, repr=False)
    """Options of the store as obstore names them, such as `endpoint` or `access_key_id`; as JSON."""

    artifact_timeout_seconds: PositiveFloat = 30
    """A request on which the store has been silent for so long has failed; each is tried a few times."""

    artifact_patience_seconds: PositiveFloat = 300
    """How long a worker goes on trying to read and write files while the store fails. Then the job waits in the queue,
    its result on this disk; what is pushed to a tenant's destination fails."""

    presign_seconds: int = Field(default=MOST_PRESIGN_SECONDS, ge=0, le=MOST_PRESIGN_SECONDS)
    """How long a signed download address holds; 0 streams every download through the API."""

    artifact_retention_days: float = Field(default=30, ge=0)
    """How long the files of a finished job are kept; 0 keeps them for ever."""

    audit_retention_days: float = Field(default=400, ge=0)
    """How long audit events are kept; 0 keeps them for ever."""

    output_destinations: tuple[Destination, ...] = Field(default=(), repr=False)
    """Where `output.uri` may point: a JSON list of `{"prefix", "options", "tenants"}`; docs/use/uploads.md."""

    upload_limit_bytes: PositiveInt = 64 << 30
    """Largest upload, all its files together."""

    upload_retention_days: float = Field(default=30, ge=0)
    """How long a complete upload is kept; 0 keeps it for ever."""

    model_roots: tuple[Path, ...] = ()
    """Folders below which `file://` URIs may point; as a JSON list. Without any, no file is read."""

    sources: Annotated[dict[str, dict[str, str]], AfterValidator(_known_schemes)] = Field(
        default_factory=dict, repr=False
    )
    """The places that models and data may come from, each with its options, as JSON: `{"s3://bucket/prefix": {…}}`.

    The longest place that a URI lies in counts. Options of `s3://`, `gs://` and `az://` are obstore's (`endpoint`,
    `access_key_id`, …), `https://` takes `authorization` (the header's value) and `hf://` takes `token`. What is not
    named is not read, except `hf://`, which is then read without a token. Every tenant may read every place.
    """

    source_max_bytes: PositiveInt = 200 << 30
    """Most bytes that one model, or one file of data, may have to be downloaded."""

    source_max_files: PositiveInt = 1000
    """Most files that one model may have to be downloaded."""

    source_seconds: PositiveFloat = 4 * 3600
    """How long the downloads of one job may take."""

    source_cache_bytes: PositiveInt = 400 << 30
    """How much of what was downloaded, and of what was converted from GGUF, a worker's disk keeps; files that were not
    used for longest go first."""

    cache_dir: Path = Field(default_factory=lambda data: data["state_dir"] / "cache")
    """Where workers keep downloaded and converted models."""

    work_dir: Path = Field(default_factory=lambda data: data["state_dir"] / "work")
    """Where workers keep the files of running jobs."""

    share_results: bool = False
    """Whether a job reuses what jobs of other tenants have measured. A tenant then sees by `analysis.reused` that
    another one had the same model and data."""

    output_max_bytes: PositiveInt = 400 << 30
    """Most bytes that all files of one job's result may have."""

    confinement: Literal["available", "required"] = "available"
    """What a worker does on a machine that cannot confine jobs completely (docs/operate/threat-model.md): with
    `available` it goes on with what there is, and `/readyz` says so; with `required` it does not start."""

    job_memory_bytes: PositiveInt | None = None
    """Most private memory (heap and private mappings) that each process of a job may have, on Linux; none is no
    limit. A model that would not fit is streamed; a job that needs more all the same fails with `out_of_memory`."""

    gpu_class: GPUClass = "default"
    """The class of jobs that this worker takes."""

    gpu_classes: Annotated[tuple[GPUClass, ...], Field(min_length=1)] = Field(
        default_factory=lambda data: tuple(dict.fromkeys(("default", data["gpu_class"])))
    )
    """The classes that jobs may name; as a JSON list. A job of another class is refused when it is submitted."""

    worker_idle_seconds: PositiveFloat | None = None
    """A worker that has had no job for so long ends; none is never. For workers that are started when jobs wait."""

    worker_max_jobs: PositiveInt | None = None
    """A worker ends after so many jobs; none is never."""

    job_max_samples: PositiveInt = 4096
    """Most samples that a job may be calibrated, or evaluated, on. A job that asks for more than this or one of the
    following six is refused when it is submitted."""

    job_max_tokens: PositiveInt = 1 << 23
    """Most tokens (`samples` times `sequence_length`) that a job may be calibrated, or evaluated, on."""

    job_max_batch_tokens: PositiveInt = 1 << 20
    """Most tokens (`batch_size` times `sequence_length`) in one batch of calibration or healing."""

    job_max_healing_steps: PositiveInt = 100_000
    """Most `healing.steps`."""

    job_max_healing_epochs: PositiveInt = 1000
    """Most `healing.epochs`."""

    job_max_healing_seconds: PositiveFloat = 7 * 86400
    """Most `healing.max_seconds`."""

    job_max_deadline_seconds: PositiveInt = 7 * 86400
    """Most `deadline_seconds`."""

    tenant_max_queued_jobs: PositiveInt = 20_000
    """Most waiting jobs of a tenant whose quotas say nothing of them."""

    lease_seconds: PositiveFloat = 30
    """A worker that has not been heard of for so long has lost its job."""

    cancel_grace_seconds: PositiveFloat = 10
    """How long a job's process may take to end before it is killed."""

    max_attempts: PositiveInt = 3
    """How often a job is started before `worker_lost` ends it."""

    retry_backoff_seconds: PositiveFloat = 5
    """Wait before a lost job is started again; doubles with every attempt."""

    sweep_after_seconds: PositiveFloat = 60
    """So long after a job has ended, what its attempts left unpublished is deleted; longer than an upload that nobody
    waits for any more goes on."""

    scheduler_interval_seconds: PositiveFloat = 0.5
    """Time between two rounds of the scheduler."""

    egress_allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks that webhooks and `https://` sources may reach although they are not public, webhooks then by
    `http://` too; as a JSON list."""

    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://[^@\s]+$")
    """Where traces go: an OpenTelemetry receiver such as `http://collector:4318`, without credentials. Needs the extra
    `otel`."""

    host: str = "127.0.0.1"
    """Address the API listens on."""

    port: int = 8000
    """Port the API listens on."""

    slow_client_seconds: PositiveFloat = 30
    """A connection on which a request's header fields have not come, or too little of a body, or nothing of an answer
    was taken, for so long is ended, at most twice as late."""

    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Where reverse proxies call from, whose `X-Forwarded-For` says who the client is; as a JSON list."""

    body_limit_bytes: PositiveInt = 64 * 1024
    """Largest request body."""

    require_keys: bool = Field(default_factory=lambda data: not is_loopback(data["host"]))
    """Whether every request needs an API key. Without, which only the loopback interface may be, all is open."""

    allowed_hosts: tuple[str, ...] = Field(
        default_factory=lambda data: ("*",) if data["require_keys"] else ("localhost", "127.0.0.1", "[::1]")
    )
    """Names by which clients may call the API, `*.` for all below one; as a JSON list. A service without keys answers
    to no other: a page in a browser on this machine could make its own host name resolve to the service."""

    requests_per_minute: PositiveInt = 6000
    """Requests that one key, or one client address without a key, may make of one API process."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
