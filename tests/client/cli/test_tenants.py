"""`sglp tenants`, against a real API."""

import pytest
from sglp_client import SGLP, SGLPProblem

from tests.client.cli.keyed_service import Service, sglp


def row_of(service: Service, tenant: str) -> list[str]:
    (row,) = [line for line in sglp(service, "tenants", "list").stdout.splitlines() if f" {tenant} " in line]
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_a_tenant_is_made_limited_and_deleted(service: Service) -> None:
    assert sglp(service, "tenants", "create", "vision", "--running-jobs", "2").returncode == 0
    tenant, _, *quotas = row_of(service, "vision")
    assert (tenant, quotas) == ("vision", ["no limit", "2", "no limit", "1", ""])
    limited = sglp(service, "tenants", "limit", "vision", "--stored-bytes", "3000000", "--weight", "2.5")
    assert limited.returncode == 0, limited.stderr
    assert row_of(service, "vision")[2:] == ["no limit", "no limit", "3.0 MB", "2.5", ""]
    key = sglp(service, "keys", "create", "--tenant", "vision", "--name", "x", "--scope", "jobs:read").stdout.strip()
    assert sglp(service, "jobs", SGLP_API_KEY=key).returncode == 0
    deleted = sglp(service, "tenants", "delete", "vision", "--yes")
    left = "0 unfinished jobs, 0 ended jobs, 0 deleted jobs, 0 uploads"
    assert deleted.stdout == f"vision is being deleted by the scheduler; left: {left}\n"
    assert row_of(service, "vision")[-1] == "being deleted"
    assert sglp(service, "jobs", SGLP_API_KEY=key).returncode == 1


def test_no_tenant_is_deleted_by_an_answer_that_is_not_yes(service: Service) -> None:
    sglp(service, "tenants", "create", "kept")
    # There is no terminal, so the question has no answer.
    assert sglp(service, "tenants", "delete", "kept").returncode == 1
    assert row_of(service, "kept")[-1] == ""


def test_the_sdk_says_what_is_wrong_with_a_tenant(service: Service) -> None:
    with SGLP(service[0], api_key=service[1]["SGLP_API_KEY"]) as client:
        assert client.create_tenant("sounds", queued_jobs=3)["quotas"]["queued_jobs"] == 3
        with pytest.raises(SGLPProblem, match="there is a tenant sounds already"):
            client.create_tenant("sounds")
        assert [tenant["name"] for tenant in client.tenants()].count("sounds") == 1
        for tenant in ("operators", "nobody"):
            with pytest.raises(SGLPProblem, match=tenant):
                client.delete_tenant(tenant)
