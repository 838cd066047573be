"""A model hub on loopback that speaks the part of the Hugging Face HTTP API that downloads use."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = hashlib.sha1(b"the only commit").hexdigest()


class Hub:
    """`models` maps org/name to a folder; `requested` lists the files that were downloaded.

    Models in `gated` are for whoever sends the `token`; another token is refused wherever it is sent. Of files in
    `endless` half is sent, and then nothing any more.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.models: dict[str, Path] = {}
        self.requested: list[str] = []
        self.gated: set[str] = set()
        self.endless: set[str] = set()
        self.closed = threading.Event()
        self.token = "hub-token"


@contextmanager
def hub() -> Iterator[Hub]:
    """A running hub without models."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        offered = Hub(f"http://127.0.0.1:{server.server_port}")
        server.hub = offered  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield offered
        offered.closed.set()
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""

    def _answer(self, *, with_body: bool) -> None:
        offered: Hub = self.server.hub  # type: ignore[attr-defined]
        match urlsplit(self.path).path.strip("/").split("/"):
            case ["api", "models", org, name, "revision", revision] if self._known(offered, org, name, revision):
                self._json(_info(f"{org}/{name}", offered.models[f"{org}/{name}"]))
            case ["api", "models", org, name, "tree", revision, *_] if self._known(offered, org, name, revision):
                self._json(_tree(offered.models[f"{org}/{name}"]))
            case ["api", "models", org, name]:
                self.path = f"/api/models/{org}/{name}/revision/main"
                self._answer(with_body=with_body)
            case [org, name, "resolve", revision, *file] if self._known(offered, org, name, revision):
                self._file(offered, offered.models[f"{org}/{name}"], "/".join(file), with_body=with_body)

    def _known(self, offered: Hub, org: str, name: str, revision: str) -> bool:
        sent = self.headers["Authorization"]
        if sent not in {None, f"Bearer {offered.token}"}:
            self._missing(None, 401)
        elif sent is None and f"{org}/{name}" in offered.gated:
            self._missing("GatedRepo", 401)
        elif f"{org}/{name}" not in offered.models:
            self._missing("RepoNotFound")
        elif revision not in {"main", COMMIT}:
            self._missing("RevisionNotFound")
        else:
            return True
        return False

    def _file(self, offered: Hub, folder: Path, name: str, *, with_body: bool) -> None:
        content = (folder / name).read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            offered.requested.append(name)
            endless = name in offered.endless
            self.wfile.write(content[: len(content) // 2] if endless else content)
            if endless:
                self.wfile.flush()
                offered.closed.wait()

    def _missing(self, code: str | None, status: int = 404) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _info(name: str, folder: Path) -> dict[str, object]:
    siblings = [{"rfilename": path, "size": file.stat().st_size} for path, file in _files(folder)]
    return {"_id": "0", "id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}


def _tree(folder: Path) -> list[dict[str, object]]:
    return [
        {
            "type": "file",
            "path": path,
            "size": file.stat().st_size,
            "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
        }
        for path, file in _files(folder)
    ]


def _files(folder: Path) -> list[tuple[str, Path]]:
    """All files below the folder, by the names that a repository has for them."""
    found = [file for entry in folder.iterdir() for file in (entry, *entry.rglob("*")) if file.is_file()]
    return [(file.relative_to(folder).as_posix(), file) for file in sorted(found)]
