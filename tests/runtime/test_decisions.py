"""Decisions outlive a process, and nothing that is wrong with their files is believed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from afterburner.runtime.cache import ObjectCache
from afterburner.runtime.decisions import LIMIT_BYTES, Decision, Decisions

WHO = ("cpu", "TensorFlow")
MADE = Decision("TensorFlow", {"cpu": 2.0, "TensorFlow": 1.0}, 6)


def _decisions(folder: Path) -> Decisions:
    return Decisions(ObjectCache(folder / "decisions", LIMIT_BYTES))


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    assert not _decisions(tmp_path).any() and _decisions(tmp_path).get("graph", WHO) is None
    _decisions(tmp_path).put("graph", WHO, MADE)
    found = _decisions(tmp_path)
    assert found.any() and found.get("graph", WHO) == MADE
    (file,) = (tmp_path / "decisions").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_another_graph_machine_or_candidate_is_another_question(tmp_path: Path) -> None:
    decisions = _decisions(tmp_path)
    decisions.put("graph", WHO, MADE)
    assert decisions.get("graph on another machine", WHO) is None
    assert decisions.get("graph", ("cpu", "gpu", "TensorFlow")) is None


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:-1], lambda raw: raw.replace(b"1.0", b"9.0")])
def test_a_damaged_file_counts_as_none(tmp_path: Path, damage) -> None:
    decisions = _decisions(tmp_path)
    decisions.put("graph", WHO, MADE)
    (file,) = (tmp_path / "decisions").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert decisions.get("graph", WHO) is None


@pytest.mark.parametrize("change", [
    {"chosen": "gpu"}, {"chosen": None}, {"seconds": 3}, {"seconds": {"cpu": "soon"}}, {"seconds": {"cpu": -1.0}},
    {"steps": "many"},
])
def test_what_makes_no_sense_counts_as_none(tmp_path: Path, change: dict[str, object]) -> None:
    cache = ObjectCache(tmp_path / "decisions", LIMIT_BYTES)
    kept = {"chosen": "cpu", "seconds": {"cpu": 1.0}, "steps": 6}
    key = hashlib.sha256("\n".join((*WHO, "graph")).encode()).hexdigest()
    cache.put(key, json.dumps(kept).encode())
    assert Decisions(cache).get("graph", WHO) == Decision("cpu", {"cpu": 1.0}, 6)
    cache.put(key, json.dumps(kept | change).encode())
    assert Decisions(cache).get("graph", WHO) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "decisions").write_text("a file stands here")
    decisions = _decisions(tmp_path)
    decisions.put("graph", WHO, MADE)
    assert not decisions.any() and decisions.get("graph", WHO) is None
