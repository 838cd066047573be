"""What is in an image: sizes, packages, and what should not be there; and its bill of materials."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy.images.engines import Engine

# Runs in the image, with nothing but Python's own library.
LISTING = """
import importlib.metadata, json, os, shutil, stat, sys
from pathlib import Path
packages = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
compilers = "cc gcc g++ c++ clang tcc ld as make rustc go".split()
status = Path("/var/lib/dpkg/status")
programs = [Path(folder, name) for top in ("/usr", "/opt") for folder, _, names in os.walk(top) for name in names]
print(json.dumps({
    "packages": packages,
    "debian_packages": status.read_text().count("\\nStatus: install ok installed"),
    "compilers": [name for name in compilers if shutil.which(name)],
    "tests": [folder for folder, _, _ in os.walk(sys.prefix) if Path(folder).name in ("test", "tests")],
    "caches": [str(path) for path in map(Path, ("/root/.cache", "/tmp/.cache", "/var/lib/apt/lists"))
               if os.access(path, os.R_OK) and any(path.iterdir())],
    "python_bytes": sum(path.lstat().st_size for path in Path(sys.prefix).rglob("*")),
    "setuid": sum(bool(path.lstat().st_mode & stat.S_ISUID) for path in programs),
}))
"""
SMALLEST_FOR_API = frozenset({"torch", "transformers", "celery", "pyarrow", "matplotlib"})


@dataclass(frozen=True)
class Contents:
    """`packages` are Python's, with versions; sizes in bytes."""

    image: str
    size_bytes: int
    python_bytes: int
    packages: dict[str, str]
    debian_packages: int
    compilers: list[str]
    tests: list[str]
    caches: list[str]
    setuid: int

    def rows(self) -> dict[str, str]:
        """What a table of the images has."""
        return {
            "image, MB": f"{self.size_bytes / 1e6:.0f}",
            "of it Python's packages, MB": f"{self.python_bytes / 1e6:.0f}",
            "Python packages": str(len(self.packages)),
            "Debian packages": str(self.debian_packages),
            "compilers": ", ".join(self.compilers) or "none",
            "pip": self.packages.get("pip", "none"),
            "torch": self.packages.get("torch", "none"),
            "folders of tests": str(len(self.tests)),
            "caches": ", ".join(self.caches) or "none",
            "setuid programs": str(self.setuid),
        }

    def problems(self) -> list[str]:
        """What should not be in the image."""
        found = [f"has a compiler: {name}" for name in self.compilers]
        found += [f"has a cache: {path}" for path in self.caches]
        found += [f"has tests: {path}" for path in self.tests]
        found += [f"has {self.setuid} setuid programs"] if self.setuid else []
        unwanted = {"pip"} | (SMALLEST_FOR_API if self.image == "api" else set())
        return found + [f"has {name}" for name in sorted(unwanted & self.packages.keys())]


def contents_of(engine: Engine, image: str) -> Contents:
    """List an image by a program that runs in it."""
    command = engine.command(image, ["python", "-c", LISTING])
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return Contents(image=image, size_bytes=engine.size_bytes(image), **listed)


def write_bill(engine: Engine, image: str, tool: Path, file: Path) -> None:
    """Write the CycloneDX bill of materials of the image's Python packages; `tool` has cyclonedx-bom."""
    # Appended for this process alone: the interpreter that it asks for its packages does not see the tool.
    program = "import runpy, sys; sys.path.append('/tool'); runpy.run_module('cyclonedx_py', run_name='__main__')"
    asked = ["environment", "--output-reproducible", "/opt/sglp/bin/python"]
    command = engine.command(image, ["python", "-c", program, *asked], mounts={tool: "/tool:ro"})
    file.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
