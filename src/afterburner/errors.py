"""Errors of ours that a user may see. Each says what to do next."""

from __future__ import annotations


class AfterburnerError(Exception):
    """Base of all our errors."""


class NotTaken(AfterburnerError):
    """A TensorFlow operation, or a whole graph, that stays on TensorFlow, and why."""


class StrictError(AfterburnerError):
    """Raised under ``AFTERBURNER_STRICT=1`` where a graph would have fallen back to TensorFlow."""
