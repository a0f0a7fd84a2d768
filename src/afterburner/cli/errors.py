"""What a user got wrong, said in one line."""

from __future__ import annotations

from pathlib import Path

from afterburner.errors import AfterburnerError


class CommandError(AfterburnerError):
    """Bad input to a command: printed as one line on stderr, exit status ``status``."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def require_writable(name: str) -> None:
    """Fail before minutes of work if a file cannot be written; one that was not there is not left behind.

    Raises:
        CommandError: it cannot.
    """
    file = Path(name)
    try:
        is_new = not file.exists()
        file.open("a").close()
        if is_new:
            file.unlink()
    except OSError as error:
        raise unwritable(name, error) from None


def unwritable(name: str, error: OSError) -> CommandError:
    """That a file for results cannot be written."""
    return CommandError(f"can't write {name!r}: {error.strerror}; give a file that can be written")
