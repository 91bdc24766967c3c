"""Save a segmentation: one table of what can be written, under which ending, by which function."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellbasin.image import Image, as_image

from .coco import write_coco
from .errors import ReadError
from .montage import write_volume_overlay
from .seg import read_seg, write_seg
from .vector_write import write_geojson, write_outlines_text, write_rois
from .write import is_as_segmented, write_flows, write_labels, write_overlay, write_parquet, write_table

if TYPE_CHECKING:
    from cellbasin.results import Segmentation  # for annotations alone: it loads numba


@dataclass(frozen=True)
class Output:
    """One kind of file: what is added to the stem, how it is written, for images of which axes it is to be had.

    sweep: what is added to the stem for the animation that volumes have beside it; package: what it cannot be written
    without.
    """

    suffix: str
    write: Callable[[Path, Segmentation, Image], None]
    spatial_axes: tuple[str, ...] = ("YX", "ZYX")
    sweep: str = ""
    package: str = ""

    @property
    def suffixes(self) -> list[str]:
        """Of all files that may be written."""
        return [self.suffix, self.sweep] if self.sweep else [self.suffix]


def _labels(path: Path, result: Segmentation, image: Image) -> None:
    write_labels(path, result.labels, image.voxel_size, result.provenance)


def _outlines(path: Path, result: Segmentation, image: Image) -> None:
    write_outlines_text(path, result.labels)


def _flows(path: Path, result: Segmentation, image: Image) -> None:
    write_flows(path, result.flow, result.probability, image.voxel_size, result.provenance)


def _rois(path: Path, result: Segmentation, image: Image) -> None:
    write_rois(path, result.labels)


def _geojson(path: Path, result: Segmentation, image: Image) -> None:
    write_geojson(path, result.labels, result.objects)


def _table(path: Path, result: Segmentation, image: Image) -> None:
    write_table(path, _measured(result, image))


def _parquet(path: Path, result: Segmentation, image: Image) -> None:
    write_parquet(path, _measured(result, image))


def _measured(result: Segmentation, image: Image) -> dict[str, np.ndarray]:
    """The table of objects with their shapes and intensities."""
    from cellbasin.measure import measure_intensities, measure_shapes, measure_volumes

    flat = result.labels.ndim == 2
    shapes = (measure_shapes if flat else measure_volumes)(result.labels, image.voxel_size)
    return {**result.objects, **shapes, **measure_intensities(result.labels, image)}


def _coco(path: Path, result: Segmentation, image: Image) -> None:
    write_coco(path, result.labels, image.name or path.name.removesuffix("_coco.json"), result.objects)


def _overlay(path: Path, result: Segmentation, image: Image) -> None:
    if result.labels.ndim == 3:
        anisotropy = float(result.provenance.get("anisotropy", 1.0))
        write_volume_overlay(path, image, result.labels, anisotropy, _channels(result))
        return
    write_overlay(path, image, result.labels, _channels(result))


def _zarr(path: Path, result: Segmentation, image: Image) -> None:
    from .ome_zarr import write_zarr_labels

    write_zarr_labels(path, result.labels, image.voxel_size, image.name or "labels", provenance=result.provenance)


def _seg(path: Path, result: Segmentation, image: Image) -> None:
    """Named as the image's file, which Cellpose's window looks for beside it."""
    name, chosen = image.name or path.name.removesuffix("_seg.npy"), _channels(result)
    colours = image.channels_first.shape[0] if chosen else 1
    numbers = [k + 1 for k in chosen or ()] + [0, 0]
    channels = (numbers[0], numbers[1]) if 1 < colours <= 3 else (0, 0)
    write_seg(path, result.labels, result.flow, result.probability, result.diameter, name, channels)


_IMAGES = ("YX",)

OUTPUTS: dict[str, Output] = {
    "labels": Output("_masks.tif", _labels),  # label image, TIFF
    "zarr": Output("_masks.zarr", _zarr),  # label image, OME-Zarr 0.4
    "outlines": Output("_outlines.txt", _outlines, _IMAGES),  # outlines as text, x1,y1,x2,y2,... for each object
    "flows": Output("_flows.tif", _flows),  # flow (y, x) and probability, float TIFF
    "rois": Output("_rois.zip", _rois, _IMAGES),  # ROIs for ImageJ and Fiji
    "geojson": Output("_objects.geojson", _geojson, _IMAGES),  # polygons and measurements for QuPath
    "table": Output("_objects.csv", _table),  # a line of measurements for each object
    "parquet": Output("_objects.parquet", _parquet, package="pyarrow"),  # the same as Parquet
    "coco": Output("_coco.json", _coco, _IMAGES),  # COCO annotations
    "overlay": Output("_overlay.png", _overlay, sweep="_overlay.gif"),  # picture with coloured outlines
    "seg": Output("_seg.npy", _seg),  # file of Cellpose's own window
}
"""Everything that `save` can write, by name."""


def check_outputs(what: Iterable[str]) -> tuple[str, ...]:
    """Names out of `OUTPUTS`, or one name, each once, in the given order.

    Raises
    ------
    ValueError for an unknown name, none at all, or one that needs a package which is not installed.

    >>> check_outputs(["labels", "rois", "labels"])
    ('labels', 'rois')
    """
    names = tuple(dict.fromkeys([what] if isinstance(what, str) else what))
    unknown = [name for name in names if name not in OUTPUTS]
    if unknown or not names:
        raise ValueError(f"found {', '.join(unknown) or 'nothing'} to save; expected some of {', '.join(OUTPUTS)}")
    for name in names:
        package = OUTPUTS[name].package
        if package and importlib.util.find_spec(package) is None:
            raise ValueError(
                f"found {name} to save, which needs {package}, and that is not installed; "
                "install it with pip install 'cellbasin[formats]', or leave it out"
            )
    return names


def is_by_hand(name: str, path: Path) -> bool:
    """Whether what is at the place of an output is people's own work: labels that `save` did not write, or a `_seg.npy`
    with objects drawn or changed in Cellpose's window.
    """
    if name == "zarr" and os.path.isdir(path):
        from .ome_zarr import is_zarr_as_segmented

        return not is_zarr_as_segmented(path)
    if not os.path.isfile(path):  # also of a name that is too long, which pathlib raises an error for
        return False
    if name == "seg":
        try:
            return read_seg(path).by_hand
        except ReadError:
            return False
    return name == "labels" and not is_as_segmented(path)


def check_dimensions(what: Iterable[str], image: Image) -> None:
    """Raise ValueError for files that cannot be written of an image, which is a volume.

    >>> check_dimensions(["labels", "rois"], Image(np.zeros((5, 40, 40)), "ZYX"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: found a volume, of which no rois can be saved; expected some of labels, ...
    """
    axes = image.spatial_axes
    wrong = [name for name in what if axes not in OUTPUTS[name].spatial_axes]
    if wrong:
        fitting = [name for name, output in OUTPUTS.items() if axes in output.spatial_axes]
        raise ValueError(
            f"found a volume, of which no {', '.join(wrong)} can be saved; expected some of {', '.join(fitting)}"
        )


def save(
    result: Segmentation,
    image: np.ndarray | Image,
    stem: str | os.PathLike[str],
    what: Iterable[str] = ("labels",),
) -> dict[str, Path]:
    """Write what is asked for of a segmentation, each file whole or not at all.

    Parameters
    ----------
    result : of `Model.segment`. Not modified.
    image : what was segmented (an array has the axes that it was segmented with); gives
        voxel size, the picture under the overlay and the name in `_seg.npy`.
    stem : path of the files without the endings of `OUTPUTS`: "out/cells" gives "out/cells_masks.tif".
    what : names out of `OUTPUTS`, or one name.

    Returns
    -------
    Paths of the files by name, in the order of `what`; the overlay of a volume is followed by "sweep", its animation.

    Raises
    ------
    WriteError when a file cannot be written (those before it are whole); ValueError for an unknown name, or one that
    is not to be had of volumes or without a package.

    >>> import tempfile
    >>> from cellbasin import generate, load_model
    >>> image = generate("nuclei", (96, 96), seed=1).image[0]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = save(load_model().segment(image), image, folder + "/cells", ("labels", "table"))
    ...     [path.name for path in paths.values()]
    ['cells_masks.tif', 'cells_objects.csv']
    """
    names = check_outputs(what)
    image = _segmented(image, result)
    if result.labels.ndim == 3:
        check_dimensions(names, image)
    written = {}
    for name in names:
        output = OUTPUTS[name]
        written[name] = Path(f"{os.fspath(stem)}{output.suffix}")
        output.write(written[name], result, image)
        if output.sweep and result.labels.ndim == 3:
            written["sweep"] = Path(f"{os.fspath(stem)}{output.sweep}")
    return written


def _segmented(image: np.ndarray | Image, result: Segmentation) -> Image:
    known = result.provenance.get("image", {})
    same = not isinstance(image, Image) and known and list(np.shape(image)) == known["shape"]
    return as_image(image, known["axes"]) if same else as_image(image)


def _channels(result: Segmentation) -> tuple[int, ...] | None:
    """The channels that were segmented, so that the overlay shows what the network saw."""
    options = result.provenance.get("options")
    chosen = options.get("channels") if isinstance(options, dict) else None
    return tuple(int(channel) for channel in chosen) if chosen else None
