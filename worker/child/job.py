"""One job: make its model and data local, then run the method on them."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from worker.child.local_files import make_local
from worker.child.method import run_method
from worker.child.pipe_reporter import PipeReporter
from worker.sources.access import SourceAccess
from worker.sources.model_files import Sources
from worker.supervision.messages import ChildRequest
from worker.workspace import remove_abandoned, workspace


def run(
    request: ChildRequest, output: Path, reporter: PipeReporter, credentials: Mapping[str, Mapping[str, str]]
) -> None:
    """Write the job's files to `output`. Raises what downloads and the method raise."""
    cache = request.cache / "sources"
    remove_abandoned(cache / "in_use")
    # The job links the cached files it uses into this folder. They stay in the cache as long as the folder exists.
    with workspace(cache / "in_use", "job") as folder:
        reporter.fetched(0, 1)
        access = SourceAccess(credentials, request.redirect_places, request.allowed_networks)
        with closing(Sources(folder, cache / "files", request.limits, access, reporter.fetched)) as sources:
            files = make_local(request, sources, folder, credentials)
        reporter.sources = sources.facts
        run_method(files, request, output, reporter)
