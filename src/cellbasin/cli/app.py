"""The program: its commands, and what becomes of their errors."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from cellbasin.cli import doctor, evaluate, models, score, segment, train
from cellbasin.cli.console import (
    DONE,
    INTERRUPTED,
    NOTHING,
    USER_ERRORS,
    CommandError,
    debugging,
    print_error,
    silence,
    terminable,
    told,
    unsaid,
)

_HELP = "Segment cells in microscopy images, fast on a plain CPU."
_EXAMPLES = """Examples:
  cellbasin segment cells.tif             writes cells_masks.tif beside it
  cellbasin segment folder --out masks --save labels,overlay,rois
  cellbasin evaluate dataset              scores a model on annotated images
  cellbasin doctor                        is all well, what can this computer do

'cellbasin COMMAND --help' explains a command.
Exit codes: 0 done, 1 partly done, 2 nothing done, 130 interrupted."""


def _version() -> str:
    from cellbasin.version import VERSION

    return f"cellbasin {VERSION}"


def make_app() -> App:
    """The commands, each with its flags and help."""
    app = App(
        name="cellbasin",
        help=_HELP,
        help_epilogue=_EXAMPLES,
        help_format="plaintext",
        version=_version,
        default_parameter=Parameter(negative=""),
        suppress_keyboard_interrupt=False,  # `run` says that the work was interrupted
    )
    app.command(segment.segment, help_epilogue=segment.EXAMPLES, usage="Usage: cellbasin segment [OPTIONS] INPUT...")
    app.command(evaluate.evaluate, help_epilogue=evaluate.EXAMPLES)
    app.command(score.score, help_epilogue=score.EXAMPLES)
    app.command(train.train, help_epilogue=train.EXAMPLES)
    app.command(models.make_app())
    app.command(doctor.doctor, help_epilogue=doctor.EXAMPLES)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; see `cellbasin.cli.main`."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files are bytes, not always text
    words = list(sys.argv[1:] if arguments is None else arguments)
    with terminable(), warnings.catch_warnings():
        if not (sys.warnoptions or debugging()):
            warnings.simplefilter("ignore")  # those of libraries are for programmers: users get one line
        try:
            result = _call(words)
            print(end="", flush=True)  # what waits to be printed
            return result
        except KeyboardInterrupt:
            print("cellbasin: interrupted", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:  # the reader of our output, such as head, has enough
            silence(sys.stdout)
            return DONE
        except OSError as error:  # of what waited to be printed: the command's own are told of already
            silence(sys.stdout)
            print_error(unsaid(error))
            return NOTHING


def _call(words: list[str]) -> int:
    if any(not word or (word.startswith("--") and word.endswith("=")) for word in words):  # as a path it is this folder
        print_error("found an empty argument, expected a value: is a variable of the shell empty?")
        return NOTHING
    app = make_app()
    try:
        result = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        command = next((word for word in words if not word.startswith("-")), "")
        where = f"cellbasin {command}" if command in app else "cellbasin"
        print_error(f"{told(error).rstrip('.')}; see '{where} --help'")
        return NOTHING
    except BrokenPipeError:
        raise
    except (CommandError, *USER_ERRORS) as error:
        if debugging():
            raise
        print_error(error)
        return NOTHING
    return result if isinstance(result, int) else DONE
