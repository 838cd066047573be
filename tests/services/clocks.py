"""Processes whose clock is wrong, by preloading libfaketime."""

import importlib.util
from pathlib import Path

import pytest


def set_clock(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """Processes started from now on have a clock that is `hours` off; durations are not changed."""
    package = importlib.util.find_spec("libfaketime")
    assert package is not None
    assert package.origin is not None
    library = Path(package.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("FAKETIME", f"{hours:+d}h")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
