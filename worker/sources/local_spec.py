"""The specification of a job whose model may be an upload that was copied to its folder."""

from jobs.spec import JobSpec, ModelSource


class LocalModel(ModelSource):
    """As `ModelSource`, but `uri` may also be a path relative to the job's folder."""

    uri: str


class LocalSpec(JobSpec):
    """A job's specification in which the path of its copy replaces the URI of a model that is an upload."""

    model: LocalModel
