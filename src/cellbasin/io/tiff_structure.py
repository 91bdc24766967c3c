"""Is a TIFF file whole? tifffile fills gaps with zeros or leaves pages out, so every reference is checked."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .errors import ReadError

_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_BASELINE = 33000  # vendors' private tags above this may dangle without harm, except ImageJ's
_IMAGEJ = (50838, 50839)


@dataclass(frozen=True)
class _Layout:
    """How a directory is packed: in classic files 2 + 12n + 4 bytes, in BigTIFF 8 + 20n + 8."""

    order: str
    count: str
    entry: str
    offset: str

    def read(self, file: BinaryIO, code: str) -> tuple[Any, ...]:
        size = struct.calcsize(self.order + code)
        data = file.read(size)
        if len(data) < size:
            raise EOFError
        return struct.unpack(self.order + code, data)


def check_structure(path: Path, tif: Any, series: Any) -> None:
    """Every directory, tag value and piece of pixel data of the series must lie inside the file.

    Parameters
    ----------
    path : the file.
    tif, series : tifffile's view of it.

    Raises
    ------
    ReadError when something lies beyond the end, a page is missing, or the directories run in a circle.
    """
    size = path.stat().st_size
    if not (tif.is_ndpi or tif.is_lsm):  # those bend the rules of the directory
        with path.open("rb") as file:
            _check_directories(path, file, size)
    if series.dataoffset is not None:
        _check_end(path, series.dataoffset + series.nbytes, size)
        return
    for number, page in enumerate(series.pages):
        if page is None:
            raise ReadError(
                f"{path}: page {number} of the image is missing; expected all pages, and all files of a set, in place"
            )
        _check_segments(path, page, page.parent.filehandle.size)  # a page may lie in another file of the set


def _check_segments(path: Path, page: Any, size: int) -> None:
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) != len(counts) or not offsets or min(offsets) <= 0 or min(counts) <= 0:
        raise ReadError(f"{path}: found pieces of the image without data; expected all: copy or export the file again")
    _check_end(path, max(start + length for start, length in zip(offsets, counts, strict=True)), size)


def _check_directories(path: Path, file: BinaryIO, size: int) -> None:
    layout, offset = _read_header(file)
    seen = set()
    while offset:
        if offset in seen:
            raise ReadError(f"{path}: found directories that run in a circle; expected a TIFF file: export it again")
        seen.add(offset)
        try:
            offset = _check_directory(path, file, layout, offset, size)
        except EOFError:
            _check_end(path, size + 1, size)


def _read_header(file: BinaryIO) -> tuple[_Layout, int]:
    order = {b"II": "<", b"MM": ">"}[file.read(2)]
    (version,) = struct.unpack(order + "H", file.read(2))
    layout = _Layout(order, "H", "HHI4s", "I")
    if version == 43:
        file.read(4)
        layout = _Layout(order, "Q", "HHQ8s", "Q")
    return layout, layout.read(file, layout.offset)[0]


def _check_directory(path: Path, file: BinaryIO, layout: _Layout, offset: int, size: int) -> int:
    """Check one directory and return where the next one begins, 0 for none."""
    _check_end(path, offset + 2, size)
    file.seek(offset)
    (entries,) = layout.read(file, layout.count)
    for _ in range(entries):
        code, kind, count, value = layout.read(file, layout.entry)
        length = count * _SIZES.get(kind, 0)
        if length > len(value) and (code < _BASELINE or code in _IMAGEJ):
            (start,) = struct.unpack(layout.order + layout.offset, value)
            _check_end(path, start + length, size)
    return layout.read(file, layout.offset)[0]


def _check_end(path: Path, end: int, size: int) -> None:
    if end > size:
        raise ReadError(
            f"{path}: found {size} bytes, but the file says that it has at least {end}; expected a whole "
            f"TIFF file: copy it again"
        )
