"""Models from `az://`, results to it, and the service's own files in it, against a server that checks signatures."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import from_url

from jobs.artifacts import open_place
from jobs.locations.destinations import Destination
from tests.services.azurite import Azurite, azurite
from tests.worker.results.test_push import FILES, content_of, make_output, pushed
from tests.worker.tiny_model import write_text, write_tiny_model
from worker.sources.access import DownloadLimits, SourceAccess
from worker.sources.model_files import Sources
from worker.sources.remote_folder import SourceError

Open = Callable[..., Sources]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    try:
        with azurite(tmp_path_factory.mktemp("azurite")) as running:
            yield running
    except FileNotFoundError:
        pytest.skip("azurite-blob is not on the path; `make azure` runs these tests with it")


@pytest.fixture(scope="module")
def model(server: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, which lies in the container at `models/tiny` too, and text at `data/text.txt`."""
    made = tmp_path_factory.mktemp("source")
    store = from_url(server.url, config=server.options, client_options={"allow_http": True})
    directory = write_tiny_model(made / "tiny")
    for file in directory.iterdir():
        obstore.put(store, f"models/tiny/{file.name}", file)
    obstore.put(store, "data/text.txt", write_text(made / "text.txt"))
    return directory


@pytest.fixture
def open_sources(server: Azurite, tmp_path: Path) -> Open:
    def opened(**changes: str) -> Sources:
        limits = DownloadLimits(max_bytes=10**9, max_files=100, seconds=60, cache_bytes=10**9)
        access = SourceAccess({server.url: {**server.options, **changes}}, [server.url])
        (tmp_path / "job").mkdir()
        return Sources(tmp_path / "job", tmp_path / "cache", limits, access, lambda *_: None)

    return opened


def test_a_model_and_text_arrive_whole(open_sources: Open, server: Azurite, model: Path, tmp_path: Path) -> None:
    sources = open_sources()
    fetched = sources.model(f"{server.url}/models/tiny")
    assert {file.name: file.read_bytes() for file in fetched.iterdir()} == {
        file.name: file.read_bytes() for file in model.iterdir()
    }
    assert (
        sources.data(f"{server.url}/data/text.txt", "calibration").read_bytes()
        == write_text(tmp_path / "text.txt").read_bytes()
    )
    assert all(fact.validator for fact in sources.facts)


def test_an_outline_is_read_by_ranges(open_sources: Open, server: Azurite, model: Path) -> None:
    outlined = open_sources().outline(f"{server.url}/models/tiny") / "model.safetensors"
    real = (model / "model.safetensors").read_bytes()
    header = int.from_bytes(real[:8], "little") + 8
    assert outlined.read_bytes() == real[:header] + bytes(len(real) - header)


@pytest.mark.parametrize(
    ("folder", "changes", "code"),
    [
        ("models/nowhere", {}, "model_not_found"),
        ("models/tiny", {"account_key": base64.b64encode(b"another key").decode()}, "source_forbidden"),
        ("models/tiny", {"account_key": "no base64"}, "source_forbidden"),
    ],
)
def test_what_is_missing_or_forbidden_is_said(
    open_sources: Open, server: Azurite, model: Path, folder: str, changes: dict[str, str], code: str
) -> None:
    assert model.is_dir()
    with pytest.raises(SourceError) as raised:
        open_sources(**changes).model(f"{server.url}/{folder}")
    assert raised.value.code == code
    assert not any(value in str(raised.value) for value in changes.values())


def test_a_result_is_pushed_and_pushed_again(server: Azurite, tmp_path: Path) -> None:
    output = make_output(tmp_path / "output")
    # Larger than a part, so it goes up in several.
    (output / "model" / "large.safetensors").write_bytes(bytes(range(256)) * 80_000)
    destination = Destination(prefix=f"{server.url}/results", options=server.options)
    for _ in range(2):
        result = pushed(f"{destination.prefix}/small/", destination, output).result()
    found = content_of(open_place(f"{destination.prefix}/small", server.options))
    assert found.keys() == {file.name for file in result.files}
    assert {name: found[name] for name in FILES} == FILES
    assert found["model/large.safetensors"] == (output / "model" / "large.safetensors").read_bytes()


def test_the_services_own_files_are_signed_for_and_deleted(server: Azurite, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt")
    store = open_place(f"{server.url}/artifacts", server.options, presign_seconds=60)
    size_bytes, _ = store.put("jobs/1/text.txt", text, "text/plain")
    assert size_bytes == text.stat().st_size
    signed = store.signed_url("jobs/1/text.txt")
    assert signed is not None
    assert httpx.get(signed).content == b"".join(store.stream("jobs/1/text.txt")) == text.read_bytes()
    assert httpx.get(signed.partition("?")[0]).status_code in {403, 404, 409}
    store.delete("jobs/1/text.txt")
    assert list(store.list("jobs/1/")) == []
    store.delete("jobs/1/text.txt")
