"""TIFF through tifffile: one image of it, with axes and voxel size, never half of it."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from cellbasin.image import MICROMETRES
from cellbasin.messages import one_line

from .errors import ReadError
from .raw import Raw, check_decoded_size
from .tiff_structure import check_structure

_ALPHA = (1, 2)  # ExtraSamples: associated and unassociated alpha
_COLOURS = (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR, tifffile.PHOTOMETRIC.CIELAB)
_ASIDE = {"label", "macro", "map", "overview", "thumbnail"}  # names of pictures beside an image, also "label image"
# What tifffile only logs although pixels or axes are lost.
_DAMAGE = (
    "corrupt",
    "zeroed",
    "missing",
    "failed to re",
    "invalid offset",
    "incompletely",
    "raised",
    "incorrect",
)
_HARMLESS = ("GDAL_NODATA", "GeoKey")


def tiff_positions(path: Path) -> int:
    """Number of images of a TIFF file: OME's images, or runs of pages that differ in size or type; without thumbnails.

    Raises
    ------
    ReadError when there is no image, or whatever tifffile raises for a damaged file.
    """
    with _listening(), tifffile.TiffFile(path) as tif:
        return len(_positions(path, tif))


def read_tiff(path: Path, position: int = 0) -> Raw:
    """Read an image of a TIFF, BigTIFF, OME-TIFF or ImageJ file, compressed or not; of a pyramid the largest level.

    Returns
    -------
    Raw : axes of length 1 are left out; palettes (ImageJ's colour look-up tables) are ignored and alpha is
        dropped; axes are None when the file says nothing that is one of T, C, S, Z, Y, X.

    Raises
    ------
    ReadError when data are missing, or whatever tifffile and its codecs raise for a damaged file.
    """
    with _listening() as complaints, tifffile.TiffFile(path) as tif:
        series = _positions(path, tif)[position]
        check_decoded_size(path, series.shape, series.dtype.itemsize)
        check_structure(path, tif, series)
        array, axes = series.asarray(), series.axes
        sizes = _voxel_sizes(tif, series)
        page = series.keyframe
        alpha = bool(page.extrasamples) and page.extrasamples[-1] in _ALPHA
        colours = 3 if page.photometric in _COLOURS else 1
    if complaints:
        raise ReadError(
            f"{path}: found a damaged TIFF file ({complaints[0]}); expected a whole one: copy or export it again"
        )
    if "S" in axes and alpha and len(axes) == array.ndim:
        samples = np.moveaxis(array, axes.index("S"), -1)
        array = samples[..., 0] if samples.shape[-1] == 2 else samples[..., :-1]
        axes = axes.replace("S", "") + "S" * (array.ndim == len(axes))
    if "S" in axes and "C" not in axes and array.shape[axes.index("S")] != colours:
        axes = axes.replace("S", "C")  # samples of a pixel that are neither colours nor alpha
    if len(axes) != array.ndim or set(axes) - set("TCSZYX"):
        return Raw(array, None, sizes)
    return Raw(array, axes, sizes)


def _positions(path: Path, tif: Any) -> list[Any]:
    if not tif.series:
        raise ReadError(f"{path}: found a TIFF file without any image in it; expected at least one")
    whole = [series for series in tif.series if not series.keyframe.is_reduced]
    found = [series for series in whole if series.name.lower().removesuffix(" image") not in _ASIDE] or tif.series[:1]
    if not tif.is_ome:
        return found
    # OME's description is of a whole set of files. tifffile takes the images that are all in others for images of
    # this file's pixels; a stack whose planes are in several is read from any of them.
    here = [series for series in found if any(page is not None and page.parent is tif for page in series.pages)]
    if not here:
        raise ReadError(f"{path}: found descriptions of images in other files alone; expected one of those files")
    return here


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what tifffile says in this thread about damage, which it only logs."""
    complaints: list[str] = []
    thread = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            harmless = any(word in text for word in _HARMLESS)
            if record.thread == thread and not harmless and any(word in text for word in _DAMAGE):
                complaints.append(one_line(text, longest=160))

    listener = Listener(logging.WARNING)
    logger = logging.getLogger("tifffile")
    logger.addHandler(listener)
    try:
        yield complaints
    finally:
        logger.removeHandler(listener)


def _voxel_sizes(tif: Any, series: Any) -> dict[str, float]:
    """µm by axis letter, where the file states a length (dots per inch come from no microscope)."""
    page = series.keyframe
    if tif.is_ome:
        found = _ome_sizes(tif.ome_metadata, tif.series.index(series), len(tif.series))
    elif tif.is_imagej:
        found = _imagej_sizes(tif.imagej_metadata or {}, page)
    elif getattr(page.tags.get("ResolutionUnit"), "value", None) == 3:
        found = {axis: 1e4 * size for axis, size in _baseline_sizes(page).items()} | _shaped_spacing(tif)
    else:
        found = {}
    return {axis: size for axis, size in found.items() if math.isfinite(size) and size > 0}


def _ome_sizes(xml: str, number: int, count: int) -> dict[str, float]:
    """Of image `number` of `count`; where the text describes more or fewer, what it says of all of them alike."""
    pixels = list(ElementTree.fromstring(xml).iterfind(".//{*}Pixels"))
    stored = [one for one in pixels if one.find("{*}TiffData") is not None] or pixels  # tifffile passes over the others
    sizes = [_pixels_sizes(one) for one in stored]
    if len(sizes) == count:
        return sizes[number]
    return sizes[0] if sizes and all(one == sizes[0] for one in sizes) else {}


def _pixels_sizes(pixels: ElementTree.Element) -> dict[str, float]:
    sizes = {}
    for axis in "ZYX":
        unit = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if unit and pixels.get(f"PhysicalSize{axis}"):
            sizes[axis] = unit * float(pixels.get(f"PhysicalSize{axis}", "nan"))
    return sizes


def _imagej_sizes(metadata: dict[str, Any], page: Any) -> dict[str, float]:
    """ImageJ leaves out a distance of planes of exactly 1, but not so tifffile, which calls itself 1.11a."""
    unit = MICROMETRES.get(str(metadata.get("unit", "")))
    if not unit:
        return {}
    sizes = {axis: unit * size for axis, size in _baseline_sizes(page).items()}
    own = sizes and metadata.get("slices", 1) > 1 and metadata.get("ImageJ") != "1.11a"
    spacing = metadata.get("spacing", 1.0 if own else None)
    if isinstance(spacing, float | int):
        sizes["Z"] = MICROMETRES.get(str(metadata.get("zunit", "")), unit) * abs(float(spacing))
    return sizes


def _shaped_spacing(tif: Any) -> dict[str, float]:
    """What our own files say that ImageJ's dialect cannot hold: the distance of planes in µm."""
    told: dict[str, Any] = (tif.shaped_metadata or ({},))[0] if tif.is_shaped else {}
    spacing = told.get("spacing")
    return {"Z": float(spacing)} if isinstance(spacing, float | int) and told.get("unit") == "um" else {}


def _baseline_sizes(page: Any) -> dict[str, float]:
    """Length of a pixel in the file's own unit."""
    sizes = {}
    for axis in "YX":
        tag = page.tags.get(f"{axis}Resolution")
        if tag is not None and isinstance(tag.value, tuple) and tag.value[0]:
            sizes[axis] = tag.value[1] / tag.value[0]
    return sizes
