"""What goes wrong with files that are read, in one line: what was found, what was expected, what to do."""

from __future__ import annotations


class ReadError(ValueError):
    """A file or folder cannot be read whole and right; the message is one line and begins with its path."""
