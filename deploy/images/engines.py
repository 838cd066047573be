"""Whoever builds images on this machine and starts containers from them: Docker, Podman, or buildah alone.

A container is confined as docker-compose.yml says, and uses the network of the machine, since the servers of the tests
listen on loopback.
"""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

PREFIX = "sglp-try-"


class Engine(Protocol):
    """Images are called by their short names, `api` and `worker`."""

    name: str

    def build(self, image: str, file: Path, context: Path, arguments: Mapping[str, str]) -> None:
        """Build an image from a Dockerfile. Raises `CalledProcessError`."""

    def size_bytes(self, image: str) -> int:
        """How large an image is, its base included."""

    def command(
        self,
        image: str,
        program: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[Path, str] | None = None,
    ) -> list[str]:
        """What starts a container from an image: with its own program or another one, with more environment variables,
        and with folders of this machine mounted, read-only where the place ends in `:ro`.
        """


class DockerLike:
    """Docker or Podman."""

    def __init__(self, name: str, pip_conf: Path | None, volumes: Sequence[str]) -> None:
        self.name = name
        self._build_options = _build_options(pip_conf, volumes)

    def build(self, image: str, file: Path, context: Path, arguments: Mapping[str, str]) -> None:
        options = [*self._build_options, *_arguments(arguments)]
        subprocess.run([self.name, "build", *options, "--tag", PREFIX + image, "--file", file, context], check=True)

    def size_bytes(self, image: str) -> int:
        return int(_output([self.name, "image", "inspect", "--format", "{{.Size}}", PREFIX + image]))

    def command(
        self,
        image: str,
        program: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[Path, str] | None = None,
    ) -> list[str]:
        options = ["--rm", "--init", "--network", "host", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]
        options += ["--security-opt", "no-new-privileges"]
        options += [option for name, value in (environment or {}).items() for option in ("--env", f"{name}={value}")]
        options += [option for path, place in (mounts or {}).items() for option in ("--volume", f"{path}:{place}")]
        return [self.name, "run", *options, PREFIX + image, *program]


class Buildah:
    """buildah as root: it builds without an engine, and its file systems are entered by chroot."""

    name = "buildah"

    def __init__(self, directory: Path, pip_conf: Path | None, volumes: Sequence[str]) -> None:
        storage = ["--root", str(directory / "storage"), "--runroot", str(directory / "run")]
        self._buildah = ["buildah", *storage]
        self._build_options = _build_options(pip_conf, volumes)
        self._roots: dict[str, Path] = {}

    def build(self, image: str, file: Path, context: Path, arguments: Mapping[str, str]) -> None:
        # Docker's format keeps HEALTHCHECK.
        options = ["--isolation", "chroot", "--network", "host", "--format", "docker", "--pull-never", "--quiet"]
        options += [*self._build_options, *_arguments(arguments)]
        subprocess.run([*self._buildah, "bud", *options, "--tag", PREFIX + image, "--file", file, context], check=True)

    def import_root(self, root: Path, tag: str) -> None:
        """Make an image of a root file system."""
        container = _output([*self._buildah, "from", "scratch"])
        subprocess.run([*self._buildah, "add", "--quiet", container, root, "/"], check=True, stdout=subprocess.DEVNULL)
        _output([*self._buildah, "commit", "--quiet", "--rm", container, tag])

    def size_bytes(self, image: str) -> int:
        layers = json.loads(json.loads(self._inspect(image))["Manifest"])["layers"]
        return sum(layer["size"] for layer in layers)

    def command(
        self,
        image: str,
        program: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[Path, str] | None = None,
    ) -> list[str]:
        config = json.loads(self._inspect(image))["OCIv1"]["config"]
        root = self._root(image)
        user, _, group = config["User"].partition(":")
        lines = [f"mount --make-rprivate / && mount --bind {root} {root}"]
        for path, place in (mounts or {}).items():
            inside, _, mode = place.partition(":")
            (root / inside.lstrip("/")).mkdir(parents=True, exist_ok=True)
            lines.append(f"mount --bind {shlex.quote(str(path))} {root}{inside}")
            if mode == "ro":
                lines.append(f"mount -o remount,bind,ro {root}{inside}")
        lines += [
            f"mount -o remount,bind,ro {root}",
            f"mount -t tmpfs -o nosuid,nodev tmpfs {root}/tmp",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            'exec chroot "$@"',
        ]
        confined = [
            "setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs", "--bounding-set=-all",
            "--inh-caps=-all",
        ]  # fmt: skip
        variables = [*config["Env"], *(f"{name}={value}" for name, value in (environment or {}).items())]
        started = ["env", "--ignore-environment", f"--chdir={config['WorkingDir']}", *variables]
        new = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", "\n".join(lines), "sh"]
        return [*new, str(root), *confined, *started, *(program or config["Cmd"])]

    def _root(self, image: str) -> Path:
        if image not in self._roots:
            container = _output([*self._buildah, "from", "--pull-never", PREFIX + image])
            self._roots[image] = Path(_output([*self._buildah, "mount", container]))
        return self._roots[image]

    def _inspect(self, image: str) -> str:
        return _output([*self._buildah, "inspect", "--type", "image", PREFIX + image])

    def close(self) -> None:
        """Remove all containers and images that this made."""
        subprocess.run([*self._buildah, "rm", "--all"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*self._buildah, "rmi", "--all", "--force"], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def find_engine(directory: Path, pip_conf: Path | None, volumes: Sequence[str]) -> Iterator[Engine]:
    """Docker or Podman where their engine answers, otherwise buildah, which keeps everything below `directory`.

    Raises `RuntimeError` where there is none.
    """
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0:
            yield DockerLike(name, pip_conf, volumes)
            return
    if not shutil.which("buildah") or os.geteuid() != 0:
        raise RuntimeError("neither docker nor podman answers, and there is no buildah, or this is not root")
    buildah = Buildah(directory, pip_conf, volumes)
    try:
        yield buildah
    finally:
        buildah.close()


def _build_options(pip_conf: Path | None, volumes: Sequence[str]) -> list[str]:
    options = [option for volume in volumes for option in ("--volume", f"{volume}:ro")]
    return [*options, "--secret", f"id=pip,src={pip_conf}"] if pip_conf else options


def _arguments(arguments: Mapping[str, str]) -> list[str]:
    return [option for name, value in arguments.items() for option in ("--build-arg", f"{name}={value}")]


def _output(command: Sequence[str | Path]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
