"""Write a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from .errors import WriteError


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to, and take it as `path` only when the block has ended
    well.

    Whatever ends the block (an error, a full disk, Ctrl-C), a file that was there before stays as it was and
    nothing half-written stays behind.

    Parameters
    ----------
    path : the file to write; its folder must exist.

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
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split()) or type(error).__name__
        raise WriteError(
            f"{path}: cannot be written ({reason}); "
            "expected an existing folder with write permission and space left: "
            "choose another folder or free space"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
