"""What all commands of `sglp` share: where the service is, and how a failure is told."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import httpx
import typer
from rich.console import Console

from sglp_client.cli.progress import JobFailed
from sglp_client.cli.send_files import NotUploadable
from sglp_client.sdk import BadKey, DownloadDamaged, NothingToDownload, SGLPProblem
from sglp_service.demo import ModelMissing
from sglp_service.embedded_stack import StackFailed

Url = Annotated[str, typer.Option(envvar="SGLP_URL", help="Where the service answers.")]
HERE = "http://127.0.0.1:8000"


@contextmanager
def told_plainly() -> Iterator[None]:
    """What a user can cause or meet ends as one plain message; 130 is the status after Ctrl-C, 143 after SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A script starts its background programs with SIGINT ignored, and they would not notice being interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None
    except (
        SGLPProblem,
        BadKey,
        DownloadDamaged,
        NothingToDownload,
        JobFailed,
        StackFailed,
        ModelMissing,
        NotUploadable,
    ) as error:
        message = str(error)
        if isinstance(error, SGLPProblem) and error.status == httpx.codes.UNAUTHORIZED:
            message += "; `sglp` sends what SGLP_API_KEY or --api-key says"
    except httpx.TransportError as error:
        message = f"the service does not answer ({error}); is it running? Start it with: sglp up"
    except httpx.HTTPStatusError as error:
        message = f"the service answered {error.response.status_code}, and not in its own words; is a proxy in between?"
    else:
        return
    Console(stderr=True).print("failed:", message, soft_wrap=True, markup=False, highlight=False)
    raise typer.Exit(1)
