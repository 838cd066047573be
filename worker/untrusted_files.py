"""Files that a job's process has written, taken without trust: it may have made links and pipes of them."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

MOST_NAME_CHARACTERS = 512


class UntrustedFile(Exception):
    """What a job's process has written is no plain file below its folder, or is too large."""


def take_file(root: Path, name: str, target: Path, max_bytes: int) -> int:
    """Make the new file `target` the regular file at `root / name`, without following a link; returns its bytes.

    A hard link where both are on one disk, a copy otherwise. Raises `UntrustedFile`, and `FileNotFoundError` where
    there is none.
    """
    with _folder_of(root, name) as (folder, last):
        # O_NONBLOCK: opening a named pipe would wait for its other end.
        file = _open(last, os.O_RDONLY | os.O_NONBLOCK, folder, name)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            os.close(file)
            raise UntrustedFile(f"{name} is no regular file")
        with os.fdopen(file, "rb") as opened:
            if status.st_size > max_bytes:
                raise UntrustedFile(f"{name} has {status.st_size:,} bytes, more than {max_bytes:,}")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(last, target, src_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                raise UntrustedFile(f"{name} is named twice") from None
            except OSError:
                # Most likely on another disk.
                with target.open("xb") as copy:
                    shutil.copyfileobj(opened, copy)
                return status.st_size
    # Another file may have taken its place before it was linked.
    if not stat.S_ISREG(target.lstat().st_mode) or target.lstat().st_size > max_bytes:
        target.unlink()
        raise UntrustedFile(f"{name} is no regular file")
    return target.lstat().st_size


@contextmanager
def _folder_of(root: Path, name: str) -> Iterator[tuple[int, str]]:
    """An open descriptor of the folder that has the file, and the last part of its name."""
    *folders, last = _parts(name)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for part in folders:
            inner = _open(part, os.O_RDONLY | os.O_DIRECTORY, folder, name)
            os.close(folder)
            folder = inner
        yield folder, last
    finally:
        os.close(folder)


def _open(part: str, flags: int, folder: int, name: str) -> int:
    try:
        return os.open(part, flags | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UntrustedFile(f"{name} cannot be opened as a file below its folder: {error.strerror}") from error


def _parts(name: str) -> tuple[str, ...]:
    parts = PurePosixPath(name).parts
    is_plain = name == "/".join(parts) and name.isprintable() and "\\" not in name
    if not parts or not is_plain or name.startswith("/") or ".." in parts or len(name) > MOST_NAME_CHARACTERS:
        raise UntrustedFile(f"{name[:MOST_NAME_CHARACTERS]!r} is no name of a file below its folder")
    return parts
