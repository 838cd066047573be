"""Which URIs a job may name."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.locations.uris import ForbiddenURI, check_place, check_root, place_of

PLACES = ["s3://bucket/models", "https://host.example/", "gs://"]


@pytest.mark.parametrize(
    "uri",
    [
        "file:///data/../etc/passwd",
        "file:///data/%2e%2e/etc",
        "file:///database",
        "file:///",
        "file:///data/a/../../x",
        "file:////etc",
    ],
)
def test_a_path_outside_the_roots_is_refused(uri: str) -> None:
    with pytest.raises(ForbiddenURI):
        check_root("/model/uri", uri, [Path("/data")])


@pytest.mark.parametrize("uri", ["file:///data", "file:///data/a%20b", "file:///data/a/../b", "hf://org/name"])
def test_a_path_below_a_root_is_allowed(uri: str) -> None:
    check_root("/model/uri", uri, [Path("/data")])


def test_without_roots_no_path_is_allowed() -> None:
    with pytest.raises(ForbiddenURI):
        check_root("/model/uri", "file:///data", [])


@given(st.lists(st.sampled_from(["..", ".", "a", "%2e%2e", "data", "", "%2F.."]), max_size=8))
def test_no_spelling_leads_out(parts: list[str]) -> None:
    uri = "file:///data/" + "/".join(parts)
    try:
        check_root("/model/uri", uri, [Path("/data")])
    except ForbiddenURI:
        return
    assert Path(os.path.realpath(unquote(urlsplit(uri).path))).is_relative_to("/data")


@pytest.mark.parametrize(
    "uri",
    ["s3://bucket/models", "s3://bucket/models/a", "https://host.example/a", "gs://any/a", "file:///a", "hf://a/b"],
)
def test_a_uri_in_a_named_place_is_allowed(uri: str) -> None:
    check_place("/model/uri", uri, PLACES)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/models-of-others",
        "s3://bucket",
        "s3://bucket-of-others/models",
        "https://host.example.org/a",
        "https://host.example:8443/a",
        "az://any/a",
    ],
)
def test_a_uri_in_another_place_is_refused(uri: str) -> None:
    with pytest.raises(ForbiddenURI):
        check_place("/model/uri", uri, PLACES)


def test_the_longest_place_counts() -> None:
    assert place_of("s3://a/b/c", ["s3://a", "s3://a/b", "s3://"]) == "s3://a/b"
    assert place_of("hf://org/name@branch", ["hf://", "hf://org/name"]) == "hf://org/name"
