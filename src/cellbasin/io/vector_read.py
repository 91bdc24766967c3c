"""Outlines of other programs, and ours, back to labels: ImageJ's ROI archives and text."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cellbasin.messages import one_line

from .errors import ReadError

Points = Literal["corners", "centres"]

MAX_ROIS = 1_000_000
MAX_BYTES = 64 * 1024**2
MAX_PIXELS = 1 << 32
_FAR = 1e6  # pixels; points beyond are no outlines
_LONGEST = 30_000_000  # pixels of one outline
_COVERED, _MORE = 100, 1_000_000  # what boxes of all outlines may cover: times of the image, and pixels more


def read_outlines_text(path: str | os.PathLike[str], shape: Sequence[int], points: Points | None = None) -> np.ndarray:
    """Draw the outlines of a text file, a line `x1,y1,x2,y2,...` for each object.

    Parameters
    ----------
    path : the file. Empty lines, which Cellpose writes for tiny objects, stand for an object without pixels.
    shape : rows and columns of the image.
    points : whether the numbers are corners of pixels, as we write them (pixel (0, 0) reaches from 0 to 1), or centres
        of the outermost pixels, as Cellpose writes them. Default: centres for names that end in `_cp_outlines.txt`.

    Returns
    -------
    int32 (Y, X), the number of the line for each object, counted from 1.

    Raises
    ------
    ReadError when the file is missing, no such text, or a shape is not to be drawn.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "a_outlines.txt")
    ...     _ = file.write_text("3,0,3,2,1,2,1,0\\n")
    ...     read_outlines_text(file, (2, 4)).tolist()
    [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    path = Path(path)
    if points is None:
        points = "centres" if path.name.endswith("_cp_outlines.txt") else "corners"
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        rings = [_ring(line, number) for number, line in enumerate(lines, 1)]
    except (UnicodeDecodeError, ValueError) as error:
        raise ReadError(f"{path}: {error}; expected lines x1,y1,x2,y2,...") from error
    except OSError as error:
        raise ReadError(f"{path}: cannot be read ({error.strerror or error}); expected a text file") from error
    return _draw(path, [(number, [ring]) for number, ring in enumerate(rings, 1)], shape, points)


def read_rois(path: str | os.PathLike[str], shape: Sequence[int], points: Points = "corners") -> np.ndarray:
    """Draw the regions of an ImageJ ROI archive (.zip) or of a single .roi file.

    Parameters
    ----------
    path : the file; polygons, freehand and traced outlines, rectangles, and composites of these.
    shape : rows and columns of the image.
    points : "corners" as ImageJ means them, or "centres" for archives of Cellpose, whose points are the centres of the
        outermost pixels (drawn as corners its objects lose their last row and column).

    Returns
    -------
    int32 (Y, X): labels are the numbers that end the regions' names where all have one and no two the same, else they
    count the regions from 1 in their order.

    Raises
    ------
    ReadError when the file is missing, damaged, too large, or has regions that are no areas.

    >>> import tempfile
    >>> from cellbasin.io import write_rois
    >>> labels = np.zeros((8, 9), np.int32)
    >>> labels[2:5, 3:7] = 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_rois(folder + "/cells.zip", labels)
    ...     bool((read_rois(folder + "/cells.zip", labels.shape) == labels).all())
    True
    """
    path = Path(path)
    try:
        contents = _entries(path)
        named = [(name, _roi_rings(data)) for name, data in contents]
    except ReadError:
        raise
    except OSError as error:
        raise ReadError(f"{path}: cannot be read ({error.strerror or error}); expected an archive of ROIs") from error
    except Exception as error:  # damaged archives and regions fail in any way
        reason = one_line(error, longest=120)
        raise ReadError(f"{path}: cannot be read ({reason}); expected ImageJ ROIs: save them again") from error
    numbers = _numbers([name for name, _ in named])
    return _draw(path, [(n, rings) for n, (_, rings) in zip(numbers, named, strict=True)], shape, points)


def fill_centres(outlines: Iterable[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Labels int32 (Y, X) of outlines whose points (K, 2), y and x, are centres of the outermost pixels.

    >>> fill_centres([np.array([[0, 0], [0, 2], [2, 2], [2, 0]])], (3, 4)).tolist()
    [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    """
    from cellbasin.outlines import Outline, fill_outlines

    rings: list[Any] = [np.asarray(ring, float) for ring in outlines]
    found = fill_outlines([Outline(n, ring + 0.5) for n, ring in enumerate(rings, 1) if len(ring)], shape)
    for number, ring in enumerate(rings, 1):
        y, x = _line_pixels(ring)
        inside = (y >= 0) & (x >= 0) & (y < found.shape[0]) & (x < found.shape[1])
        found[y[inside], x[inside]] = number
    return found


def _line_pixels(ring: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (y, x) on the lines between the points of a closed ring."""
    if not len(ring):
        return np.zeros(0, int), np.zeros(0, int)
    if not (np.abs(ring) < _FAR).all():
        raise ValueError("found outlines far outside of any image")
    after = np.roll(ring, -1, axis=0)
    steps = np.maximum(np.ceil(np.abs(after - ring).max(axis=1)).astype(int), 1)
    if steps.sum() > _LONGEST:
        raise ValueError("found an outline far longer than those of objects in an image")
    start, part = np.repeat(np.arange(len(ring)), steps), np.concatenate([np.arange(n) / n for n in steps])
    places = np.floor(ring[start] + part[:, None] * (after - ring)[start] + 0.5).astype(int)
    return places[:, 0], places[:, 1]


def _ring(line: str, number: int) -> np.ndarray:
    """(K, 2) y, x of one line."""
    words = [word for word in line.replace("\t", ",").strip().strip(",").split(",") if word.strip()]
    values = np.array([float(word) for word in words])
    if len(values) % 2 or not np.isfinite(values).all() or (np.abs(values) > _FAR).any():
        raise ValueError(f"found {len(values)} numbers in line {number}, expected pairs of coordinates")
    return values.reshape(-1, 2)[:, ::-1]


def _entries(path: Path) -> list[tuple[str, bytes]]:
    """Names without ending and contents of the regions; nothing is unpacked to the disk, whatever the names are."""
    if path.suffix.lower() == ".roi":
        return [(path.stem, path.read_bytes())]
    with zipfile.ZipFile(path) as archive:
        wanted = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".roi")]
        total = sum(entry.file_size for entry in wanted)
        if not wanted and archive.infolist():  # an archive of nothing is that of an image without objects
            raise ReadError(f"{path}: found no .roi file in the archive, expected regions of ImageJ")
        if len(wanted) > MAX_ROIS or total > 100 * path.stat().st_size + MAX_BYTES:
            raise ReadError(f"{path}: found {len(wanted)} regions that unpack to {total / 1e6:.0f} MB, expected fewer")
        return [(Path(entry.filename).stem, archive.read(entry)) for entry in wanted]


def _roi_rings(data: bytes) -> list[np.ndarray]:
    """Rings (K, 2) y, x of one region."""
    from roifile import ROI_TYPE, ImagejRoi

    roi = ImagejRoi.frombytes(data)
    if roi.multi_coordinates is not None:
        return [np.asarray(ring, float)[:, ::-1] for ring in roi.coordinates(multi=True)]
    if roi.roitype == ROI_TYPE.RECT:
        y0, x0, y1, x1 = roi.top, roi.left, roi.bottom, roi.right
        return [np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], float)]
    if roi.roitype not in (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED):
        raise ValueError(f"found a region of type {roi.roitype.name}, expected areas: polygons, outlines, rectangles")
    return [np.asarray(roi.coordinates(), float)[:, ::-1]]


def _numbers(names: list[str]) -> list[int]:
    ends = [re.search(r"(\d{1,9})$", name) for name in names]
    numbers = [int(end[1]) for end in ends if end]
    if len(numbers) == len(names) == len(set(numbers)) and min(numbers, default=1) > 0 and not _coordinates(names):
        return numbers
    return list(range(1, len(names) + 1))


def _coordinates(names: list[str]) -> bool:
    """Whether names are ImageJ's own, which end with a place: 0012-0034."""
    return any(re.fullmatch(r"(\d{4,}-)+\d{4,}", name) for name in names)


def _draw(path: Path, outlines: list[tuple[int, list[np.ndarray]]], shape: Sequence[int], points: Points) -> np.ndarray:
    from cellbasin.outlines import Outline, fill_outlines

    if len(shape) != 2 or min(shape) < 1 or shape[0] * shape[1] > MAX_PIXELS:
        raise ReadError(f"{path}: outlines of an image of shape {tuple(shape)}; expected rows and columns")
    boxes = sum(float(np.ptp(ring[:, 0]) * np.ptp(ring[:, 1])) for _, rings in outlines for ring in rings if len(ring))
    if not boxes <= _COVERED * (shape[0] * shape[1] + _MORE):
        raise ReadError(f"{path}: found outlines that cover the image {_COVERED} times; expected separate objects")
    if points == "corners":
        parts: list[Any] = [
            Outline(label, rings[0], tuple(rings[1:])) for label, rings in outlines if rings and len(rings[0])
        ]
        return fill_outlines(parts, shape)
    flat = [(label, ring) for label, rings in outlines for ring in rings]
    try:
        found = fill_centres([ring for _, ring in flat], shape)
    except ValueError as error:
        raise ReadError(f"{path}: {error}") from error
    return np.array([0, *(label for label, _ in flat)], np.int32)[found]
