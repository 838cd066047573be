"""`python -m api`: serve until SIGTERM or SIGINT."""

import uvicorn

from api.app import make_app
from jobs.settings import Settings


def main() -> None:
    settings = Settings()
    uvicorn.run(make_app(settings), host=settings.host, port=settings.port, server_header=False)


if __name__ == "__main__":
    main()
