"""Writes the pages that are made from the code, and the tables from measurements: ``make docs``."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
MEASURED = FOLDER / "measured"


def options_page() -> str:
    """Every option, from ``afterburner.options``."""
    from afterburner.options import described

    lines = [
        "# Options", "",
        "Each is an environment variable. In code, `afterburner.set_options(threads=4)` sets the same option",
        "under its lower-case name without the prefix, and `afterburner.options()` tells what is in force.",
        "This page is made by `docs/generate.py`.", "",
        "| variable | default | meaning |", "|---|---|---|",
    ]
    lines += [f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |"
              for name, default, meaning in described()]
    return "\n".join(lines) + "\n"


def operations_page() -> str:
    """Every TensorFlow operation with an import rule, by family."""
    from afterburner.frontend.rules import supported_ops

    families = supported_ops()
    count = sum(len(names) for names in families.values())
    lines = [
        "# Supported operations", "",
        f"The {count} TensorFlow operations that can be compiled, by family. Whether one is taken also",
        "depends on attributes and element types; `afterburner explain` names the reason where not. The",
        "others stay on TensorFlow. This page is made by `docs/generate.py`.",
    ]
    for family, names in families.items():
        lines += ["", f"## {family}", "", ", ".join(f"`{name}`" for name in names)]
    return "\n".join(lines) + "\n"


def measured_page(page: Path) -> str:
    """A page with the tables of all that ``docs/measure.py`` has measured."""
    from afterburner.cli.markdown import filled, summary, table

    costs, prefix = page.parent == FOLDER, "" if page.parent == FOLDER else f"{FOLDER.name}/"
    blocks = {}
    for name, chart in {**CHARTS, **dict.fromkeys(OTHER_MACHINES)}.items():
        if not (MEASURED / f"{name}.json").exists():
            continue
        result = json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8"))
        picture = f"\n![Times of {name}: stock TensorFlow beside Afterburner]({prefix}{chart})\n" if chart else ""
        blocks[name] = f"{summary(result)}\n\n{table(result, costs)}{picture}"
    return filled(page.read_text(encoding="utf-8"), blocks)


CHARTS = {"small": "bench.png", "sequences": "sequences.png", "networks": "networks.png", "inference": "inference.png",
          "mixed_bfloat16": "mixed_bfloat16.png"}
OTHER_MACHINES = (  # measured by hand, without a chart
    "networks_cascade_lake", "networks_zen3", "networks_zen3_onednn", "mixed_bfloat16_zen3", "sequences_zen3",
    "inference_cascade_lake", "inference_zen3", "small_zen5")
PAGES: dict[Path, Callable[[], str]] = {
    FOLDER / "options.md": options_page, FOLDER / "supported-ops.md": operations_page,
    **{page: partial(measured_page, page) for page in (FOLDER.parent / "README.md", FOLDER / "performance.md")}}


def write_all() -> None:
    """Write every page."""
    for path, page in PAGES.items():
        path.write_text(page(), encoding="utf-8")
        print(f"wrote {path.name}")


if __name__ == "__main__":
    write_all()
