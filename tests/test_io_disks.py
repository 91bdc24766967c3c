"""Disks that fail in the middle: a file appears whole or not at all."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from io_helpers import drawn, image, result

from cellbasin.image import Image
from cellbasin.io import (
    OUTPUTS,
    WriteError,
    atomic,
    save,
    write_labels,
)
from cellbasin.results import Segmentation

__all__ = ["image", "result"]  # fixtures


FAILURES = [
    OSError(errno.ENOSPC, "No space left on device"),
    PermissionError(errno.EACCES, "Permission denied"),
    KeyboardInterrupt(),
]


class FailingFile(io.FileIO):
    """A file on a disk that fails after some bytes."""

    budget = 0
    failure: type[BaseException] | OSError = KeyboardInterrupt

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        if size > self.budget:
            super().write(bytes(memoryview(data).cast("B")[: self.budget]))  # type: ignore[arg-type]
            raise self.failure
        type(self).budget -= size
        return super().write(data)  # type: ignore[arg-type]


@pytest.fixture
def fail_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, BaseException], None]]:
    """`fail_after(bytes, error)` lets every file that is opened from then on fail."""
    real = io.open

    def failing(file: object, mode: str = "r", *args: object, **options: object) -> object:
        if not set(mode) & set("wxa"):
            return real(file, mode, *args, **options)  # type: ignore[call-overload]
        raw = FailingFile(file, mode.replace("b", "").replace("t", ""))  # type: ignore[arg-type]
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding="utf-8", newline=options.get("newline"))  # type: ignore[arg-type]

    def arm(budget: int, failure: BaseException) -> None:
        monkeypatch.setattr(FailingFile, "budget", budget)
        monkeypatch.setattr(FailingFile, "failure", failure)
        monkeypatch.setattr(builtins, "open", failing)
        monkeypatch.setattr(io, "open", failing)

    yield arm
    monkeypatch.undo()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("budget", [0, 100])
@pytest.mark.parametrize("failure", FAILURES, ids=repr)
@pytest.mark.parametrize("name", OUTPUTS)
def test_failing_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path,
    result: Segmentation,
    image: Image,
    fail_after: Callable[[int, BaseException], None],
    name: str,
    failure: BaseException,
    budget: int,
) -> None:
    stem = tmp_path / "cells"
    path = Path(f"{stem}{OUTPUTS[name].suffix}")
    save(result, image, stem, [name])  # compiles what is compiled
    old = path / "0" / "0" / "0" if path.is_dir() else path
    old.write_bytes(b"old")
    fail_after(budget, failure)
    expected = WriteError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        save(result, image, stem, [name])
    if isinstance(failure, OSError):
        assert str(failure.strerror) in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    with os.fdopen(os.open(old, os.O_RDONLY), "rb") as file:
        assert file.read() == b"old"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", OUTPUTS)
def test_real_limit_on_file_size(tmp_path: Path, result: Segmentation, image: Image, name: str) -> None:
    resource = pytest.importorskip("resource")
    save(result, image, tmp_path / "first", [name])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(WriteError):
            save(result, image, tmp_path / "cells", [name])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == [f"first{OUTPUTS[name].suffix}"]


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("folder", ["missing", "file"])
def test_folders_that_cannot_be_written_to(
    tmp_path: Path, result: Segmentation, image: Image, name: str, folder: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WriteError, match="cannot be written") as caught:
        save(result, image, tmp_path / folder / "cells", [name])
    assert "\n" not in str(caught.value)


def test_folder_without_permission(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("needs a user who may not write everywhere")
    with pytest.raises(WriteError, match="Permission denied"):
        write_labels(folder / "a.tif", drawn())
    assert not list(folder.iterdir())


def test_interrupt_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.tif").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_labels(tmp_path / "a.tif", drawn())
    monkeypatch.undo()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.tif").mkdir()
    with pytest.raises(WriteError):
        write_labels(tmp_path / "a.tif", drawn())
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_atomic_lets_other_errors_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_names_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    write_labels(tmp_path / ("é" * 100 + ".tif"), drawn())
    write_labels(tmp_path / ("a" * 250 + ".tif"), drawn())
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_device_is_not_replaced(tmp_path: Path) -> None:
    """As somebody who may write everywhere would replace /dev/null."""
    os.mkfifo(tmp_path / "a.tif")
    with pytest.raises(WriteError, match="device or pipe"):
        write_labels(tmp_path / "a.tif", drawn())
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"] and (tmp_path / "a.tif").is_fifo()
