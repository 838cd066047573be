"""Which places a result may be pushed to."""

import json

import pytest
from pydantic import ValidationError

from jobs.locations.destinations import Destination, destination_of
from jobs.locations.uris import ForbiddenURI
from jobs.settings import Settings
from jobs.spec import JobSpec

SPEC = {"model": {"uri": "hf://org/name"}, "target": {"kind": "layers", "ratio": 0.25}}
OURS = Destination(prefix="s3://results/ours/", tenants=("vision",))
ALL = Destination(prefix="file:///results")
HUB = [
    Destination(prefix="hf://team", options={"token": "hub-token"}),
    Destination(prefix="hf://others/one", options={"token": "hub-token"}),
]


def allowed(uri: str, tenant: str = "vision") -> bool:
    try:
        destination_of("/output/uri", uri, (OURS, ALL, *HUB), tenant)
    except ForbiddenURI:
        return False
    return True


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://results/ours", True),
        ("s3://results/ours/a/b", True),
        ("s3://results/ours-not", False),
        ("s3://results", False),
        ("s3://results/our%73/a", True),
        ("s3://results-too/ours/a", False),
        ("gs://results/ours/a", False),
        ("file:///results/a", True),
        ("file:///result", False),
        ("file:///etc", False),
        ("hf://team/small", True),
        ("hf://team-too/small", False),
        ("hf://others/one", True),
        ("hf://others/one-too", False),
    ],
)
def test_only_what_lies_below_a_prefix_may_be_written(uri: str, expected: bool) -> None:
    assert allowed(uri) is expected


def test_a_destination_may_be_one_tenants_own() -> None:
    assert allowed("s3://results/ours/a", "vision")
    assert not allowed("s3://results/ours/a", "speech")
    assert allowed("file:///results/a", "speech")


NESTED = [
    Destination(prefix="s3://results"),
    Destination(prefix="s3://results/vision/", tenants=("vision",)),
    Destination(prefix="s3://results/vision/shared", tenants=("speech",), options={"region": "one"}),
    Destination(prefix="s3://results/vision/shared/", tenants=("vision",), options={"region": "two"}),
    Destination(prefix="hf://team", options={"token": "hub-token"}),
    Destination(prefix="hf://team/one", options={"token": "hub-token"}, tenants=("vision",)),
]


@pytest.mark.parametrize("places", [NESTED, NESTED[::-1]])
@pytest.mark.parametrize(
    ("tenant", "uri", "expected"),
    [
        ("other", "s3://results/a", NESTED[0]),
        ("vision", "s3://results/a", NESTED[0]),
        ("other", "s3://results/vision-too/a", NESTED[0]),
        ("vision", "s3://results/vision/a", NESTED[1]),
        ("other", "s3://results/vision/a", None),
        ("other", "s3://results/vision", None),
        ("other", "s3://results/%76ision/a", None),
        ("speech", "s3://results/vision/a", None),
        ("speech", "s3://results/vision/shared/a", NESTED[2]),
        ("vision", "s3://results/vision/shared/a", NESTED[3]),
        ("other", "s3://results/vision/shared/a", None),
        # What is written there lies in names below it.
        ("other", "s3://results", None),
        ("vision", "s3://results/vision", NESTED[1]),
        ("vision", "hf://team/one", NESTED[5]),
        ("other", "hf://team/one", None),
        ("other", "hf://team/two", NESTED[4]),
    ],
)
def test_the_longest_prefix_decides_whatever_the_order(
    places: list[Destination], tenant: str, uri: str, expected: Destination | None
) -> None:
    if expected is None:
        with pytest.raises(ForbiddenURI):
            destination_of("/output/uri", uri, places, tenant)
    else:
        assert destination_of("/output/uri", uri, places, tenant) is expected


@pytest.mark.parametrize(
    "uri",
    ["s3://", "s3:///a", "http://host/a", "hf://org", "hf://org/name/a", "hf://org/name@v1", "hf://org/..",
     "hf://a b/c", "s3://user:secret@bucket/a", "s3://b/a?x", "s3://b/../a",
     "s3://b/%2e%2e/a", "s3://b/a//b", "file://host/a", "file:///a/./b", "s3://b/a%0ab"],
)  # fmt: skip
def test_a_place_of_another_form_is_refused(uri: str) -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({**SPEC, "output": {"uri": uri}})
    assert caught.value.errors()[0]["loc"] == ("output", "uri")


def test_destinations_come_from_the_environment_and_hide_their_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    value = [{"prefix": "s3://results", "options": {"secret_access_key": "canary"}}]
    monkeypatch.setenv("SGLP_OUTPUT_DESTINATIONS", json.dumps(value))
    settings = Settings()
    assert settings.output_destinations[0].options == {"secret_access_key": "canary"}
    assert "canary" not in f"{settings!r}{settings.output_destinations!r}"


@pytest.mark.parametrize(
    ("prefix", "options"),
    [("hf://team", {}), ("hf://team", {"token": "canary", "region": "a"}), ("hf://", {"token": "canary"}),
     ("hf://team/one/two", {"token": "canary"}), ("hf://team/one@v1", {"token": "canary"})],
)  # fmt: skip
def test_a_hub_needs_its_token_and_names(prefix: str, options: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Destination(prefix=prefix, options=options)
    assert "canary" not in str(caught.value)
