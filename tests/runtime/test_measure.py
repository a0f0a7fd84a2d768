"""Machine peaks: measured, kept, and read back only where they are whole."""

import stat

import pytest

from afterburner.cpu.isa import host
from afterburner.cpu.peak import machine_peak, measure_peak
from afterburner.runtime.measure import MachinePeak, load_peak, save_peak

PEAK = MachinePeak(flops=4e9, flops_one=2e9, bandwidth=1e9, threads=2)


def test_peaks_are_kept_for_each_machine(tmp_path):
    path = tmp_path / "new" / "peak.json"
    assert load_peak(path, "a") is None
    save_peak(path, "a", PEAK)
    save_peak(path, "b", MachinePeak(1.0, 1.0, 1.0, 1))
    assert load_peak(path, "a") == PEAK and load_peak(path, "c") is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 3}', '{"a": {"flops": "x"}}'])
def test_a_damaged_file_counts_as_absent(tmp_path, text):
    path = tmp_path / "peak.json"
    path.write_text(text)
    assert load_peak(path, "a") is None
    save_peak(path, "a", PEAK)
    assert load_peak(path, "a") == PEAK


def test_a_peak_is_private_and_only_read_where_it_is_ours(tmp_path):
    path = tmp_path / "new" / "er" / "peak.json"
    save_peak(path, "a", PEAK)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path.parent.parent, path.parent, path)] == [0o700, 0o700, 0o600]
    path.chmod(0o666)
    assert load_peak(path, "a") is None
    save_peak(path, "b", PEAK)
    assert load_peak(path, "a") is None and load_peak(path, "b") == PEAK
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert load_peak(path, "b") is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    save_peak(tmp_path / "file" / "peak.json", "a", PEAK)


def test_the_fraction_is_of_the_peak_that_binds():
    assert PEAK.fraction(2_000_000_000, 0, 1.0) == 0.5
    assert PEAK.fraction(1, 1_000_000_000, 2.0) == 0.5
    assert PEAK.fraction(1, 1, 0.0) == 0.0


@pytest.mark.parametrize("name", [None, "generic"])
def test_measured_peaks_are_plausible(name):
    peak = measure_peak(2, host(name))
    assert 1e8 < peak.flops_one < 1e13 and 1e8 < peak.bandwidth < 1e13
    assert 1e8 < peak.flops < 1e14 and peak.threads == 2


def test_a_kept_peak_is_not_measured_again(tmp_path):
    assert machine_peak(tmp_path, 1) == machine_peak(tmp_path, 1)
