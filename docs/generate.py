"""Writes the pages that are made from the code: ``make docs``."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


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


PAGES = {"options.md": options_page, "supported-ops.md": operations_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
        print(f"wrote {name}")
