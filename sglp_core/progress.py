"""What is told while it happens, and the short ways of telling it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of the running phase."""

    phase: str
    done: int
    total: int
    unit: str


class Observer(Protocol):
    """Told what happens while it happens."""

    def progress(self, progress: Progress) -> None: ...
    def resolved(self, facts: dict[str, Any]) -> None: ...
    def planned(self, plan: dict[str, Any]) -> None: ...


class Silent:
    """Tells nobody."""

    def progress(self, progress: Progress) -> None: ...
    def resolved(self, facts: dict[str, Any]) -> None: ...
    def planned(self, plan: dict[str, Any]) -> None: ...


def reporter(observer: Observer, phase: str) -> Callable[[int, int, str], None]:
    """Tells how many of how many units of a phase are done."""
    return lambda done, total, unit: observer.progress(Progress(phase, done, total, unit))


def counter(observer: Observer, phase: str, total: int, unit: str) -> Callable[[], None]:
    """Counts up to `total` at every call."""
    done = iter(range(total + 1))

    def tell() -> None:
        observer.progress(Progress(phase, next(done), total, unit))

    tell()
    return tell


@contextmanager
def phase(observer: Observer, name: str) -> Iterator[None]:
    """A phase of one step."""
    observer.progress(Progress(name, 0, 1, "steps"))
    yield
    observer.progress(Progress(name, 1, 1, "steps"))
