"""The code of the whole package is in every key: neither an edit nor a move anywhere in it meets older results."""

import shutil
from pathlib import Path

import pytest

import sglp_core
from sglp_core.loading.cache_key import PACKAGE, code_digest


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, tmp_path / "sglp_core", ignore=shutil.ignore_patterns("__pycache__")))


def test_the_package_that_is_hashed_is_the_whole_one() -> None:
    assert sglp_core.__file__ == str(PACKAGE / "__init__.py")


def test_a_copy_of_the_same_code_has_the_same_digest(copy: Path) -> None:
    assert code_digest(copy) == code_digest(PACKAGE)


@pytest.mark.parametrize("name", ["errors.py", "planning/plan.py", "architectures/cifar_resnet.py"])
def test_an_edit_of_any_file_changes_the_digest(copy: Path, name: str) -> None:
    with (copy / name).open("a") as file:
        file.write("# edited\n")
    assert code_digest(copy) != code_digest(PACKAGE)


def test_a_file_moved_to_another_folder_changes_the_digest(copy: Path) -> None:
    (copy / "planning" / "plan.py").rename(copy / "repair" / "plan.py")
    assert code_digest(copy) != code_digest(PACKAGE)
