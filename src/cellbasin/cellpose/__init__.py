"""Cellpose's command line, done by cellbasin: `python -m cellbasin.cellpose` and `cellbasin-cellpose`.

It takes the flags that TrackMate, QuPath, CellProfiler and older scripts send, writes the files that they read, and
prints the lines that they look for (docs/cellpose.md).
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from cellbasin.cli.console import (
    DONE,
    INTERRUPTED,
    NOTHING,
    USER_ERRORS,
    CommandError,
    debugging,
    say,
    terminable,
    told,
)


def console_main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 partly done, 2 nothing done, 130 interrupted.

    arguments: what follows the program's name, `sys.argv[1:]` if None. Errors are one line on stderr.

    >>> console_main(["--version"])  # doctest: +ELLIPSIS
    cellbasin ...
    0
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with terminable():
            return _follow(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        _warn("interrupted")
        return INTERRUPTED
    except SystemExit as end:  # --help, or asked to end
        return int(end.code or 0)
    except (CommandError, RuntimeError, *USER_ERRORS) as error:
        if debugging():
            raise
        _warn(f"error: {told(error)}")
        return NOTHING


def _follow(arguments: list[str]) -> int:
    from cellbasin.cellpose.arguments import parse, without_effect

    given = parse(_without_interpreter(arguments))
    if given.version:
        from cellbasin.version import VERSION

        say(f"cellbasin {VERSION}, in the place of Cellpose 3")
        return DONE
    for line in without_effect(given):
        _warn(line)
    if given.add_model:
        from cellbasin.cli.models import add

        return add(given.add_model)
    if not given.dir and not given.image_path:
        raise CommandError(
            "found neither --dir nor --image_path, expected one of them: there is no window here; "
            "see 'cellbasin-cellpose --help'"
        )
    return _train_or_segment(given)


def _without_interpreter(arguments: list[str]) -> list[str]:
    """The flags alone, where a program takes this command for a Python (QuPath: -Xutf8 -W ignore -m cellpose ...).

    >>> _without_interpreter(["-W", "ignore", "-m", "cellpose", "--dir", "x"])
    ['--dir', 'x']
    """
    for place in range(min(len(arguments) - 1, 8)):
        if arguments[place : place + 2] == ["-m", "cellpose"]:
            return arguments[place + 2 :]
    return arguments


def _train_or_segment(given: Namespace) -> int:
    log = _log if given.verbose else lambda line: None
    if given.train:
        from cellbasin.cellpose.training import train

        return train(given, log, _warn)
    from cellbasin.cellpose.segment import segment_all

    return segment_all(given, log, _warn)


def _log(line: str) -> None:
    """A line as Cellpose's logger prints it, which QuPath reads."""
    import time

    say(f"{time.strftime('%Y-%m-%d %H:%M:%S')},000 [INFO] {line}")


def _warn(line: str) -> None:
    print(f"cellbasin-cellpose: {line}", file=sys.stderr, flush=True)
