"""The paused cycle collector comes back, whatever happens inside."""

import gc

import pytest

from afterburner.runtime.collector import paused_collector


def test_pauses_and_resumes_even_after_an_error():
    assert gc.isenabled()
    with pytest.raises(ValueError), paused_collector():
        with paused_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with paused_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
