"""What tests of metrics and probes read is as new as what they did just before."""

import pytest


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.service.shared.FRESH_SECONDS", 0.0)
