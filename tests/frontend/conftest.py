"""Every frontend test runs over the interpreter and over compiled code."""

import pytest

from tests.frontend import kit


@pytest.fixture(params=["interpreter", "cpu"], autouse=True)
def target(request, monkeypatch):
    monkeypatch.setattr(kit, "TARGET", request.param)
    return request.param
