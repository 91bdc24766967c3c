"""The command line. Modules here import only what is light; a command loads what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 partly done, 2 nothing done, 130 interrupted.

    arguments: what follows the program's name, `sys.argv[1:]` if None. User errors become one line on stderr;
    with the environment variable CELLBASIN_DEBUG they keep their traceback.

    >>> main(["--version"])  # doctest: +ELLIPSIS
    cellbasin ...
    0
    """
    try:
        from cellbasin.cli.app import run

        return run(arguments)
    except KeyboardInterrupt:  # while all is being loaded
        sys.stderr.write("cellbasin: interrupted\n")
        return 130
