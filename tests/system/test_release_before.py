"""The code of the release before, from the git history, beside today's on today's tables: as in a rolling upgrade.

That release is the newest commit without the newest migration, so each new migration is tested from its first day.
"""

import io
import subprocess
import sys
import sysconfig
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.postgresql import PostgreSQL
from tests.services.stack import Stack
from tests.worker.tiny_model import tiny_spec

ROOT = Path(__file__).parents[2]
MIGRATIONS = "migrations/versions"


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, check=True).stdout


def release_before() -> str | None:
    """Its commit; None where the history does not go back to it."""
    newest = sorted((ROOT / MIGRATIONS).glob("0*.py"))[-1]
    try:
        added = git("log", "--diff-filter=A", "--format=%H", "-1", "--", f"{MIGRATIONS}/{newest.name}").decode().strip()
        return git("rev-parse", "--verify", f"{added}^").decode().strip() if added else None
    except (OSError, subprocess.CalledProcessError):
        return None


COMMIT = release_before()
pytestmark = pytest.mark.skipif(COMMIT is None, reason="the git history does not go back to the release before")


@pytest.fixture(autouse=True)
def only_installed_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the working directory nor the environment makes other code importable."""
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    # The libraries are those of another environment here, and a confined job may read what this names.
    monkeypatch.setenv("LD_LIBRARY_PATH", sysconfig.get_path("purelib"))


@pytest.fixture(scope="module")
def python_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the code of the release before, and the packages of this one."""
    assert COMMIT is not None
    folder = tmp_path_factory.mktemp("before")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    with tarfile.open(fileobj=io.BytesIO(git("archive", COMMIT))) as archive:
        archive.extractall(packages, filter="data")
    (packages / "client" / "sglp_client").rename(packages / "sglp_client")
    # As a plain folder: what makes today's code importable is a hook in the environment of the tests, and is not run.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


@pytest.fixture
def stack(tmp_path: Path, models: Path, postgresql_server: PostgreSQL, redis_url: str) -> Iterator[Stack]:
    """Nothing of it is started, but the database has today's tables."""
    settings = {
        "database_url": postgresql_server.database(),
        "broker_url": redis_url,
        "artifact_url": (tmp_path / "artifacts").as_uri(),
        "model_roots": [str(models)],
    }
    stack = Stack(tmp_path, settings)
    yield stack
    stack.end()


def test_the_release_before_is_another_one(python_before: Path) -> None:
    where = "import api, jobs, sglp_client, worker as w; print(*(m.__file__ for m in (api, jobs, sglp_client, w)))"
    command = [python_before, "-c", where]
    places = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert all(place.startswith(str(python_before.parents[1])) for place in places)
    assert (
        len(list(python_before.parents[1].glob(f"lib/python*/site-packages/{MIGRATIONS}/0*.py")))
        == len(list((ROOT / MIGRATIONS).glob("0*.py"))) - 1
    )


@pytest.mark.parametrize(
    "older", ["worker", *(pytest.param(name, marks=pytest.mark.slow) for name in ("api", "scheduler"))]
)
def test_one_process_of_the_release_before_among_todays(
    older: str, stack: Stack, models: Path, python_before: Path
) -> None:
    starts = {"api": stack.start_api, "scheduler": stack.start_scheduler, "worker": stack.start_worker}
    for name, start in starts.items():
        stack.python = python_before if name == older else Path(sys.executable)
        start()
    job = stack.wait_for_end(stack.client.submit(tiny_spec(models / "model", models / "text.txt"))["id"], 240)
    assert (job["status"], job["error"], job["attempt"]) == ("succeeded", None, 1), stack.logs()
    assert {artifact["name"] for artifact in stack.client.artifacts(job["id"])} >= {"model/config.json", "report.json"}
