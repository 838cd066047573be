"""What `make images` says of an image; building one takes minutes and is not done here."""

import socket
import threading
from pathlib import Path

from deploy.images.contents import Contents
from deploy.images.tcp_proxy import tcp_proxy

GOOD = Contents("api", 374_000_000, 196_000_000, {"fastapi": "0.165.0"}, 118, [], [], [], 0)


def test_an_image_with_only_what_it_needs_has_no_problem() -> None:
    assert GOOD.problems() == []


def test_what_an_image_should_not_have_is_named() -> None:
    listed = {"packages": {"torch": "2.13.0", "pip": "26.0"}, "compilers": ["cc"], "setuid": 1}
    api = Contents(**{**vars(GOOD), **listed})
    assert api.problems() == ["has a compiler: cc", "has 1 setuid programs", "has pip", "has torch"]
    worker = Contents(**{**vars(GOOD), "image": "worker", "packages": {"torch": "2.13.0"}})
    assert worker.problems() == []


def test_a_port_leads_to_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server, tcp_proxy(path) as port:
        server.bind(str(path))
        server.listen()

        def echo() -> None:
            taken, _ = server.accept()
            with taken:
                while data := taken.recv(1024):
                    taken.sendall(data)

        threading.Thread(target=echo, daemon=True).start()
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"ping")
            assert client.recv(1024) == b"ping"
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1024) == b""
