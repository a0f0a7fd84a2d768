"""Frontend tests run over the interpreter and over compiled code."""

import pytest

from tests.frontend import kit


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Once where nothing is captured by the kit, which alone asks for the target."""
    if "target" in metafunc.fixturenames:
        through_kit = {"kit", "captured"} & vars(metafunc.module).keys()
        metafunc.parametrize("target", ["interpreter", "cpu"] if through_kit else ["cpu"], indirect=True)


@pytest.fixture(autouse=True)
def target(request, monkeypatch):
    monkeypatch.setattr(kit, "TARGET", request.param)
    return request.param
