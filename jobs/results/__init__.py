"""What a job has found, as the database keeps it and the API shows it."""

from jobs.results.by_mode import RESULTS, JobResult, summary_of
from jobs.results.findings import LayerRow, Similarity
from jobs.results.pushed import Pushed, PushedFile

__all__ = ["RESULTS", "JobResult", "LayerRow", "Pushed", "PushedFile", "Similarity", "summary_of"]
