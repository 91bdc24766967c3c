"""What goes wrong with files, in one line each: what was found, what was expected, what to do."""

from __future__ import annotations


class ReadError(ValueError):
    """A file or folder cannot be read whole and right; the message is one line and begins with its path."""


class WriteError(OSError):
    """A file could not be written; whatever was there before is untouched. The message is one line."""
