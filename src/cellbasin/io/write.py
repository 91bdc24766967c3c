"""Write labels, flows, tables and pictures; each file appears whole or not at all."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image as Pillow

from cellbasin.atomic import WriteError, atomic
from cellbasin.image import Image

from .overlay import overlay

LABEL_AXES = ("YX", "ZYX", "TYX", "TZYX")
_IMAGEJ_BYTES = 4 * 1000**3  # above this ImageJ's own format ends


def write_labels(
    path: str | os.PathLike[str],
    labels: np.ndarray,
    voxel_size: tuple[float, ...] | None = None,
    provenance: Mapping[str, Any] | None = None,
    axes: str | None = None,
) -> None:
    """Write a label image: TIFF (zlib, opens in ImageJ with its pixel size) or PNG, by the name's ending.

    Parameters
    ----------
    path : ending in .tif, .tiff or .png.
    labels : integer, with these axes; stored as uint16, above 65535 objects as uint32 (TIFF only). Not modified.
    voxel_size : µm along (Z,) Y and X, kept in a TIFF file.
    provenance : what can be written as JSON; kept in a TIFF file, where ImageJ shows it as the image's info.
    axes : YX, or for TIFF ZYX, TYX or TZYX; the last of TZYX, as many as the labels have, when None.

    Raises
    ------
    WriteError when the file cannot be written; ValueError when the format cannot hold the labels.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_labels(folder + "/cells_masks.tif", np.eye(5, dtype=np.int32))
    ...     tifffile.imread(folder + "/cells_masks.tif").dtype
    dtype('uint16')
    """
    path = Path(path)
    suffix = path.suffix.lower()
    axes = checked_axes(labels, axes, np.iinfo(np.uint32).max)
    highest = int(labels.max())
    if suffix not in (".tif", ".tiff", ".png"):
        raise ValueError(f"{path}: found the ending {suffix!r}; expected .tif or .png for labels")
    if suffix == ".png" and (highest > 65535 or labels.ndim != 2):
        raise ValueError(
            f"{path}: found labels up to {highest} along {labels.ndim} axes; expected at most 65535 along two (y, x) "
            "for PNG: write .tif"
        )
    stored = labels.astype(np.uint16 if highest <= 65535 else np.uint32)
    with atomic(path) as temporary:
        if suffix == ".png":
            Pillow.fromarray(stored).save(temporary)
        else:
            shown = {"min": 0.0, "max": float(max(1, highest))}
            _write_tiff(temporary, stored, axes, voxel_size, provenance, shown)


def checked_axes(labels: np.ndarray, axes: str | None, most: int) -> str:
    """The axes of a label image that is to be written: those given, or the last of TZYX when None.

    most: the largest number that the file holds. Raises ValueError for axes that do not fit and what are no labels.
    """
    axes = axes or "TZYX"[-labels.ndim :]
    right = axes in LABEL_AXES and len(axes) == labels.ndim and labels.size
    if labels.dtype.kind not in "iu" or not right or labels.min() < 0:
        raise ValueError(
            f"found labels {labels.dtype} {labels.shape} of the axes {axes}; expected whole numbers from 0 on, "
            f"of the axes {', '.join(LABEL_AXES)}"
        )
    if labels.max() > most:
        raise ValueError(
            f"found the label {labels.max()}; expected at most {most}: number the objects first, with "
            "cellbasin.labels.relabel"
        )
    return axes


def write_flows(
    path: str | os.PathLike[str],
    flow: np.ndarray,
    probability: np.ndarray,
    voxel_size: tuple[float, ...] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write flow and probability as the channels of one float32 TIFF file.

    Parameters
    ----------
    path : ending in .tif.
    flow : float (D, [Z,] Y, X), components in the order (z) y x. Not modified.
    probability : float ([Z,] Y, X), the last channel. Not modified.
    voxel_size, provenance : as in `write_labels`.

    Raises
    ------
    WriteError when the file cannot be written; ValueError when the shapes do not fit.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_flows(folder + "/cells_flows.tif", np.zeros((2, 5, 6), np.float32), np.ones((5, 6), np.float32))
    ...     tifffile.imread(folder + "/cells_flows.tif").shape
    (3, 5, 6)
    """
    if flow.shape != (probability.ndim, *probability.shape) or probability.ndim not in (2, 3):
        raise ValueError(
            f"found flow {flow.shape} and probability {probability.shape}; expected (2, Y, X) and (Y, X), or in 3D"
        )
    names = [*(f"flow {axis}" for axis in "zyx"[-len(flow) :]), "probability"]
    stack = np.concatenate([flow, probability[None]]).astype(np.float32)
    axes = "CYX"
    if probability.ndim == 3:
        stack, axes, names = np.moveaxis(stack, 0, 1), "ZCYX", names * len(probability)
    with atomic(path) as temporary:
        _write_tiff(temporary, stack, axes, voxel_size, provenance, {"Labels": names, "min": -1.0, "max": 1.0})


def _write_tiff(
    path: Path,
    array: np.ndarray,
    axes: str,
    voxel_size: tuple[float, ...] | None,
    provenance: Mapping[str, Any] | None,
    imagej: Mapping[str, Any],
) -> None:
    """ImageJ's dialect where it can hold the numbers, else plain TIFF with the same facts."""
    told = {"cellbasin": dict(provenance)} if provenance else {}
    options: dict[str, Any] = {
        "photometric": "minisblack",
        "compression": "zlib",
        "compressionargs": {"level": 4},
    }
    if voxel_size is not None:
        options["resolution"] = (1 / voxel_size[-1], 1 / voxel_size[-2])
    if array.dtype != np.uint32 and array.nbytes < _IMAGEJ_BYTES and array.shape[-1] > 1:  # tifffile loses that axis
        metadata: dict[str, Any] = {"axes": axes, **imagej}
        if voxel_size is not None:
            metadata |= {"unit": "um", "spacing": voxel_size[0]} if "Z" in axes else {"unit": "um"}
        if told:
            metadata["Info"] = json.dumps(told, default=plain)
        tifffile.imwrite(path, array, imagej=True, metadata=metadata, **options)
        return
    metadata = {"axes": axes, **json.loads(json.dumps(told, default=plain))}
    if voxel_size is not None:
        options["resolution"] = (1e4 / voxel_size[-1], 1e4 / voxel_size[-2])
        options["resolutionunit"] = "CENTIMETER"
        metadata |= {"spacing": voxel_size[0], "unit": "um"} if "Z" in axes else {}
    tifffile.imwrite(path, array, metadata=metadata, **options)


def is_as_segmented(path: Path) -> bool:
    """Whether a TIFF file is as `save` wrote it: with a note of its making, and not saved again, by napari's plugin,
    which says so in the note, or by ImageJ, which keeps the note, but gives another version of itself than tifffile.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            told = tif.imagej_metadata or {"ImageJ": "1.11a", "Info": tif.shaped_metadata}
            note = str(told.get("Info"))
            return "cellbasin" in note and "saved_by" not in note and str(told.get("ImageJ")) == "1.11a"
    except Exception:  # noqa: BLE001  damaged files fail in any way, and none is as we wrote it
        return False


def plain(value: object) -> object:
    """What JSON cannot say: numpy's numbers and arrays as plain ones, everything else as its text."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def write_table(path: str | os.PathLike[str], table: Mapping[str, np.ndarray]) -> None:
    """Write a table as CSV (UTF-8, comma, point): one line per object, columns in the mapping's order.

    Parameters
    ----------
    path : ending in .csv.
    table : name to one-dimensional array, all of one length; yes and no become 1 and 0, numbers that do not
        exist stay empty.

    Raises
    ------
    WriteError when the file cannot be written; ValueError when the columns differ in length.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_table(folder + "/a.csv", {"label": np.array([1, 2]), "error": np.array([0.125, np.nan])})
    ...     Path(folder, "a.csv").read_text()
    'label,error\\n1,0.125\\n2,\\n'
    """
    _check_columns(table)
    columns = [[_cell(value) for value in np.asarray(column).tolist()] for column in table.values()]
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*columns, strict=True))


def write_parquet(path: str | os.PathLike[str], table: Mapping[str, np.ndarray]) -> None:
    """Write a table as Parquet, dtypes kept; needs pyarrow (the extra "formats").

    Parameters
    ----------
    path : ending in .parquet.
    table : as in `write_table`.

    Raises
    ------
    WriteError when the file cannot be written or pyarrow is not installed; ValueError when the columns differ in
        length.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
    ...     write_parquet(folder + "/cells.parquet", {"label": np.array([1, 2]), "area": np.array([80, 95])})
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise WriteError(
            f"{path}: Parquet needs pyarrow, which is not installed; install it with pip install 'cellbasin[formats]', "
            "or save the table as CSV"
        ) from error
    _check_columns(table)
    content = pyarrow.table({name: pyarrow.array(np.asarray(column)) for name, column in table.items()})
    packed = pyarrow.BufferOutputStream()
    parquet.write_table(content, packed)
    with atomic(path) as temporary:
        temporary.write_bytes(packed.getvalue())


def _check_columns(table: Mapping[str, np.ndarray]) -> None:
    lengths = {name: np.shape(column) for name, column in table.items()}
    if any(len(shape) != 1 for shape in lengths.values()) or len(set(lengths.values())) > 1:
        raise ValueError(f"found columns of shapes {lengths}; expected one dimension and one length")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.7g}"
    return str(value)


def write_overlay(
    path: str | os.PathLike[str],
    image: np.ndarray | Image,
    labels: np.ndarray,
    channels: tuple[int, ...] | None = None,
) -> None:
    """Write the picture that `overlay` draws as PNG.

    Raises
    ------
    WriteError when the file cannot be written; ValueError when the image does not fit the labels.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_overlay(folder + "/cells.png", np.zeros((9, 9)), np.ones((9, 9), np.int32))
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['cells.png']
    """
    write_picture(path, overlay(image, labels, channels))


def write_picture(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Write a picture uint8 (Y, X, 3) as PNG; raises WriteError when the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_picture(folder + "/red.png", np.full((4, 4, 3), (255, 0, 0), np.uint8))
    ...     Path(folder, "red.png").read_bytes()[1:4]
    b'PNG'
    """
    with atomic(path) as temporary:
        Pillow.fromarray(picture).save(temporary, format="PNG", compress_level=4)
