"""The files that Cellpose's command line writes, under its names."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from cellbasin.image import Image
from cellbasin.io import (
    atomic,
    display,
    flow_colours,
    outline_pixels,
    overlay,
    write_labels,
    write_outlines_text,
    write_picture,
    write_rois,
    write_seg,
)
from cellbasin.network_outputs import FLOW_SCALE
from cellbasin.results import Segmentation

_PICTURES = {
    "png": ("masks", "{}.png"),
    "tif": ("masks", "{}.tif"),
    "outlines": ("outlines", "_outlines{}.png"),
    "colours": ("flows", "_flows{}.tif"),
    "flows": ("flows", "_dP{}.tif"),
    "overlay": (".", "_cp_output{}.png"),
}
"""Pictures that are written: folder, where each kind has one of its own, and end of the name around the suffix."""

FLAT_FILES = ("save_txt", "save_outlines", "save_flows", "save_mpl", "save_rois")
"""Flags of files that are written of images only, not of volumes."""

_RED = (255, 0, 0)


@dataclass(frozen=True)
class Places:
    """Where the results of one image go."""

    image: Path
    folder: Path
    suffix: str
    in_folders: bool

    def path(self, kind: str, name: str) -> Path:
        """A file; kind: masks, outlines, txt_outlines or flows, a folder of its own where that is asked for."""
        return (self.folder / kind if self.in_folders else self.folder) / f"{self.image.stem}{name}"

    def picture(self, name: str) -> Path:
        """One of `_PICTURES`."""
        kind, end = _PICTURES[name]
        return self.path(kind, end.format(self.suffix))

    def beside(self, name: str) -> Path:
        """A file beside the image."""
        return self.image.with_name(f"{self.image.stem}{name}")


def places(image: Path, given: Namespace) -> Places:
    """Where Cellpose puts the results of an image; raises ValueError for a name that would lead elsewhere."""
    folder = Path(given.savedir) if given.savedir else image.parent.parent if given.dir_above else image.parent
    apart = given.savedir is not None and Path(given.savedir).resolve() != image.parent.resolve()
    named = given.output_name is not None and (apart or (given.savedir is None and given.output_name))
    suffix = given.output_name if named else "_cp_masks"
    if Path(image.stem + suffix).name != image.stem + suffix:
        raise ValueError(f"found --output_name {suffix}, expected the end of a name, without folders")
    return Places(image, folder, suffix, given.in_folders)


def check_pictures_are_safe(images: Sequence[Path], given: Namespace) -> None:
    """Raise ValueError where masks, or what is drawn of them, would be written over an image."""
    sources = {image.resolve() for image in images}
    for image in images:
        where = places(image, given)
        for name in _PICTURES:
            target = where.picture(name)
            nameless = target.stem == image.stem and target.exists()  # an image, or masks of one
            if target.resolve() in sources or nameless:
                raise ValueError(
                    f"found {target}, which results of {image} would replace; expected another --output_name "
                    "or --savedir"
                )


def write_results(result: Segmentation, image: Image, where: Places, given: Namespace) -> list[Path]:
    """Write what the flags ask for; each file appears whole or not at all. Returns the paths.

    Masks are written for fields without cells too: programs that wait for the file find an empty one.
    """
    labels, written = result.labels, []
    flat = labels.ndim == 2

    def claim(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        written.append(path)
        return path

    as_png = given.save_png and flat and labels.max() <= 65535
    if as_png:
        write_labels(claim(where.picture("png")), labels)
    if given.save_tif or (given.save_png and not as_png):
        write_labels(claim(where.picture("tif")), labels, image.voxel_size, result.provenance)
    if given.save_txt and flat:
        write_outlines_text(claim(where.path("txt_outlines", "_cp_outlines.txt")), labels, points="centres")
    if given.save_outlines and flat:
        write_picture(claim(where.picture("outlines")), _outlined(image, labels))
    if given.save_flows and flat:
        _write_tiff(claim(where.picture("colours")), flow_colours(result.flow).astype(np.uint16) * 257)
        _write_tiff(claim(where.picture("flows")), (FLOW_SCALE * result.flow).astype(np.float32))
    if given.save_mpl and flat:
        write_picture(claim(where.picture("overlay")), overlay(_shown(image), labels))
    if given.save_rois and flat:
        write_rois(claim(where.beside("_rois.zip")), labels)
    if not given.no_npy:
        channels = (given.chan, given.chan2)
        maps = result.flow, result.probability
        write_seg(claim(where.beside("_seg.npy")), labels, *maps, result.diameter, str(where.image), channels)
    return written


def _shown(image: Image) -> Image:
    """At most three channels, as `display` can show them."""
    planes = image.channels_first
    return image if len(planes) <= 3 else Image(planes[:3], "CYX", image.voxel_size, image.name)


def _outlined(image: Image, labels: np.ndarray) -> np.ndarray:
    """The image with the outermost pixels of every object in red."""
    picture = display(_shown(image))
    picture[outline_pixels(labels)] = _RED
    return picture


def _write_tiff(path: Path, array: np.ndarray) -> None:
    photometric = "rgb" if array.dtype == np.uint16 else "minisblack"
    with atomic(path) as temporary:
        tifffile.imwrite(temporary, array, photometric=photometric, compression="zlib")
