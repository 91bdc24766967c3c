"""What can go wrong on the way out."""

from __future__ import annotations


class ExportError(RuntimeError):
    """A model that cannot be exported: what was found, what was expected, what to do."""
