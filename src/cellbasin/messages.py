"""Messages for people take one line."""

from __future__ import annotations


def one_line(error: BaseException | str, longest: int | None = None) -> str:
    """The text of an error without line breaks, cut off after so many characters; its type where it has none.

    >>> one_line(ValueError("found 3 axes;\\n  expected 2")), one_line(KeyboardInterrupt())
    ('found 3 axes; expected 2', 'KeyboardInterrupt')
    """
    return " ".join(str(error).split())[:longest] or type(error).__name__
