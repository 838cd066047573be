"""Files below an https:// address: which are asked for, from which addresses, and that no server can do harm."""

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.services.processes import free_port
from tests.services.web import Handler, Web, break_after, drip, endless, redirect_to, web
from worker.sources.access import DownloadLimits, SourceAccess
from worker.sources.model_files import Sources
from worker.sources.remote_folder import SourceError

LIMITS = DownloadLimits(max_bytes=1 << 26, max_files=50, seconds=30, cache_bytes=1 << 27)
LOOPBACK = ("127.0.0.0/8", "::1/128")
WEIGHTS = bytes(range(256)) * 16384
Open = Callable[..., Sources]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Serves a model of three files below /tiny."""
    with web(tmp_path) as running:
        running.files = {
            "/tiny/config.json": b"{}",
            "/tiny/tokenizer.json": b"{}",
            "/tiny/model.safetensors": WEIGHTS,
        }
        monkeypatch.setenv("SSL_CERT_FILE", str(running.certificate))
        monkeypatch.setattr("worker.sources.transfers.FIRST_PAUSE_SECONDS", 0.01)
        yield running


@pytest.fixture
def open_sources(server: Web, tmp_path: Path) -> Iterator[Open]:
    """Sources that may read the server, each with its own folder, all over one cache."""
    numbers = iter(range(100))

    def opened(**changes: Any) -> Sources:
        (folder := tmp_path / f"job{next(numbers)}").mkdir()
        access = {"options": {server.url: {}}, "redirect_places": [server.url], "allowed_networks": LOOPBACK}
        access |= {name: changes.pop(name) for name in access.keys() & changes.keys()}
        arguments = {"limits": LIMITS, "report": lambda _done, _total: None, **changes}
        made = Sources(folder, tmp_path / "cache", access=SourceAccess(**access), **arguments)
        closing.callback(made.close)
        return made

    with ExitStack() as closing:
        yield opened


def limits(**changes: Any) -> DownloadLimits:
    return DownloadLimits(**{**vars(LIMITS), **changes})


def refusal(sources: Sources, uri: str) -> tuple[str, str]:
    with pytest.raises(SourceError) as caught:
        sources.model(uri)
    return caught.value.code, str(caught.value)


def test_a_model_is_the_files_of_known_names(server: Web, open_sources: Open) -> None:
    reports: list[tuple[int, int]] = []
    sources = open_sources(report=lambda *counts: reports.append(counts))
    path = sources.model(f"{server.url}/tiny")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {
        name.removeprefix("/tiny/"): content for name, content in server.files.items()
    }
    total = sum(map(len, server.files.values()))
    assert reports[-1] == (total, total)
    assert {fact.uri for fact in sources.facts} == {f"{server.url}{name}" for name in server.files}


def test_what_was_downloaded_is_not_downloaded_again(server: Web, open_sources: Open) -> None:
    open_sources().model(f"{server.url}/tiny")
    once = server.served
    again = open_sources().model(f"{server.url}/tiny/")
    assert server.served == once
    assert (again / "model.safetensors").read_bytes() == WEIGHTS


def test_what_was_changed_is_downloaded_again(server: Web, open_sources: Open) -> None:
    open_sources().model(f"{server.url}/tiny")
    server.files["/tiny/config.json"] = b"[]"
    assert (open_sources().model(f"{server.url}/tiny") / "config.json").read_bytes() == b"[]"


def test_a_broken_connection_goes_on_where_it_broke(server: Web, open_sources: Open) -> None:
    server.instead["/tiny/model.safetensors"] = break_after(1 << 20, times=3)
    path = open_sources().model(f"{server.url}/tiny")
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert server.served == sum(map(len, server.files.values()))


def test_a_later_job_goes_on_where_one_gave_up(server: Web, open_sources: Open) -> None:
    server.instead["/tiny/model.safetensors"] = break_after(1000, times=5)
    code, message = refusal(open_sources(), f"{server.url}/tiny")
    assert (code, "submit the job again" in message) == ("source_unreachable", True)
    path = open_sources().model(f"{server.url}/tiny")
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert server.served == sum(map(len, server.files.values()))


def test_a_server_without_ranges_is_read_from_the_start(server: Web, open_sources: Open) -> None:
    broken = break_after(1 << 20, times=1)
    tries: list[str] = []

    def no_ranges(handler: Handler) -> None:
        tries.append(handler.headers["Range"])
        broken(handler) if len(tries) == 1 else handler.answer(200, handler.content)

    server.instead["/tiny/model.safetensors"] = no_ranges
    path = open_sources().model(f"{server.url}/tiny")
    assert len(tries) == 2
    assert (path / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("misbehave", "code"),
    [
        (lambda handler: handler.answer(403, b""), "source_forbidden"),
        (lambda handler: handler.answer(500, b""), "source_unreachable"),
        (lambda handler: handler.answer(200, handler.content + b"x"), "source_unreachable"),
        (lambda handler: handler.answer(
            206, handler.content, **{"Content-Range": f"bytes 1-{len(WEIGHTS)}/{len(WEIGHTS) + 1}"}
        ), "source_unreachable"),
        (lambda handler: handler.answer(200, gzip.compress(bytes(1 << 24)), **{"Content-Encoding": "gzip"}),
         "unsafe_format"),
        (endless, "unsafe_format"),
        (lambda handler: handler.answer(302, b"", Location="/tiny/model.safetensors"), "source_unreachable"),
    ],
    ids=["forbidden", "broken", "longer", "another range", "gzip bomb", "endless", "redirects in a circle"],
)  # fmt: skip
def test_a_bad_answer_is_refused(
    misbehave: Callable[[Handler], None], code: str, server: Web, open_sources: Open
) -> None:
    server.instead["/tiny/model.safetensors"] = misbehave
    assert refusal(open_sources(), f"{server.url}/tiny")[0] == code
    # What the sockets hold may be sent besides, but no more.
    assert server.served < 5 * len(WEIGHTS) + (1 << 24)


def test_a_slow_drip_ends_in_time(server: Web, open_sources: Open) -> None:
    server.instead["/tiny/model.safetensors"] = drip
    started = time.monotonic()
    code, message = refusal(open_sources(limits=limits(seconds=1.0)), f"{server.url}/tiny")
    assert (code, "SGLP_SOURCE_SECONDS" in message) == ("source_unreachable", True)
    assert time.monotonic() - started < 5


def test_a_file_changed_after_it_was_found_is_noticed(server: Web, open_sources: Open) -> None:
    def change(handler: Handler) -> None:
        server.files["/tiny/model.safetensors"] = bytes(len(WEIGHTS))
        handler.serve()

    server.instead["/tiny/model.safetensors"] = change
    code, message = refusal(open_sources(), f"{server.url}/tiny")
    assert (code, "changed" in message) == ("source_unreachable", True)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_bytes": len(WEIGHTS)}, "MAX_BYTES"),
        ({"cache_bytes": len(WEIGHTS)}, "CACHE_BYTES"),
        ({"max_files": 2}, "MAX_FILES"),
    ],
)
def test_too_much_is_refused_before_it_is_downloaded(
    changes: dict[str, int], named: str, server: Web, open_sources: Open
) -> None:
    code, message = refusal(open_sources(limits=limits(**changes)), f"{server.url}/tiny")
    assert (code, named in message) == ("insufficient_storage", True)
    assert server.served == 0


@pytest.mark.parametrize("name", ["../secret.safetensors", "/secret.safetensors", "a/b.safetensors", "x.bin", "", 7])
def test_a_shard_outside_the_folder_is_never_asked_for(name: Any, server: Web, open_sources: Open) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": name}}
    server.files["/tiny/model.safetensors.index.json"] = json.dumps(index).encode()
    code, message = refusal(open_sources(), f"{server.url}/tiny")
    assert (code, "outside" in message) == ("unsafe_format", True)
    assert not [
        path for path in server.names() if "secret" in path or path.endswith(("/b.safetensors", "1.safetensors"))
    ]


def test_shards_are_those_of_the_index(server: Web, open_sources: Open) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    server.files["/tiny/model.safetensors.index.json"] = json.dumps({"weight_map": dict(enumerate(names))}).encode()
    code, message = refusal(open_sources(), f"{server.url}/tiny")
    assert (code, names[0] in message) == ("model_not_found", True)
    server.files |= {f"/tiny/{name}": name.encode() for name in names}
    path = open_sources().model(f"{server.url}/tiny")
    assert {file.name for file in path.glob("*.safetensors")} == set(names)


def test_pickle_weights_are_refused_with_what_to_do(server: Web, open_sources: Open) -> None:
    server.files["/tiny/pytorch_model.bin"] = server.files.pop("/tiny/model.safetensors")
    code, message = refusal(open_sources(), f"{server.url}/tiny")
    assert (code, "save_pretrained" in message) == ("unsafe_format", True)
    assert server.served == 0


def test_nothing_there_is_not_found(server: Web, open_sources: Open) -> None:
    assert refusal(open_sources(), f"{server.url}/none")[0] == "model_not_found"


def test_loopback_is_refused_where_its_network_is_not_allowed(server: Web, open_sources: Open) -> None:
    code, message = refusal(open_sources(allowed_networks=()), f"{server.url}/tiny")
    assert (code, "not public" in message) == ("source_forbidden", True)
    assert server.requests == []


def test_a_host_that_is_not_listed_is_never_asked(server: Web, open_sources: Open) -> None:
    code, message = refusal(open_sources(options={}, redirect_places=[]), f"{server.url}/tiny")
    assert (code, "SGLP_SOURCES" in message) == ("source_forbidden", True)
    assert server.requests == []


@pytest.mark.parametrize(
    "target",
    [
        "https://127.0.0.1:{port}/tiny/tokenizer.json",
        "https://elsewhere.example/x",
        "http://localhost:{port}/tiny/tokenizer.json",
        "file:///etc/passwd",
        "https://user:word@localhost:{port}/tiny/tokenizer.json",
        "//elsewhere.example/x",
    ],
)
def test_a_redirect_off_the_list_is_not_followed(target: str, server: Web, open_sources: Open) -> None:
    url = target.format(port=server.url.rpartition(":")[2])
    server.instead["/tiny/model.safetensors"] = redirect_to(url)
    assert refusal(open_sources(), f"{server.url}/tiny")[0] == "source_forbidden"


def test_a_redirect_to_a_listed_host_with_a_private_address_is_refused(
    server: Web, open_sources: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = server.url.replace("localhost", "public.example")
    sources = open_sources(redirect_places=[server.url, public])
    server.instead["/tiny/model.safetensors"] = redirect_to(f"{public}/tiny/tokenizer.json")
    resolve = socket.getaddrinfo

    def rebinding(host: str, *rest: Any, **options: Any) -> Any:
        return resolve("10.0.0.1" if host == "public.example" else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    code, message = refusal(sources, f"{server.url}/tiny")
    assert (code, "not public" in message) == ("source_forbidden", True)


def test_the_authorization_goes_to_its_own_place_only(server: Web, open_sources: Open) -> None:
    server.files["/cdn/weights"] = WEIGHTS
    server.instead["/tiny/model.safetensors"] = redirect_to(f"{server.url}/cdn/weights")
    place = f"{server.url}/tiny"
    sources = open_sources(
        options={place: {"authorization": "Bearer canary"}}, redirect_places=[place, f"{server.url}/cdn"]
    )
    assert (sources.model(place) / "model.safetensors").read_bytes() == WEIGHTS
    sent = {(path.split("/")[1], authorization) for _, path, authorization in server.requests}
    assert sent == {("tiny", "Bearer canary"), ("cdn", None)}


def test_a_certificate_that_is_not_trusted_is_refused(
    server: Web, open_sources: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert refusal(open_sources(), f"{server.url}/tiny")[0] == "source_unreachable"
    assert server.requests == []


def test_a_server_that_is_down_is_unreachable(server: Web, open_sources: Open) -> None:
    nowhere = f"https://localhost:{free_port()}"
    assert (
        refusal(open_sources(options={nowhere: {}}, redirect_places=[nowhere]), f"{nowhere}/x")[0]
        == "source_unreachable"
    )


def test_an_outline_reads_no_weights(server: Web, open_sources: Open) -> None:
    header = b'{"w":{"dtype":"U8","shape":[4194304],"data_offsets":[0,4194304]}}'
    whole = len(header).to_bytes(8, "little") + header + WEIGHTS
    server.files["/tiny/model.safetensors"] = whole
    file = open_sources().outline(f"{server.url}/tiny") / "model.safetensors"
    assert file.stat().st_size == len(whole)
    assert file.read_bytes()[: 8 + len(header)] == whole[: 8 + len(header)]
    assert server.served < 1000


def test_data_is_one_file(server: Web, open_sources: Open) -> None:
    server.files["/data/a text.txt".replace(" ", "%20")] = b"the cat sat"
    assert open_sources().data(f"{server.url}/data/a%20text.txt", "calibration").read_bytes() == b"the cat sat"
    with pytest.raises(SourceError, match="parquet") as caught:
        open_sources().data(f"{server.url}/data/", "calibration")
    assert caught.value.code == "bad_calibration"
