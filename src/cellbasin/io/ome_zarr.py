"""OME-Zarr: images (0.1 to 0.5, Zarr 2 and 3) out of folders of chunks, labels (0.4) into them."""

from __future__ import annotations

import bz2
import json
import lzma
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import zarr

from cellbasin.atomic import atomic
from cellbasin.image import MICROMETRES

from .errors import ReadError
from .raw import Raw, check_decoded_size
from .write import checked_axes, plain

_CHUNK = 1024  # pixels along y and x
_SMALLEST = 256  # pixels; the coarsest level is at most twice this
_LARGE_CHUNK = 1 << 26  # bytes; smaller ones may be larger than the image
_SLACK = 1 << 16  # bytes of metadata, and of headers of what cannot be packed
# Of formats in which a few bytes can stand for any number: what unpacks a part, and how many bytes one can stand for.
_STREAMS: dict[str, tuple[Callable[[], Any], float]] = {
    "zlib": (zlib.decompressobj, 1100),
    "gzip": (partial(zlib.decompressobj, 31), 1100),
    "bz2": (bz2.BZ2Decompressor, math.inf),
    "lzma": (lzma.LZMADecompressor, math.inf),
}
# Names of numcodecs that pack numbers. Not "pickle", "msgpack2", "json2", "vlen-...": those make objects.
_CODECS = {
    *("blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma", "zfpy", "pcodec"),
    *("delta", "shuffle", "fixedscaleoffset", "quantize", "packbits", "astype", "bitround"),
    *("crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"),
}
_OLDEST_AXES = "tczyx"  # of 0.1 and 0.2, which did not name them


def zarr_positions(path: Path) -> list[str]:
    """Where in a Zarr folder its images are: [""] for one image, more for a collection as bioformats2raw writes it.

    Raises
    ------
    ReadError for plates and for groups that hold no image.
    """
    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        return [""]
    facts = _facts(node)
    if "multiscales" in facts:
        return [""]
    if "plate" in facts or "well" in facts:
        raise ReadError(
            f"{path}: found a plate or well of OME-Zarr; expected an image: name one of its fields, such as A/1/0"
        )
    names = sorted((name for name, _ in node.groups() if name.isdigit()), key=int)
    found = [name for name in names if "multiscales" in _facts(node[name])]
    if not found:
        raise ReadError(f"{path}: found a Zarr group without an image (no multiscales); expected OME-Zarr")
    return found


def is_zarr_labels(path: Path) -> bool:
    """Whether a Zarr folder says of itself that it is a label image; raises what zarr raises for damaged metadata."""
    node = zarr.open(path, mode="r")
    return isinstance(node, zarr.Group) and "image-label" in _facts(node)


def zarr_label_names(path: Path) -> list[str]:
    """Names of the label images that belong to an image, in its folder `labels`."""
    folder = path / "labels"
    if not folder.is_dir():
        return []
    names = _facts(zarr.open_group(folder, mode="r")).get("labels")
    return [_inside(path, str(name)) for name in names] if isinstance(names, Sequence) else []


def read_zarr(path: Path, position: str = "") -> Raw:
    """Read the largest level of an OME-Zarr image, or a plain Zarr array.

    Returns
    -------
    Raw : axes None where the array does not name them.

    Raises
    ------
    ReadError, or whatever zarr raises for damaged metadata and chunks.
    """
    node = zarr.open(path / position, mode="r")
    if isinstance(node, zarr.Array):
        return Raw(_pixels(path, node), _letters(getattr(node.metadata, "dimension_names", None)))
    scales = _facts(node).get("multiscales")
    first = scales[0] if isinstance(scales, Sequence) and scales else None
    if not isinstance(first, Mapping) or not first.get("datasets"):
        raise ReadError(f"{path}: found a Zarr group without an image (no multiscales); expected OME-Zarr")
    level = first["datasets"][0]
    array = node[_inside(path, str(level["path"]))]
    if not isinstance(array, zarr.Array):
        raise ReadError(f"{path}: found a group where level {level['path']!r} should be; expected an array")
    axes = first.get("axes") or list(_OLDEST_AXES)[-array.ndim :]
    names = [axis["name"] if isinstance(axis, Mapping) else axis for axis in axes]
    return Raw(_pixels(path, array), _letters(names), _sizes(axes, names, [level, first]))


def write_zarr_labels(
    path: str | os.PathLike[str],
    labels: np.ndarray,
    voxel_size: tuple[float, ...] | None = None,
    name: str = "labels",
    axes: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a label image as OME-Zarr 0.4 (Zarr 2): a pyramid, every second pixel of a level in the next.

    Parameters
    ----------
    path : ending in .zarr; a folder that is there is replaced.
    labels : integer, with these axes. Not modified.
    voxel_size : µm along (Z,) Y and X.
    name : of the image in its metadata.
    axes : YX, ZYX, TYX or TZYX; the last of TZYX, as many as the labels have, when None.
    provenance : what can be written as JSON; kept beside the metadata, under "cellbasin".

    Raises
    ------
    WriteError when it cannot be written; ValueError for labels below 0 or that int32 does not hold, and axes that are
    not theirs.
    """
    axes = checked_axes(labels, axes, np.iinfo(np.int32).max)
    unit = {"unit": "micrometer"} if voxel_size else {}
    sizes = dict(zip([axis for axis in axes if axis != "T"], voxel_size, strict=True)) if voxel_size else {}
    levels = [labels]
    while max(levels[-1].shape[-2:]) > 2 * _SMALLEST:
        levels.append(levels[-1][..., ::2, ::2])
    datasets = []
    for number in range(len(levels)):
        scale = [sizes.get(axis, 1.0) * (2.0**number if axis in "YX" else 1.0) for axis in axes]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    described = [
        {"name": "t", "type": "time"} if axis == "T" else {"name": axis.lower(), "type": "space", **unit}
        for axis in axes
    ]
    pyramid = {"version": "0.4", "name": name, "axes": described, "datasets": datasets}
    attributes: Any = {"multiscales": [pyramid], "image-label": {"version": "0.4"}}
    if provenance:
        attributes["cellbasin"] = dict(provenance)
    with atomic(path) as temporary:
        temporary.mkdir()
        (temporary / ".zgroup").write_text('{"zarr_format":2}')
        (temporary / ".zattrs").write_text(json.dumps(attributes, indent=1, default=plain))
        for number, level in enumerate(levels):
            _write_array(temporary / str(number), level)


def is_zarr_as_segmented(path: Path) -> bool:
    """Whether a folder holds labels as `save` wrote them: with a note of their making, not saved again by napari."""
    try:
        note = json.loads((path / ".zattrs").read_text()).get("cellbasin")
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(note, dict) and "saved_by" not in note


def _write_array(folder: Path, labels: np.ndarray) -> None:
    """An array of Zarr 2. Written by hand, one file after the other: a full disk or Ctrl-C ends it at once."""
    height, width = (min(_CHUNK, length) for length in labels.shape[-2:])
    chunks = (1,) * (labels.ndim - 2) + (height, width)
    facts = {"zarr_format": 2, "shape": labels.shape, "chunks": chunks, "dtype": "<i4", "order": "C", "fill_value": 0}
    facts |= {"compressor": {"id": "zlib", "level": 4}, "filters": None, "dimension_separator": "/"}
    folder.mkdir()
    (folder / ".zarray").write_text(json.dumps(facts))
    for place in np.ndindex(*(-(-length // chunk) for length, chunk in zip(labels.shape, chunks, strict=True))):
        part = labels[tuple(slice(k * chunk, (k + 1) * chunk) for k, chunk in zip(place, chunks, strict=True))]
        if part.any():
            whole = np.zeros(chunks, "<i4")
            whole[tuple(slice(length) for length in part.shape)] = part
            file = folder.joinpath(*map(str, place))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(zlib.compress(whole.tobytes(), 4))


def _facts(group: Any) -> Mapping[str, Any]:
    """The OME metadata of a group, which 0.5 keeps one level deeper."""
    attributes = dict(group.attrs)
    deeper = attributes.get("ome")
    return deeper if isinstance(deeper, Mapping) else attributes


def _inside(path: Path, name: str) -> str:
    """A dataset's path, which must not lead out of the folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name:
        raise ReadError(f"{path}: found the level {name!r}, which leads out of the folder; expected a name in it")
    return name


def _pixels(path: Path, array: Any) -> Any:
    """All pixels, after a look at how they are packed: old numcodecs unpickle, and chunks can be of any size."""
    packed_by = {getattr(codec, "codec_id", "") for codec in (*array.filters, *array.compressors)} - {""}
    unknown = sorted(name for name in packed_by if name not in _CODECS and not name.startswith("imagecodecs_"))
    if unknown or array.dtype.kind not in "buifc":
        found = f"chunks packed by {unknown[0]!r}" if unknown else f"an array of {array.dtype}"
        raise ReadError(f"{path}: found {found}; expected numbers, plain or packed: nothing was run")
    files = [entry.stat().st_size for entry in _files(Path(array.store.root) / array.path)]
    check_decoded_size(path, array.shape, array.dtype.itemsize, sum(files))
    image, chunk = (math.prod(shape) * array.dtype.itemsize for shape in (array.shape, array.shards or array.chunks))
    if chunk > max(_LARGE_CHUNK, 4 * image) or max(files, default=0) > 1.1 * chunk + _SLACK:
        raise ReadError(
            f"{path}: found chunks of {chunk:,} bytes, in files of up to {max(files, default=0):,}, of an image of "
            f"{image:,}; expected chunks smaller than the image, and files smaller than chunks"
        )
    if not array.shards:
        _check_streams(path, array, chunk)
    return array[...]


def _check_streams(path: Path, array: Any, chunk: int) -> None:
    """Refuse chunks that unpack to more than they may, unpacking no more of them than that."""
    names = [getattr(one, "codec_id", type(one).__name__.removesuffix("Codec").lower()) for one in array.compressors]
    if len(names) != 1 or names[0] not in _STREAMS:
        return
    (unpacker, ratio), limit = _STREAMS[names[0]], chunk + _SLACK
    for entry in _files(Path(array.store.root) / array.path):
        if entry.name.startswith(".") or entry.name == "zarr.json" or entry.stat().st_size * ratio <= limit:
            continue
        if len(unpacker().decompress(Path(entry.path).read_bytes(), limit + 1)) > limit:
            raise ReadError(
                f"{path}: found a chunk that unpacks to more than the {chunk:,} bytes of its kind; "
                "expected no more: nothing was read"
            )


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(Path(entry.path))
            else:
                yield entry


def _letters(names: Sequence[Any] | None) -> str | None:
    if not names or not all(isinstance(name, str) for name in names):
        return None
    letters = "".join(name.upper() for name in names)
    return letters if len(letters) == len(names) and not set(letters) - set("TCZYX") else None


def _sizes(axes: Sequence[Any], names: Sequence[Any], holders: Sequence[Any]) -> dict[str, float]:
    """µm by axis letter: the product of the scales of the level and of the whole pyramid."""
    units = [MICROMETRES.get(axis.get("unit", "")) if isinstance(axis, Mapping) else None for axis in axes]
    factors = [1.0] * len(names)
    stated = False
    for holder in holders:
        for transformation in holder.get("coordinateTransformations") or []:
            scale = transformation.get("scale") if transformation.get("type") == "scale" else None
            if isinstance(scale, Sequence) and len(scale) == len(factors):
                factors = [factor * float(value) for factor, value in zip(factors, scale, strict=True)]
                stated = True
    pairs = zip(names, factors, units, strict=False)
    return {str(n).upper(): f * u for n, f, u in pairs if stated and u and str(n).upper() in "ZYX" and f > 0}
