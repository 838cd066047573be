"""Confine the process of a job: Landlock for files, TCP and signals, seccomp for sockets and other ways out.

Both hold for the thread that asks for them and for all that it starts later. What they keep out, and what they do not:
docs/operate/threat-model.md.
"""

import errno
import importlib.util
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyprctl
from py_landlock import AccessFs, Landlock, LandlockError, get_abi_version

# The first one that keeps signals from processes outside; Linux 6.12.
FULL_ABI = 6
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/proc", "/sys")
# No other file of /etc: there may be keys among them.
SYSTEM_FILES = (
    "/etc/alternatives", "/etc/debian_version", "/etc/fonts", "/etc/group", "/etc/ld.so.cache", "/etc/ld.so.conf.d",
    "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/os-release", "/etc/passwd",
    "/etc/ssl/openssl.cnf", "/etc/timezone", "/etc/OpenCL", "/etc/vulkan",
)  # fmt: skip
DEVICES = (
    "null", "zero", "full", "random", "urandom",
    "nvidia*", "nvidia-caps/*", "kfd", "dri/*",
)  # fmt: skip
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
PACKAGES = ("api", "jobs", "migrations", "sglp_core", "sglp_client", "sglp_service", "worker")
READ = AccessFs.READ_FILE | AccessFs.READ_DIR
RUN = READ | AccessFs.EXECUTE
USE_DEVICE = AccessFs.READ_FILE | AccessFs.WRITE_FILE | AccessFs.IOCTL_DEV
# No links by name: the supervisor follows none, but others may. No devices, sockets and pipes by name either.
WRITE = (
    RUN | AccessFs.WRITE_FILE | AccessFs.TRUNCATE | AccessFs.MAKE_REG | AccessFs.MAKE_DIR
    | AccessFs.REMOVE_FILE | AccessFs.REMOVE_DIR | AccessFs.REFER
)  # fmt: skip
OF_FILES = AccessFs.EXECUTE | AccessFs.READ_FILE | AccessFs.WRITE_FILE | AccessFs.TRUNCATE | AccessFs.IOCTL_DEV
DENIED_CALLS = (
    # Sockets. io_uring opens them, too, and no filter sees it.
    "socket", "connect", "bind", "listen", "accept", "accept4", "io_uring_setup", "io_uring_enter", "io_uring_register",
    # Other processes. A new session or process group would outlive the job.
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "pidfd_send_signal", "kcmp",
    "setsid", "setpgid", "shmget", "msgget", "semget", "mq_open",
    # Files by other means than their names, and changes that Landlock does not know.
    "open_by_handle_at", "name_to_handle_at", "chroot", "pivot_root", "mount", "umount2", "move_mount", "open_tree",
    "fsopen", "fsmount", "unshare", "setns", "quotactl", "acct", "swapon", "swapoff",
    "chmod", "fchmod", "fchmodat", "chown", "lchown", "fchown", "fchownat", "setxattr", "lsetxattr", "fsetxattr",
    "removexattr", "lremovexattr", "fremovexattr",
    # The kernel itself.
    "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "kexec_load", "kexec_file_load",
    "init_module", "finit_module", "delete_module", "reboot", "syslog", "settimeofday", "clock_settime", "adjtimex",
    "clock_adjtime", "sethostname", "setdomainname",
)  # fmt: skip
# A pair of datagram sockets could send to any other one.
DENIED_PAIRS = (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET)
TYPE_MASK = 0xF


@dataclass(frozen=True)
class Access:
    """The files that a confined process may use beside the system's and Python's own: folders or single files."""

    readable: Sequence[Path]
    writable: Sequence[Path]


def weaknesses() -> list[str]:
    """What this machine cannot keep a job from, a sentence each; empty where confinement is complete."""
    found = []
    abi = _landlock_abi()
    if abi == 0:
        found.append("jobs may read all files of the worker: its kernel has no Landlock")
    elif abi < FULL_ABI:
        found.append(f"jobs may send signals: the kernel's Landlock has version {abi} of {FULL_ABI}")
    if not _has_seccomp():
        found.append("jobs may open sockets: the library libseccomp is missing")
    return found


def confine(access: Access) -> None:
    """Confine this thread, and what it starts from now on, as far as the machine can; root loses its capabilities."""
    # With `no_new_privs`, which both of the others set, starting a program does not bring them back.
    pyprctl.CapState().set_current()
    if _landlock_abi():
        ruleset = Landlock(strict=False)
        paths_by_rights: tuple[tuple[Iterable[str | Path], AccessFs], ...] = (
            ((*SYSTEM, *_python()), RUN),
            ((*SYSTEM_FILES, *access.readable), READ),
            (access.writable, WRITE),
            ([path for pattern in DEVICES for path in Path("/dev").glob(pattern)], USE_DEVICE),
        )
        for paths, rights in paths_by_rights:
            for path in map(Path, paths):
                # Not `Path.exists`, which raises for a folder that this user may not enter.
                if os.path.exists(path):  # noqa: PTH110
                    # The kernel takes no rights of folders for a file.
                    ruleset.add_path_rule(path, access=rights if path.is_dir() else rights & OF_FILES)
        ruleset.apply()
    if _has_seccomp():
        _deny_calls()


def _landlock_abi() -> int:
    try:
        return get_abi_version()
    except LandlockError:
        return 0


def _has_seccomp() -> bool:
    try:
        import pyseccomp  # noqa: F401 - loads the library
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def _deny_calls() -> None:
    import pyseccomp

    deny = pyseccomp.ERRNO(errno.EPERM)
    calls = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in DENIED_CALLS:
        calls.add_rule(deny, name)
    for kind in DENIED_PAIRS:
        calls.add_rule(deny, "socketpair", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, TYPE_MASK, kind))
    calls.load()


def _python() -> Iterator[str]:
    """The folders of the interpreter and of what is installed; of a checkout only the packages, not what is beside."""
    yield from {sys.prefix, sys.base_prefix}
    yield from (entry for entry in sys.path if Path(entry).name in PACKAGE_FOLDERS)
    # Looked up without importing them.
    for spec in filter(None, map(importlib.util.find_spec, PACKAGES)):
        yield from spec.submodule_search_locations or ()
    yield from filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
