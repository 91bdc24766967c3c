"""What the commands share: one-line errors, exit codes, the progress bar, JSON files."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, TextIO

from cellbasin.atomic import atomic
from cellbasin.messages import one_line

DONE, PARTLY, NOTHING, INTERRUPTED = 0, 1, 2, 130
USER_ERRORS = (ValueError, TypeError, OSError, MemoryError)  # of files and options that do not fit


class CommandError(Exception):
    """A command cannot go on: one line that says what was found, what was expected and what to do."""


def told(error: BaseException | str, path: Path | None = None, part: str = "") -> str:
    """What users are told of an error, in one line that names the file, and the part of it, that it is about.

    >>> told(ValueError("found 3 axes;\\n  expected 2"), Path("a.tif"))
    'a.tif: found 3 axes; expected 2'
    """
    text = one_line(error)
    if isinstance(error, MemoryError):
        text = "not enough memory; expected a smaller image: cut or shrink it"
    if path is None or text.startswith(str(path)):
        return text
    return f"{path} {part}: {text}" if part else f"{path}: {text}"


def debugging() -> bool:
    """Whether errors are to keep their traceback: environment variable CELLBASIN_DEBUG."""
    return bool(os.environ.get("CELLBASIN_DEBUG"))


def check_torch() -> None:
    """Raise CommandError where training cannot begin for want of PyTorch."""
    if importlib.util.find_spec("torch") is None:
        raise CommandError("training needs PyTorch, which is not installed; run: pip install 'cellbasin[train]'")


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Being asked to end (by a batch system, or a terminal that closes) leaves no half-written file either."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # else it is somebody else's program
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
        before = {number: signal.signal(number, leave) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print on stdout, or another stream, at once.

    Raises BrokenPipeError where the reader has enough, and CommandError where the text cannot be written (a full disk):
    what is printed after that is lost, and nothing more is said of it.
    """
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        silence(stream)
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError(unsaid(error)) from error


def mention(text: str, stream: TextIO | None = None) -> None:
    """As `say`, of work that goes on where the reader of our output, such as head, has enough."""
    with contextlib.suppress(BrokenPipeError):
        say(text, stream)


def unsaid(error: OSError) -> str:
    """What users are told where what was printed is lost."""
    return (
        f"standard output cannot be written ({error.strerror or error}); expected space where it goes: free some, or "
        "send it elsewhere"
    )


def silence(stream: TextIO) -> None:
    """Send what is printed, and what waits to be, nowhere: else Python tries again, and complains, when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_error(error: BaseException | str) -> None:
    """One line on stderr; where that cannot be written nobody can be told."""
    with contextlib.suppress(OSError):
        print(f"cellbasin: error: {told(error)}", file=sys.stderr, flush=True)


def check_json(target: str | Path | None, used: Iterable[Path] = ()) -> None:
    """Refuse, before any work, a file for results that is in use or no plain file, or whose folder takes no files."""
    if target is None or target == "-":
        return
    path = Path(target)
    folder = path.resolve().parent
    if not folder.is_dir():
        raise CommandError(f"{path}: found no folder {folder}; expected it to exist: create it")
    if path.exists() and not path.is_file():
        raise CommandError(f"{path}: found a folder or device there; expected a file: choose another")
    if path.resolve() in {other.resolve() for other in used}:
        raise CommandError(f"{path}: found an image or its result there; expected a new file: choose another")
    if path.is_file():
        with path.open("rb") as file:
            first = file.read(1)
        if first not in (b"", b"{", b"["):
            raise CommandError(f"{path}: found a file there that is no JSON; expected a new one: choose another name")
    make_folder(folder, "choose another")


def claim(makers: dict[Path, Path], path: Path, image: Path) -> None:
    """Note whose results go to a path, in `makers`; raises CommandError where another image's go there too."""
    other = makers.setdefault(path.resolve(), image)
    if other != image:
        raise CommandError(
            f"{other} and {image} would both be written to {path}; expected images of different names: rename one, or "
            "segment them apart, into different folders"
        )


def make_folder(folder: Path, hint: str) -> None:
    """Make a folder where there is none; raises CommandError, with what to do, where no file can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CommandError(
            f"{folder}: cannot write there ({error.strerror or error}); expected a folder with write permission: {hint}"
        ) from error


def write_json(target: str, content: Any) -> None:
    """Write JSON whole or not at all; "-" is stdout. NaN and infinity become null."""
    text = _lines(_plain(content))
    if target == "-":
        say(text)
        return
    with atomic(target) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _lines(content: Any) -> str:
    """One line for each item at the top: readable, and short where it holds long columns."""
    if isinstance(content, list):
        return "[" + ",\n ".join(json.dumps(item, allow_nan=False) for item in content) + "]"
    items = [f"{json.dumps(key)}: {json.dumps(item, allow_nan=False)}" for key, item in content.items()]
    return "{" + ",\n ".join(items) + "}"


def _plain(value: Any) -> Any:
    """What JSON knows: arrays and tuples become lists, paths text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns: the first to the left, the others to the right.

    >>> print(table(["source", "AP"], [["nuclei", "0.9"], ["axons", "0.75"]]))
    source    AP
    nuclei   0.9
    axons   0.75
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
        ).rstrip()
        for line in lines
    )


_STAGES = {"diameter": (0.0, 0.3), "network": (0.0, 0.8), "labels": (0.8, 0.17), "writing": (0.97, 0.0)}
"""Of the work on an item: where a stage begins, and its share."""


class Bar:
    """A progress bar on stderr where that is a terminal, and nothing elsewhere."""

    def __init__(self, total: int, *, hidden: bool = False) -> None:
        self._progress: Any = None
        self._total, self._finished, self._within, self._name = total, 0, 0.0, ""
        if not hidden and sys.stderr and sys.stderr.isatty():
            self._progress = _rich_progress()
            self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Bar:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def begin(self, name: str) -> None:
        """The next item's name."""
        self._name, self._within = name, 0.0
        self.tell("reading", 0.0)

    def tell(self, stage: str, part: float) -> None:
        """How far the item is; fits the `progress` argument of `Model.segment`."""
        if self._progress:
            begin, share = _STAGES.get(stage, (0.0, 0.0))
            self._within = max(self._within, begin + share * part)  # what was told for the diameter is not taken back
            done = self._finished + self._within
            self._progress.update(self._task, description=f"{self._name}: {stage}", completed=done)

    def end(self, finished: int | None = None) -> None:
        """One more item is finished, or so many are."""
        self._finished = self._finished + 1 if finished is None else finished
        if self._progress:
            self._progress.update(self._task, completed=self._finished)


def _rich_progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else what is piped on would end up in the terminal
    )
