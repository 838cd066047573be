"""Tell the supervisor of an exception that ends the process of a job."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from worker.child.error_description import describe
from worker.supervision.messages import ErrorMessage


@contextmanager
def reported(pipe: int) -> Iterator[TextIO]:
    """The pipe for messages; an exception is written to it as an error, and ends the process with status 1."""
    with open(pipe, "w", buffering=1, encoding="utf-8") as lines:
        try:
            yield lines
        except Exception as error:
            traceback.print_exc()
            lines.write(ErrorMessage(error=describe(error)).model_dump_json() + "\n")
            sys.exit(1)
