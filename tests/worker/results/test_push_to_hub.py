"""A push to a model hub: one commit of all files, the model where stock tools look for it, no secret in messages."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from jobs.artifacts import StorageUnavailable
from jobs.locations.destinations import Destination
from tests.services.writable_hub import WritableHub, writable_hub
from tests.worker.results.test_push import FILES, published, pushed
from worker.results.push import Push, PushForbidden

MODEL = {name.removeprefix("model/"): content for name, content in FILES.items() if name.startswith("model/")}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    # Its own protocol for large files has no server that could run here; without it the library speaks Git LFS.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with writable_hub() as server:
        yield server


@pytest.fixture
def destination(hub: WritableHub) -> Destination:
    return Destination(prefix="hf://team", options={"token": hub.token, "endpoint": hub.url})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for name, content in {**FILES, "manifest.json": b"[]", "model/empty": b""}.items():
        (tmp_path / "output" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "output" / name).write_bytes(content)
    return tmp_path / "output"


def test_everything_is_in_one_commit_and_is_told(
    hub: WritableHub, destination: Destination, output: Path, tmp_path: Path
) -> None:
    push = pushed("hf://team/small", destination, output)
    result = push.result()
    repository = hub.repositories["team/small"]
    assert repository.private
    assert list(repository.commits) == [result.commit]
    evidence = {"sglp/report.json": FILES["report.json"], "sglp/manifest.json": b"[]"}
    assert repository.files == {**MODEL, "empty": b"", **evidence}
    assert (result.uri, result.manifest) == ("hf://team/small", "sglp/manifest.json")
    assert {file.name for file in result.files} == repository.files.keys()
    assert repository.large == {"model.safetensors"}
    assert push.done_bytes == push.total_bytes
    folder = huggingface_hub.snapshot_download(
        "team/small",
        revision=result.commit,
        endpoint=hub.url,
        token=hub.token,
        local_dir=tmp_path / "back",
    )
    assert {name: (Path(folder) / name).read_bytes() for name in repository.files} == repository.files


def test_a_second_push_is_another_commit_in_which_no_other_weights_are_left(
    hub: WritableHub, destination: Destination, output: Path
) -> None:
    first = pushed("hf://team/small", destination, output).result()
    (output / "model/model.safetensors").rename(output / "model/model-00001-of-00001.safetensors")
    second = pushed("hf://team/small", destination, output).result()
    assert first.commit != second.commit
    repository = hub.repositories["team/small"]
    assert list(repository.commits) == [first.commit, second.commit]
    assert "model.safetensors" not in repository.files
    assert "model-00001-of-00001.safetensors" in repository.files
    assert "config.json" in repository.files


def test_the_same_push_again_changes_nothing(hub: WritableHub, destination: Destination, output: Path) -> None:
    first, second = (pushed("hf://team/small", destination, output).result() for _ in range(2))
    assert first == second
    assert len(hub.repositories["team/small"].commits) == 1


def test_evidence_alone_leaves_a_model_as_it_is(hub: WritableHub, destination: Destination, output: Path) -> None:
    pushed("hf://team/small", destination, output).result()
    for path in list((output / "model").iterdir()):
        path.unlink()
    (output / "report.json").write_bytes(b"[1]")
    pushed("hf://team/small", destination, output).result()
    assert hub.repositories["team/small"].files["model.safetensors"] == MODEL["model.safetensors"]
    assert hub.repositories["team/small"].files["sglp/report.json"] == b"[1]"


@pytest.mark.parametrize(("uri", "token"), [("hf://team/small", "canary-token"), ("hf://others/small", None)])
def test_what_the_hub_refuses_is_forbidden_and_no_token_is_told(
    hub: WritableHub, output: Path, uri: str, token: str | None
) -> None:
    options = {"token": token or hub.token, "endpoint": hub.url}
    destination = Destination(prefix=uri, options=options)
    with pytest.raises(PushForbidden, match="hub answers 40") as caught:
        pushed(uri, destination, output).result()
    assert options["token"] not in str(caught.value)
    assert hub.repositories == {}


def test_a_hub_that_fails_is_asked_again(hub: WritableHub, destination: Destination, output: Path) -> None:
    hub.failing = 3
    assert pushed("hf://team/small", destination, output).result().commit in hub.repositories["team/small"].commits


def test_a_hub_that_goes_on_failing_is_unavailable(hub: WritableHub, destination: Destination, output: Path) -> None:
    hub.failing = 1 << 30
    with pytest.raises(StorageUnavailable, match="503"):
        pushed("hf://team/small", destination, output, retry_seconds=0.2).result()
    assert hub.repositories == {}


def test_of_a_commit_that_is_cut_off_nothing_is_seen(hub: WritableHub, destination: Destination, output: Path) -> None:
    hub.cut = True
    with pytest.raises(StorageUnavailable):
        pushed("hf://team/small", destination, output, retry_seconds=0.2).result()
    assert hub.repositories["team/small"].commits == {}


def test_what_the_hub_has_otherwise_is_noticed(hub: WritableHub, destination: Destination, output: Path) -> None:
    hub.altered = True
    with pytest.raises(StorageUnavailable, match=r"model\.safetensors is not in the commit"):
        pushed("hf://team/small", destination, output).result()


def test_what_is_told_to_stop_writes_nothing(hub: WritableHub, destination: Destination, output: Path) -> None:
    push = Push("hf://team/small", destination, output, published(output), 60)
    push.stopping.set()
    push.start()
    push.join(60)
    assert hub.repositories == {}
