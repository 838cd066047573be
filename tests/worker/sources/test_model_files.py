"""Models and data from buckets, through the child process too, against a server that checks signatures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import obstore
import psutil
import pytest
from obstore.store import ObjectStore, from_url

from sglp_core.checkpoints.safetensors_header import check_safetensors
from tests.services.processes import free_port
from tests.services.s3 import S3
from tests.worker.supervision.test_child_process import folder, follow, request
from tests.worker.tiny_model import tiny_spec, write_text, write_tiny_model
from worker.sources.access import DownloadLimits, SourceAccess
from worker.sources.buckets import Bucket
from worker.sources.model_files import Sources
from worker.sources.remote_folder import SourceError
from worker.supervision.child_process import ChildProcess

Open = Callable[..., Sources]


@pytest.fixture(scope="module")
def bucket(s3_server: S3) -> ObjectStore:
    return from_url(s3_server.url, config=s3_server.options, client_options={"allow_http": True})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, bucket: ObjectStore) -> Path:
    """A model's folder, which lies in the bucket at `models/tiny` too, and text at `data/text.txt`."""
    made = tmp_path_factory.mktemp("source")
    directory = write_tiny_model(made / "tiny")
    for file in directory.iterdir():
        obstore.put(bucket, f"models/tiny/{file.name}", file)
    obstore.put(bucket, "data/text.txt", write_text(made / "text.txt"))
    return directory


def run(
    tmp_path: Path, spec: dict[str, Any], credentials: Mapping[str, Mapping[str, str]]
) -> tuple[list[dict[str, Any]], ChildProcess]:
    """The messages of a child that has ended, and the child."""
    child = ChildProcess(request(spec, tmp_path), folder(tmp_path), credentials)
    messages = follow(child)
    child.close()
    return messages, child


def spec_of(uri: str, text: str, **changes: Any) -> dict[str, Any]:
    spec = tiny_spec(Path("/none"), Path("/none"), **changes)
    return {**spec, "model": {"uri": uri}, "calibration": {**spec["calibration"], "source": text}}


def test_a_model_and_text_from_a_bucket_become_a_smaller_model(
    s3_server: S3, model: Path, bucket: ObjectStore, tmp_path: Path
) -> None:
    uri, text = f"{s3_server.url}/models/tiny", f"{s3_server.url}/data/text.txt"
    said, child = run(tmp_path, spec_of(uri, text), {s3_server.url: s3_server.options})
    assert said[-1] == {"finished": True}, child.log_tail()
    sources = {each["uri"]: each for each in next(m["resolved"]["sources"] for m in said if "resolved" in m)}
    weights = obstore.head(bucket, "models/tiny/model.safetensors")
    source = sources[f"{uri}/model.safetensors"]
    assert (source["size_bytes"], source["validator"]) == (weights["size"], weights["e_tag"])
    assert text in sources
    report = (child.output / "report.json").read_text()
    assert uri in report
    assert text in report
    assert str(tmp_path) not in report


@pytest.fixture
def open_sources(s3_server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setattr("worker.sources.transfers.FIRST_PAUSE_SECONDS", 0.01)

    def opened(place: str = s3_server.url, **options: str) -> Sources:
        (folder := tmp_path / "job").mkdir()
        limits = DownloadLimits(max_bytes=1 << 24, max_files=50, seconds=60, cache_bytes=1 << 24)
        access = SourceAccess({place: {**s3_server.options, **options}})
        return Sources(folder, tmp_path / "cache", limits, access, lambda _done, _total: None)

    return opened


def refusal(sources: Sources, uri: str) -> tuple[str, str]:
    with pytest.raises(SourceError) as caught:
        sources.model(uri)
    return caught.value.code, str(caught.value)


def test_a_wrong_secret_is_forbidden_and_not_told(open_sources: Open, model: Path, s3_server: S3) -> None:
    code, message = refusal(open_sources(secret_access_key="canary"), f"{s3_server.url}/models/tiny")
    assert code == "source_forbidden"
    assert "check the key" in message
    assert "canary" not in message


@pytest.mark.parametrize("path", ["{bucket}/models/none", "s3://none/models/tiny", "{bucket}"])
def test_a_missing_bucket_or_key_is_not_found(path: str, open_sources: Open, model: Path, s3_server: S3) -> None:
    assert refusal(open_sources("s3://"), path.format(bucket=s3_server.url))[0] == "model_not_found"


def test_missing_data_is_told_apart_from_a_missing_model(open_sources: Open, s3_server: S3) -> None:
    with pytest.raises(SourceError, match=r"there is no .*/data/none\.txt") as caught:
        open_sources().data(f"{s3_server.url}/data/none.txt", "calibration")
    assert caught.value.code == "bad_calibration"


def test_a_store_that_is_down_is_unreachable(open_sources: Open, s3_server: S3) -> None:
    code, message = refusal(open_sources(endpoint=f"http://127.0.0.1:{free_port()}"), f"{s3_server.url}/models/tiny")
    assert (code, "submit the job again" in message) == ("source_unreachable", True)


def test_a_bucket_that_is_not_named_is_forbidden(open_sources: Open, model: Path, s3_server: S3) -> None:
    code, message = refusal(open_sources("s3://art"), f"{s3_server.url}/models/tiny")
    assert (code, "SGLP_SOURCES" in message) == ("source_forbidden", True)


def test_options_that_are_none_are_refused_without_being_told(open_sources: Open, s3_server: S3) -> None:
    code, message = refusal(open_sources(acces_key_id="canary"), f"{s3_server.url}/models/tiny")
    assert (code, "SGLP_SOURCES" in message) == ("source_forbidden", True)
    assert "canary" not in message


def test_an_object_changed_after_it_was_found_is_noticed(bucket: ObjectStore, model: Path, s3_server: S3) -> None:
    obstore.put(bucket, "changing/config.json", b"{}")
    place = Bucket(f"{s3_server.url}/changing", s3_server.options)
    file = place.find("config.json")
    assert file
    assert b"".join(place.read(file, 0, 2)) == b"{}"
    obstore.put(bucket, "changing/config.json", b"[]")
    with pytest.raises(SourceError, match="changed"):
        list(place.read(file, 0, 2))


def test_an_outline_of_a_bucket_has_headers_and_holes(open_sources: Open, model: Path, s3_server: S3) -> None:
    path = open_sources().outline(f"{s3_server.url}/models/tiny")
    assert check_safetensors(path / "model.safetensors") == check_safetensors(model / "model.safetensors")
    assert (path / "model.safetensors").read_bytes() != (model / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("gs://bucket/tiny", {"skip_signature": "true"}),
        ("az://container/tiny", {"account_name": "name", "skip_signature": "true"}),
    ],
)
def test_other_stores_are_made_from_their_options(uri: str, options: dict[str, str]) -> None:
    Bucket(uri, options)
    with pytest.raises(SourceError, match="not sound"):
        Bucket(uri, {**options, "no_such_option": "x"})


def test_credentials_reach_the_child_and_stand_nowhere(
    s3_server: S3, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-of-the-hub")
    spec = spec_of(f"{s3_server.url}/models/tiny", "self", mode="estimate")
    asked = request({**spec, "target": None}, tmp_path)
    child = ChildProcess(asked, folder(tmp_path), {s3_server.url: s3_server.options})
    # Once it says something it is surely the child, and has its own environment.
    said = follow(child, lambda message: "progress" in message)
    process = psutil.Process(child._process.pid)
    seen = [*process.cmdline(), *process.environ().values()]
    said += follow(child)
    child.close()
    assert said[-1] == {"finished": True}, child.log_tail()
    texts = [*seen, str(said), *(file.read_text("latin-1") for file in tmp_path.rglob("*") if file.is_file())]
    assert len(texts) > len(seen) + 5
    for secret in (s3_server.options["secret_access_key"], "canary-of-the-hub"):
        assert not [text for text in texts if secret in text]
