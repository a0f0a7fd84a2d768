"""Errors of TensorFlow's from pieces of a function, told as it tells those of the whole: with the user's lines."""

from __future__ import annotations

import traceback
from collections.abc import Mapping

import tensorflow as tf
from tensorflow.python.framework import error_interpolation

from .flatten import FlatOp, users_frames


def tell_where(error: tf.errors.OpError, places: Mapping[str, FlatOp]) -> None:
    """Put into an error's message where the program made the operations that it names.

    Args:
        error: of a piece; told once only.
        places: the piece's operations, by the names that they have in it.
    """
    text = error.message if isinstance(error.message, str) else error.message.decode(errors="replace")
    if text.startswith("Graph execution error:"):
        return
    message, _, nodes = error_interpolation.parse_message(text)
    found = [places[node.name] for node in nodes if node.name in places]
    if not found and len(places) == 1:
        found = list(places.values())
    lines = ["Graph execution error:", ""]
    for op in found:
        frames = traceback.format_list(users_frames(op.source))
        lines += [f"Detected at node {op.source.name} defined at (most recent call last):", *frames]
    if found:
        error._message = "\n".join([*lines, message.strip()])  # noqa: SLF001 - as TensorFlow's own wrapper does
