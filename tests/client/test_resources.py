"""The types of the SDK have the fields that the API answers with."""

from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel
from sglp_client import resources

from api.admin.schemas import DeletionView, NewKeyView, QuotasView, TenantView
from api.events.schemas import EventView
from api.jobs.schemas import ArtifactView, JobView, Progress, QueuePlace
from api.uploads.schemas import UploadAddress, UploadFileView, UploadView
from api.webhooks.schemas import DeliveryView, EndpointWithSecret
from jobs.errors import JobError
from jobs.states import State


@pytest.mark.parametrize(
    ("resource", "view"),
    [
        (resources.Job, JobView),
        (resources.QueuePlace, QueuePlace),
        (resources.Progress, Progress),
        (resources.JobError, JobError),
        (resources.Event, EventView),
        (resources.Artifact, ArtifactView),
        (resources.Upload, UploadView),
        (resources.UploadFile, UploadFileView),
        (resources.UploadAddress, UploadAddress),
        (resources.Tenant, TenantView),
        (resources.Quotas, QuotasView),
        (resources.Deletion, DeletionView),
        (resources.ApiKey, NewKeyView),
        (resources.WebhookEndpoint, EndpointWithSecret),
        (resources.WebhookDelivery, DeliveryView),
    ],
)
def test_a_resource_has_the_fields_of_the_answer(resource: Any, view: type[BaseModel]) -> None:
    assert get_type_hints(resource).keys() == view.model_fields.keys() | view.model_computed_fields.keys()


def test_a_job_has_every_status_that_the_service_knows() -> None:
    assert set(resources.JobStatus.__args__) == {state.value for state in State}
