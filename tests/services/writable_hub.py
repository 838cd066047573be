"""A model hub on loopback that takes commits: the part of the Hugging Face HTTP API and of Git LFS that uploads use."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

# As the real hub decides it: by the name, and by the size.
LFS_SUFFIXES = (".safetensors", ".png")
LFS_BYTES = 10_000_000


@dataclass
class Repository:
    """Each commit by its id, in order: all files of it with their content, and which of them LFS keeps."""

    name: str
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)

    @property
    def files(self) -> dict[str, bytes]:
        """The files of `main`."""
        return list(self.commits.values())[-1] if self.commits else {}


class WritableHub:
    """`repositories` by their names. Only the `token` may write, below `organisation` alone.

    The next `failing` requests are answered 503; where `cut` is set, a commit is not made and has no answer; where
    `altered` is set, what LFS is sent is kept with another first byte.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.token = "hub-write-token"
        self.organisation = "team"
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.failing = 0
        self.cut = False
        self.altered = False


@contextmanager
def writable_hub() -> Iterator[WritableHub]:
    """A running hub without repositories."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        offered = WritableHub(f"http://127.0.0.1:{server.server_port}")
        server.hub = offered  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield offered
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> WritableHub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self._body()
        parts = urlsplit(self.path).path.strip("/").split("/")
        if self.hub.failing:
            self.hub.failing -= 1
            self._json({"error": "busy"}, 503)
        elif parts[0] == "lfs":
            # As a signed address of a bucket, which asks for no token.
            self.hub.objects[parts[1]] = bytes([body[0] ^ self.hub.altered]) + body[1:]
            self._json({})
        elif self.headers["Authorization"] != f"Bearer {self.hub.token}":
            self._json({"error": f"{self.headers['Authorization']} may not"}, 401)
        else:
            self._answer_writer(parts, body)

    def _answer_writer(self, parts: list[str], body: bytes) -> None:
        match (self.command, parts):
            case ("POST", ["api", "repos", "create"]):
                return self._create(json.loads(body))
            case ("POST", ["api", "validate-yaml"]):
                return self._json({"warnings": [], "errors": []})
            case ("POST", [_, _, "info", "lfs", "objects", "batch"]):
                return self._batch(json.loads(body))
            case (_, ["api", "models", organisation, name, *rest]):
                repository = self.hub.repositories.get(f"{organisation}/{name}")
                return self._json({}, 404) if repository is None else self._of(repository, rest, body)
            case (_, [organisation, name, "resolve", revision, *path]):
                return self._file(self.hub.repositories[f"{organisation}/{name}"], revision, "/".join(path))
        return self._json({}, 404)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization')}/{asked['name']}"
        if asked.get("organization") != self.hub.organisation:
            return self._json({"error": "not yours"}, 403)
        if name in self.hub.repositories:
            return self._json({"url": f"{self.hub.url}/{name}"}, 409)
        self.hub.repositories[name] = Repository(name, asked.get("visibility") == "private")
        return self._json({"url": f"{self.hub.url}/{name}"})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {"oid": each["oid"], "size": each["size"]}
            | ({} if each["oid"] in self.hub.objects else {"actions": {"upload": {"href": self._at(each["oid"])}}})
            for each in asked["objects"]
        ]
        return self._json({"transfer": "basic", "objects": objects})

    def _at(self, oid: str) -> str:
        return f"{self.hub.url}/lfs/{oid}"

    def _of(self, repository: Repository, rest: list[str], body: bytes) -> None:
        match rest:
            case ["preupload", "main"]:
                asked = json.loads(body)["files"]
                return self._json({"files": [self._mode(repository, each) for each in asked]})
            case ["commit", "main"]:
                return self._commit(repository, [json.loads(line) for line in body.splitlines()])
            case ["tree", revision]:
                return self._json(self._tree(repository, revision))
            case [] | ["revision", _]:
                return self._json(self._info(repository, rest[1] if rest else "main"))
        return self._json({}, 404)

    def _mode(self, repository: Repository, asked: dict[str, Any]) -> dict[str, Any]:
        large = asked["path"].endswith(LFS_SUFFIXES) or asked["size"] > LFS_BYTES
        known = repository.files.get(asked["path"])
        oid = None if known is None else hashlib.sha256(known).hexdigest() if large else _blob(known)
        return {
            "path": asked["path"],
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": False,
            **({"oid": oid} if oid else {}),
        }

    def _commit(self, repository: Repository, lines: list[dict[str, Any]]) -> None:
        files = dict(repository.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                repository.large.add(value["path"])
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        if self.hub.cut:
            self.close_connection = True
            return
        commit = hashlib.sha1(json.dumps([len(repository.commits), sorted(files)]).encode()).hexdigest()
        repository.commits[commit] = files
        self._json(
            {"commitUrl": f"{self.hub.url}/{repository.name}/commit/{commit}", "commitOid": commit, "hookOutput": ""}
        )

    def _at_revision(self, repository: Repository, revision: str) -> dict[str, bytes]:
        return repository.files if revision == "main" else repository.commits[revision]

    def _tree(self, repository: Repository, revision: str) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
            | (
                {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}}
                if path in repository.large
                else {}
            )
            for path, content in self._at_revision(repository, revision).items()
        ]

    def _info(self, repository: Repository, revision: str) -> dict[str, Any]:
        commit = next(reversed(repository.commits), "0" * 40) if revision == "main" else revision
        siblings = [{"rfilename": path} for path in self._at_revision(repository, revision)]
        return {"_id": "0", "id": repository.name, "sha": commit, "private": repository.private, "tags": []} | {
            "siblings": siblings
        }

    def _file(self, repository: Repository, revision: str, path: str) -> None:
        content = self._at_revision(repository, revision)[path]
        headers = {"ETag": f'"{_blob(content)}"', "X-Repo-Commit": revision}
        self._send(200, content, headers)

    def _json(self, content: object, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
