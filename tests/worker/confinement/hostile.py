"""What code in a job's process might try: `python -m tests.worker.confinement.hostile FOLDER USER`.

This process stands for the worker. It becomes the user, makes itself not dumpable, and forks twice: one process tries
everything as it is, the other one after `confine`. Printed are two JSON objects, the confined one's first: what each
attempt came to, true where it succeeded.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyprctl

from worker.confinement import Access, confine, weaknesses

LIBC = ctypes.CDLL(None, use_errno=True)
IO_URING_SETUP = 425
IPC_PRIVATE = 0
PTRACE_ATTACH, PTRACE_DETACH = 16, 17


def attempts(folder: Path, worker: int, port: int) -> dict[str, Callable[[], object]]:
    """By name; each raises `OSError` where it is kept from its end. `worker` is a process, `port` a listening one."""
    other, output, model = folder / "other", folder / "job" / "output", folder / "model" / "weights"
    return {
        "read the worker's environment": (Path(f"/proc/{worker}") / "environ").read_bytes,
        "read the worker's memory": (Path(f"/proc/{worker}") / "maps").read_bytes,
        "trace the worker": lambda: trace(worker),
        "signal the worker": lambda: os.kill(worker, 0),
        "find the worker's files": (Path(f"/proc/{worker}") / "cwd").readlink,
        "connect by TCP": lambda: socket.create_connection(("127.0.0.1", port)).close(),
        "listen": lambda: socket.create_server(("127.0.0.1", 0)).close(),
        "send by UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("127.0.0.1", port)),
        "send by a pair": lambda: close(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)),
        "connect to a socket file": lambda: connect(str(folder / "socket")),
        "connect to an abstract socket": lambda: connect(f"\0{folder}"),
        "set up an io_uring": lambda: checked(LIBC.syscall(IO_URING_SETUP, 1, ctypes.create_string_buffer(120))),
        "share memory": lambda: checked(LIBC.shmget(IPC_PRIVATE, 4096, 0o1600)),
        "read another job": (other / "secret").read_bytes,
        "list another job": lambda: list(other.iterdir()),
        "write to another job": lambda: (other / "mine").write_text(""),
        "read a file of the system": Path("/etc/hostname").read_bytes,
        "list temporary files": lambda: list(Path("/tmp").iterdir()),
        "write to the model": lambda: model.open("ab").close(),
        "shorten the model": lambda: os.truncate(model, 0),
        "remove the model": lambda: model.rename(folder / "model" / "gone"),
        "change the model's mode": lambda: (folder / "model").chmod(0o755),
        "take the model along": lambda: (output / "model").hardlink_to(folder / "model" / "taken"),
        "link to another job": lambda: (output / "link").symlink_to(other / "secret"),
        "make a named pipe": lambda: os.mkfifo(output / "pipe"),
        "write beside its output": lambda: (folder / "job" / "request.json").write_text(""),
        "leave its process group": os.setsid,
    }


def usual(folder: Path) -> dict[str, Callable[[], object]]:
    """What a job must be able to do."""
    output = folder / "job" / "output"
    return {
        "read the model": (folder / "model" / "weights").read_bytes,
        "write a file": lambda: (output / "file").write_text("text"),
        "rename a file": lambda: (output / "file").rename(output / "renamed"),
        "remove a folder": lambda: ((output / "inner").mkdir(), (output / "inner").rmdir()),
        "lock a file": lambda: fcntl.flock((output / "lock").open("w"), fcntl.LOCK_EX),
        "connect two processes": lambda: close(socket.socketpair()),
        "read its own memory map": Path("/proc/self/maps").read_bytes,
        "start a program": lambda: checked(-os.waitstatus_to_exitcode(os.waitpid(start("/bin/true"), 0)[1])),
    }


def checked(returned: int) -> None:
    if returned < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def start(program: str) -> int:
    return os.posix_spawn(program, [program], {})


def trace(process: int) -> None:
    checked(LIBC.ptrace(PTRACE_ATTACH, process, None, None))
    os.waitpid(process, 0)
    checked(LIBC.ptrace(PTRACE_DETACH, process, None, None))


def close(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in pair:
        end.close()


def connect(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(address)


def outcomes(tried: dict[str, Callable[[], object]]) -> dict[str, bool]:
    succeeded = {}
    for name, attempt in tried.items():
        try:
            attempt()
        except OSError:
            succeeded[name] = False
        else:
            succeeded[name] = True
    return succeeded


def main(folder: Path, user: int) -> None:
    """Try it all, confined first."""
    # All modules are loaded now: the user may not be allowed to read this Python.
    assert not weaknesses()
    "".encode("idna")
    os.setgid(user)
    os.setuid(user)
    servers = [socket.create_server(("127.0.0.1", 0))]
    for address in (str(folder / "socket"), f"\0{folder}"):
        servers.append(socket.socket(socket.AF_UNIX))
        servers[-1].bind(address)
        servers[-1].listen()
    port, worker = servers[0].getsockname()[1], os.getpid()
    for is_confined in (True, False):
        # As it was before: a worker that can be read.
        pyprctl.set_dumpable(not is_confined)
        sys.stdout.flush()
        if not (child := os.fork()):
            with suppress(AttributeError):
                signal.alarm(30)
            if is_confined:
                job = folder / "job"
                confine(Access([job, folder / "model"], [job / "output"]))
            print(json.dumps(outcomes(usual(folder)) | outcomes(attempts(folder, worker, port))), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
