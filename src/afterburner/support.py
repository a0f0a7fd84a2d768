"""Which releases this one is made for."""

from __future__ import annotations

Span = tuple[tuple[int, int], tuple[int, int]]

TENSORFLOW: Span = ((2, 18), (2, 21))  # first and last minor release
PYTHON: Span = ((3, 10), (3, 13))


def is_supported(version: str, span: Span) -> bool:
    """Whether a version such as ``2.21.0`` lies in a span of minor releases."""
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError:
        return False
    return span[0] <= (major, minor) <= span[1]


def text(span: Span) -> str:
    """``2.18–2.21`` from ((2, 18), (2, 21))."""
    return "–".join(".".join(map(str, release)) for release in span)
