"""Models and data from buckets and web servers, through the child process, against real servers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import ObjectStore, from_url

from tests.services.s3 import S3
from tests.worker.test_process import folder, follow, request
from tests.worker.tiny_model import tiny_spec, write_text, write_tiny_model
from worker.process import ChildProcess


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
    tmp_path: Path, spec: Mapping[str, Any], credentials: Mapping[str, Mapping[str, str]], **changes: Any
) -> tuple[list[dict[str, Any]], ChildProcess]:
    """What the child says of a job, and the child, which has ended."""
    asked = {**request({"model": {}, **spec}, tmp_path), **changes}
    asked["spec"]["model"].setdefault("revision", None)
    child = ChildProcess(asked, folder(tmp_path), credentials)
    said = follow(child)
    child.close()
    return said, child


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
    found = sources[f"{uri}/model.safetensors"]
    assert (found["size_bytes"], found["validator"]) == (weights["size"], weights["e_tag"])
    assert text in sources
    report = (child.output / "report.json").read_text()
    assert uri in report
    assert text in report
    assert str(tmp_path) not in report
    assert not list((tmp_path / "cache" / "sources" / "in_use").iterdir())
