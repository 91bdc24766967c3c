"""Write a file, or a folder of files, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from cellbasin.messages import one_line


class WriteError(OSError):
    """A file could not be written; whatever was there before is untouched. The message is one line."""


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to, and take it as `path` only when the block has ended well.

    Whatever ends the block (an error, a full disk, Ctrl-C), a file that was there before stays as it was and
    nothing half-written stays behind. The block may make a folder there, which replaces a folder.

    Parameters
    ----------
    path : the file to write; its folder must exist. A device or pipe there is not replaced.

    Yields
    ------
    A path in the same folder with the same ending, hidden and unique.

    Raises
    ------
    WriteError in the place of any OSError of the block.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic(folder + "/note.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     [path.name for path in Path(folder).iterdir()]
    ['note.txt']
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem[:60]}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # replacing /dev/null would break the computer
            raise OSError("it is a device or pipe")
        yield temporary
        if path.is_dir() and temporary.is_dir():
            _exchange(temporary, path)  # no folder that holds something can be replaced in one step
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise WriteError(
            f"{path}: cannot be written ({one_line(error.strerror or error)}); "
            "expected an existing folder with write permission and space left: "
            "choose another folder or free space"
        ) from error
    finally:
        _remove(temporary)


def _exchange(new: Path, old: Path) -> None:
    aside = old.with_name(f"{new.name}.old")
    os.replace(old, aside)
    try:
        os.replace(new, old)
    except BaseException:
        os.replace(aside, old)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
