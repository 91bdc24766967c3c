"""Files as layers: label images as labels (not as pictures), OME-Zarr and microscopes' files with axes and scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cellbasin.image import Image
from cellbasin.io import (
    ReadError,
    count_positions,
    flow_colours,
    read_image,
    read_labels,
    read_seg,
)
from cellbasin.io.find import LABEL_SUFFIXES
from cellbasin.io.read import is_zarr

from .results import MADE, LayerData, flow_layer, probability_layer

Read = Callable[[Any], list[LayerData]]
_LABELS = tuple(f"_masks{suffix}" for suffix in LABEL_SUFFIXES)


def get_reader(path: str | Sequence[str]) -> Read | None:
    """The reader of a file, or None where it is not one of ours; of several files at once, none is.

    napari calls it for the names in `napari.yaml`, and for every folder.
    """
    if not isinstance(path, str):
        return None
    name = Path(path).name.lower()
    if name.endswith("_seg.npy"):
        return _read(_seg_layers)
    if name.endswith(_LABELS):
        return _read(_label_layers)
    if name.endswith((".nd2", ".czi", ".lif")) or is_zarr(Path(path)):
        return _read(_zarr_layers if Path(path).is_dir() else _image_layers)
    return None


def _read(layers: Callable[[Path], list[LayerData]]) -> Read:
    return lambda path: layers(Path(path))


def _seg_layers(path: Path) -> list[LayerData]:
    """What Cellpose's window saves: labels, and the image and flows where the file has them."""
    seg, name = read_seg(path), path.name[: -len("_seg.npy")]
    layers: list[LayerData] = []
    if seg.image is not None:
        rgb = seg.image.ndim == 3 and seg.image.shape[-1] == 3
        layers.append((seg.image, {"name": name, "rgb": rgb}, "image"))
    kept: dict[str, Any] = {"diameter": seg.diameter}
    if seg.flow is not None and seg.probability is not None:
        layers += [flow_layer(name, flow_colours(seg.flow[-2:])), probability_layer(name, seg.probability)]
        kept |= {"flow": seg.flow, "probability": seg.probability}
    return [*layers, (seg.labels, {"name": f"{name} cells", "metadata": {MADE: kept}}, "labels")]


def _label_layers(path: Path) -> list[LayerData]:
    """A label image, in place where the file says how large its voxels are."""
    labels = read_labels(path)
    told: dict[str, Any] = {}
    if path.is_dir() or path.suffix.lower() in (".tif", ".tiff"):
        with suppress(ReadError):  # of bare stacks, whose axes no image may leave open, labels can be read
            told = _told(read_image(path))
    fits = len(told.get("axis_labels", ())) == labels.ndim
    return [(labels, {**(told if fits else {}), "name": path.stem}, "labels")]


def _zarr_layers(path: Path) -> list[LayerData]:
    """An OME-Zarr folder: label image, or images and the label images that belong to them."""
    from cellbasin.io.ome_zarr import is_zarr_labels, zarr_label_names

    count_positions(path)  # raises ReadError for a folder that is damaged
    if is_zarr_labels(path):
        return _label_layers(path)
    belonging = [layer for name in zarr_label_names(path) for layer in _label_layers(path / "labels" / name)]
    return [*_image_layers(path), *belonging]


def _image_layers(path: Path) -> list[LayerData]:
    """Every image of a file: positions or scenes are a layer each."""
    count = count_positions(path)
    layers: list[LayerData] = []
    for number in range(count):
        image = read_image(path, position=number)
        name = f"{path.stem} {number + 1}" if count > 1 else path.stem
        layers.append((image.array, {**_told(image), "name": name, "rgb": image.axes.endswith("S")}, "image"))
    if not layers:
        raise ReadError(f"{path}: found no image in the file; expected one or more")
    return layers


def _told(image: Image) -> dict[str, Any]:
    """Axis labels, scale and units of an image, for napari."""
    axes = image.axes.removesuffix("S")
    told: dict[str, Any] = {"axis_labels": tuple(axes.lower())}
    if image.voxel_size is not None:
        sizes = dict(zip(image.spatial_axes, image.voxel_size, strict=True))
        told["scale"] = tuple(sizes.get(axis, 1.0) for axis in axes)
        told["units"] = tuple("micrometer" if axis in sizes else "pixel" for axis in axes)
    return told
