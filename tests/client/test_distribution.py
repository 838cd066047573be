"""The wheel of `sglp-client` in an environment that has nothing else."""

import os
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client"
MEGABYTE = 1e6
SERVICE_COMMANDS = ("up", "demo", "compress", "sweep", "estimate")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A copy, as a build leaves folders behind, and would find there what an earlier build has left.
    source, out = tmp_path_factory.mktemp("source") / "client", tmp_path_factory.mktemp("wheel")
    shutil.copytree(CLIENT, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, source)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and what it depends on, and not even pip."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    begin = time.monotonic()
    run(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", wheel)
    print(f"installed in {time.monotonic() - begin:.1f} s, {site_packages_bytes(folder) / MEGABYTE:.1f} MB")
    return folder


def run(*command: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    # Without this checkout's packages on the path, and at a width that breaks no line.
    settings = {**os.environ, "PYTHONPATH": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=settings)
    assert done.returncode == status, done.stderr
    return done


def site_packages_bytes(environment: Path) -> int:
    (folder,) = environment.glob("lib/python*/site-packages")
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_its_modules_are_only_sglp_client(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"sglp_client"}
    assert "sglp_client/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_it_is_small_and_brings_no_part_of_the_service(environment: Path) -> None:
    assert site_packages_bytes(environment) < 60 * MEGABYTE
    for module in ("torch", "sqlalchemy", "fastapi", "pyprctl", "api", "client", "jobs", "worker", "sglp_core"):
        absent = run(environment / "bin" / "python", "-c", f"import {module}", status=1)
        assert f"No module named '{module}'" in absent.stderr


def test_the_sdk_is_imported_by_its_name(environment: Path) -> None:
    code = "from sglp_client import SGLP, SGLPProblem, UserError; SGLP('http://127.0.0.1:1').close()"
    run(environment / "bin" / "python", "-c", code)


def test_the_help_lists_every_command(environment: Path) -> None:
    shown = run(environment / "bin" / "sglp", "--help").stdout
    for command in ("submit", "download", *SERVICE_COMMANDS):
        assert f" {command} " in shown


@pytest.mark.parametrize("command", SERVICE_COMMANDS)
def test_a_command_of_the_service_says_what_to_install(environment: Path, command: str) -> None:
    refused = run(environment / "bin" / "sglp", command, "--help", status=1)
    assert refused.stderr == (
        f"failed: `sglp {command}` needs the package sglp, which is not installed; "
        "in a checkout of SGLP, run: pip install ./client '.[all]'\n"
    )


def test_a_package_that_cannot_be_imported_breaks_only_its_command(environment: Path) -> None:
    (site_packages,) = environment.glob("lib/python*/site-packages")
    broken = site_packages / "sglp-0.dist-info"
    broken.mkdir()
    try:
        (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: sglp\nVersion: 0\n")
        (broken / "entry_points.txt").write_text("[sglp.commands]\nup = nowhere:up\n")
        assert "Usage: sglp" in run(environment / "bin" / "sglp", "--help").stdout
        assert "Usage: sglp jobs" in run(environment / "bin" / "sglp", "jobs", "--help").stdout
        refused = run(environment / "bin" / "sglp", "up", status=1)
        assert "`sglp up` cannot be imported (ModuleNotFoundError: No module named 'nowhere')" in refused.stderr
        assert refused.stderr.count("\n") == 1
    finally:
        shutil.rmtree(broken)


def test_the_service_asks_for_the_client_of_its_own_version() -> None:
    client, service = (
        tomllib.loads((ROOT / file).read_text())["project"] for file in ("client/pyproject.toml", "pyproject.toml")
    )
    assert client["version"] == service["version"]
    assert f"{client['name']}=={client['version']}" in service["dependencies"]
