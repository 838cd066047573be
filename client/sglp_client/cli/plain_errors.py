"""How every command of `sglp` ends: an error that a user can cause or meet is one message, without a traceback."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import typer
from rich.console import Console

from sglp_client.errors import SGLPProblem, UserError


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print such an error to standard error and exit with status 1; with 130 after Ctrl-C, with 143 after SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A script starts its background programs with SIGINT ignored, and they could not be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None
    except UserError as error:
        message = str(error)
        if isinstance(error, SGLPProblem) and error.status == httpx.codes.UNAUTHORIZED:
            message += "; `sglp` sends the key of SGLP_API_KEY or --api-key"
    except httpx.TransportError as error:
        message = f"the service does not answer ({error}); is it running? Start it with: sglp up"
    except httpx.HTTPStatusError as error:
        message = (
            f"the answer {error.response.status_code} does not come from the service; is there a proxy in between?"
        )
    else:
        return
    Console(stderr=True).print("failed:", message, soft_wrap=True, markup=False, highlight=False)
    raise typer.Exit(1)
