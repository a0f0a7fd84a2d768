"""Pages that are written by ``docs/generate.py`` say what the code says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from afterburner.cli.bench import Timing
from afterburner.cli.machine import Machine

DOCS = Path(__file__).parents[2] / "docs"
_SPEC = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
assert _SPEC is not None and _SPEC.loader is not None
generate = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(generate)


@pytest.mark.parametrize("path", generate.PAGES, ids=lambda path: path.name)
def test_page_is_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == generate.PAGES[path](), "run `make docs`"


def test_tables_come_from_the_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timing = Timing("mlp", "step", seconds={"stock": [3e-3], "afterburner": [1e-3]},
                    first_seconds={"stock": [2.0], "afterburner": [1.5]},
                    peak_bytes={"stock": [1 << 30], "afterburner": [1 << 29]})
    machine = Machine("A processor", 2, 8.0, "Linux x86_64", "3.11.7", "2.21.0", "3.15.1", "0.1.0")
    result = {"date": "2026-01-01", "machine": machine.to_dict(), "threads": 2, "rounds": 1, "repeats": 5,
              "policy": "float32", "timings": [timing.to_dict()]}
    (tmp_path / "small.json").write_text(json.dumps(result))
    monkeypatch.setattr(generate, "MEASURED", tmp_path)
    page = generate.PAGES[DOCS.parent / "README.md"]()
    assert "| `mlp` (step) | 3 | 1 | **3.00×** | 3.00–3.00 |" in page and "(docs/bench.png)" in page
    page = generate.PAGES[DOCS / "performance.md"]()
    assert "**3.00×** | 3.00–3.00 | 2.0 / 1.5 | 1024 / 512 |" in page and "(bench.png)" in page
