"""A base for the images from Debian's packages, where no registry of images is reached."""

import shutil
import subprocess
from pathlib import Path

from deploy.images.engines import Buildah

# What the images take from python:3.11-slim.
PACKAGES = "python3,python3-venv,ca-certificates"


def make_base(engine: Buildah, directory: Path) -> None:
    """Debian 12 with its Python 3.11 as the image `python:3.11-slim`. Takes minutes, and needs debootstrap."""
    root = directory / "base"
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (root / "usr/bin/python").symlink_to("python3")
    for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(root / folder)
    engine.import_root(root, "python:3.11-slim")
    shutil.rmtree(root)
