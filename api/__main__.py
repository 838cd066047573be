"""`python -m api`: serve until SIGTERM or SIGINT."""

from types import FrameType

import uvicorn

from api.app import make_app
from jobs.settings import Settings

# Downloads get this long to end; those who watch jobs are let go at once.
GRACE_SECONDS = 20


class Server(uvicorn.Server):
    """Uvicorn waits for open answers, and an event stream would stay open as long as its job."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.config.app.state.watcher.close()
        super().handle_exit(sig, frame)


def main() -> None:
    settings = Settings()
    config = uvicorn.Config(
        make_app(settings),
        host=settings.host,
        port=settings.port,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    Server(config).run()


if __name__ == "__main__":
    main()
