"""Frontend tests run over the interpreter and over compiled code."""

import pytest

from tests.frontend import kit


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Over compiled code alone where nothing is captured by the kit, which alone asks for the target, and in modules
    that say ``ONE_TARGET``: where nothing depends on who computes."""
    if "target" in metafunc.fixturenames:
        both = {"kit", "captured"} & vars(metafunc.module).keys() and not hasattr(metafunc.module, "ONE_TARGET")
        metafunc.parametrize("target", ["interpreter", "cpu"] if both else ["cpu"], indirect=True)


@pytest.fixture(autouse=True)
def target(request, monkeypatch):
    monkeypatch.setattr(kit, "TARGET", request.param)
    return request.param
