"""Errors of TensorFlow's from pieces of a function, told as it tells those of the whole: with the user's lines."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Iterable, Mapping

import tensorflow as tf
from tensorflow.python.framework import error_interpolation

from .flatten import FlatOp, called_functions


def tell_where(error: tf.errors.OpError, places: Mapping[str, FlatOp]) -> None:
    """Put into an error's message where the program made the operations that it names.

    Args:
        error: of a piece; told once only.
        places: the piece's operations, by the names that they have in it.
    """
    text = error.message if isinstance(error.message, str) else error.message.decode(errors="replace")
    if text.startswith("Graph execution error:"):
        return
    message, functions, nodes = error_interpolation.parse_message(text)
    sources = {name: op.source for name, op in places.items()}
    called = {function.name for function in functions}
    named = {node.name: sources.get(node.name) or _inside(sources.values(), node.name, called) for node in nodes}
    found = {name: op for name, op in named.items() if op is not None}
    if not found and len(places) == 1:
        found = sources
    lines = ["Graph execution error:", ""]
    for name, op in found.items():
        lines += [f"Detected at node {op.name} defined at (most recent call last):", *_frames(op)]
        message = message.replace(f"{{{{node {name}}}}}", f"{{{{node {op.name}}}}}")
    if found:
        error._message = "\n".join([*lines, message.strip()])  # noqa: SLF001 - as TensorFlow's own wrapper does


def _frames(op: tf.Operation) -> list[str]:
    """Where an operation was made, as TensorFlow tells it."""
    frames = op.traceback.get_user_frames() if op.traceback else []
    return traceback.format_list(frames) or ["<stack traces unavailable>"]


def _inside(ops: Iterable[tf.Operation], name: str, called: Collection[str]) -> tf.Operation | None:
    """The operation of a name in one of the functions, of those called, that these operations run."""
    for function in (function for op in ops for function in called_functions(op)):
        inner = {op.name: op for op in function.graph.get_operations()}
        if name in inner and _text(function.name) in called:
            return inner[name]
        found = _inside(inner.values(), name, called)
        if found is not None:
            return found
    return None


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode()
