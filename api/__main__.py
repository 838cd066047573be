"""`python -m api`: serve until SIGTERM or SIGINT."""

import sys
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from api.app import make_app
from api.protocol.slow_clients import SlowClientProtocol
from jobs.observability.logs import configure_logs
from jobs.observability.tracing import configure_tracing
from jobs.settings import Settings, is_loopback

OPEN = (
    "There are no API keys: every program on this machine can use this service, see all jobs, and administer it. "
    "SGLP_REQUIRE_KEYS=true asks for keys."
)
REFUSED = (
    "SGLP_HOST={host} is reached from other machines, and SGLP_REQUIRE_KEYS is off: anybody there could use this "
    "service. Leave SGLP_REQUIRE_KEYS out and make a key with `python -m jobs create-key`, or set SGLP_HOST=127.0.0.1."
)

# Downloads get this long to end; those who watch jobs are let go at once.
GRACE_SECONDS = 20


class Server(uvicorn.Server):
    """Uvicorn waits for open answers, and an event stream would stay open as long as its job."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        assert isinstance(self.config.app, FastAPI)
        self.config.app.state.watcher.close()
        super().handle_exit(sig, frame)


def main() -> None:
    configure_logs("api")
    settings = Settings()
    configure_tracing(settings.otlp_endpoint, "api")
    if not settings.require_keys:
        if not is_loopback(settings.host):
            sys.exit(REFUSED.format(host=settings.host))
        structlog.get_logger(__name__).warning(OPEN)
    config = uvicorn.Config(
        make_app(settings),
        host=settings.host,
        port=settings.port,
        http=SlowClientProtocol,
        # There is nothing to upgrade to.
        ws="none",
        server_header=False,
        # Otherwise every client on this machine could say that it is somebody else.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[str(network) for network in settings.trusted_proxies],
        # Its records go where all go, and `api/middleware/access_log.py` tells of requests.
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    Server(config).run()


if __name__ == "__main__":
    main()
