"""The errors of the SDK and of the `sglp` command."""

from sglp_client.resources import Json


class UserError(Exception):
    """An error that its message explains to the user: `sglp` prints it in one line, without a traceback.

    Every error of this package is one, and so are those of the commands that other packages add to `sglp`.
    """


class SGLPProblem(UserError):
    """The service refused a request: `problem` is its problem+json, `status` the HTTP status."""

    def __init__(self, problem: Json) -> None:
        self.problem = problem
        self.status: int = problem.get("status", 0)
        details = [problem.get("detail") or problem.get("title") or "the request was refused"]
        details += [
            f"{error.get('pointer', error.get('parameter'))}: {error['detail']}"
            for error in problem.get("errors", [])
            # A single mistake is often in the detail already.
            if error["detail"] not in details[0]
        ]
        super().__init__("; ".join(details))


class BadKey(UserError, ValueError):
    """The API key cannot be sent in a header; the message does not repeat it."""


class DownloadDamaged(UserError):
    """A downloaded file is not the one the service published."""


class NothingToDownload(UserError):
    """The job has no artifacts: it has not succeeded, or not yet."""


class NotUploadable(UserError, ValueError):
    """These files are neither a model nor a dataset."""


class JobFailed(UserError):
    """The job ended, but it did not succeed."""
