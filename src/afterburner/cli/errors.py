"""What a user got wrong, said in one line."""

from __future__ import annotations

from afterburner.errors import AfterburnerError


class CommandError(AfterburnerError):
    """Bad input to a command: printed as one line on stderr, exit status ``status``."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status
