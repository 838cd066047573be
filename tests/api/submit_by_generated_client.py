"""A program that uses the client generated from the OpenAPI document; `test_generated_client.py` type-checks and runs
it. It submits a job, cancels it, and prints its id, its ratio and its events.
"""

import sys

from generated_client import AuthenticatedClient
from generated_client.api.jobs import cancel_job, create_job, get_job, list_events
from generated_client.models import EventPage, JobSpec, JobView, ModelSource, RatioTargetSpec, RatioTargetSpecKind


def main(address: str, key: str) -> None:
    """Use the service at this address with an API key."""
    target = RatioTargetSpec(kind=RatioTargetSpecKind.PARAMETERS, ratio=0.25)
    with AuthenticatedClient(address, token=key) as client:
        submitted = create_job.sync(client=client, body=JobSpec(ModelSource("hf://org/name"), target=target))
        assert isinstance(submitted, JobView)
        cancel_job.sync(submitted.id, client=client)
        job = get_job.sync(submitted.id, client=client)
        assert isinstance(job, JobView)
        assert isinstance(job.spec.target, RatioTargetSpec)
        events = list_events.sync(job.id, client=client)
        assert isinstance(events, EventPage)
        print(job.id, job.spec.target.ratio, *(event.type_ for event in events.data))


if __name__ == "__main__":
    main(*sys.argv[1:])
