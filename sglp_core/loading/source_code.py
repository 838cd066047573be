"""The code of functions that a user may have written; what they have made is reused only while it is the same."""

import inspect
from collections.abc import Callable
from pathlib import Path


def source_of(function: Callable[..., object]) -> str:
    """The whole file of a function or class, because it uses what lies beside it."""
    try:
        file = inspect.getsourcefile(function)
        if file is not None and Path(file).is_file():
            return Path(file).read_text()
        return inspect.getsource(function)
    except (OSError, TypeError):
        # Typed into an interpreter, or a partial: its address, which only this process has.
        return repr(function)
