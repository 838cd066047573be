"""A service with keys and a small cap, and two tenants."""

import pytest

from jobs.security.api_keys import Scope
from jobs.settings import Settings
from tests.api.keyed import make_key, with_keys
from tests.api.uploads.declaring import LARGE, TEXT, Key, Sessions

BOTH = (Scope.JOBS_READ, Scope.JOBS_WRITE)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return with_keys(settings).model_copy(update={"upload_limit_bytes": len(LARGE) + len(TEXT)})


@pytest.fixture
def key(sessions: Sessions) -> Key:
    return make_key(sessions, "vision", *BOTH)


@pytest.fixture
def other(sessions: Sessions) -> Key:
    return make_key(sessions, "speech", *BOTH)
