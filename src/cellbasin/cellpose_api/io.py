"""`cellpose.io`: files."""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image as Pillow

from cellbasin.cellpose.files import places, write_results
from cellbasin.cellpose.images import list_images, masks_of
from cellbasin.cellpose_api.arrays import channel_pair, own_value
from cellbasin.cli.console import CommandError
from cellbasin.image import Image
from cellbasin.io import atomic, read_labels, read_pixels, write_rois, write_seg
from cellbasin.network_outputs import unscaled
from cellbasin.results import Segmentation
from cellbasin.weights import user_folder

Files = str | os.PathLike[str]


def logger_setup(*_: Any, **__: Any) -> tuple[logging.Logger, Path]:
    """A logger that prints; no log file is written (the path is that of no file)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(levelname)s] %(message)s", stream=sys.stdout)
    return logging.getLogger("cellbasin"), Path(os.devnull)


def imread(filename: Files) -> np.ndarray:
    """The pixels of an image as stored, or the masks of a `_seg.npy`; raises ReadError where Cellpose returns None."""
    name = os.fspath(filename)
    return read_labels(name) if str(name).endswith("_seg.npy") else read_pixels(name)


def imsave(filename: Files, arr: np.ndarray) -> None:
    """Write TIFF or PNG by the name's ending."""
    path = Path(filename)
    with atomic(path) as temporary:
        if path.suffix.lower() in (".tif", ".tiff"):
            tifffile.imwrite(temporary, arr, compression="zlib")
        else:
            Pillow.fromarray(arr).save(temporary)


def outlines_to_text(base: Files, outlines: Sequence[np.ndarray]) -> None:
    """Write BASE_cp_outlines.txt: x1,y1,x2,y2,... for each outline."""
    lines = [",".join(map(str, np.ravel(outline).astype(int).tolist())) + "\n" for outline in outlines]
    with atomic(f"{os.fspath(base)}_cp_outlines.txt") as temporary:
        temporary.write_text("".join(lines), encoding="ascii")


def save_rois(masks: np.ndarray, file_name: Files, multiprocessing: bool | None = None) -> None:
    """Write the objects as ImageJ ROIs to NAME_rois.zip beside the image NAME.*."""
    write_rois(f"{os.path.splitext(os.fspath(file_name))[0]}_rois.zip", np.asarray(masks).astype(np.int32))


def masks_flows_to_seg(
    images: Any, masks: Any, flows: Any, file_names: Any, diams: Any = 30.0, channels: Any = None, **_: Any
) -> None:
    """Write NAME_seg.npy for one result of `eval`, or for each of lists.

    Cellpose 1 and 2 have diams before file_names; what is no name is taken for the diameters.
    """
    if not _are_names(file_names):
        file_names, diams = diams, file_names
    if isinstance(masks, list):
        names = file_names if isinstance(file_names, list | tuple) else [file_names] * len(masks)
        for n, mask in enumerate(masks):
            own = None if channels is None else channel_pair(channels, n, len(masks))
            masks_flows_to_seg(None, mask, flows[n], names[n], own_value(diams, n, len(masks)), own)
        return
    pair = (0, 0) if channels is None else channel_pair(channels)
    path = f"{os.path.splitext(os.fspath(file_names))[0]}_seg.npy"
    labels = np.asarray(masks).astype(np.int32)
    diameter = float(np.median(np.asarray(diams, float))) if diams is not None else 30.0
    flow, probability = unscaled(flows[1], flows[2])
    if len(flow) < labels.ndim:  # of planes that were segmented each by itself
        flow = np.concatenate([np.zeros_like(flow[:1]), flow])
    write_seg(path, labels, flow, probability, diameter, os.fspath(file_names), pair)


def _are_names(value: Any) -> bool:
    first = value[0] if isinstance(value, list | tuple) and value else value
    return isinstance(first, str | os.PathLike)


def save_masks(
    images: Any,
    masks: Any,
    flows: Any,
    file_names: Any,
    png: bool = True,
    tif: bool = False,
    channels: Any = (0, 0),
    suffix: str = "_cp_masks",
    save_flows: bool = False,
    save_outlines: bool = False,
    dir_above: bool = False,
    in_folders: bool = False,
    savedir: str | None = None,
    save_txt: bool = False,
    save_mpl: bool = False,
) -> None:
    """Write masks and what else is asked for, beside the image or in `savedir`; for one result or for each of lists."""
    asked: dict[str, Any] = {
        "save_flows": save_flows,
        "save_outlines": save_outlines,
        "dir_above": dir_above,
        "in_folders": in_folders,
        "savedir": savedir,
        "save_txt": save_txt,
        "save_mpl": save_mpl,
    }
    if isinstance(masks, list):
        for image, mask, flow, name in zip(images, masks, flows, file_names, strict=True):
            save_masks(image, mask, flow, name, png, tif, channels, suffix, **asked)
        return
    labels, nothing = np.asarray(masks).astype(np.int32), np.zeros(0)
    flow, probability = unscaled(flows[1], flows[2]) if save_flows else (nothing, nothing)
    result = Segmentation(labels, flow, probability, nothing, 0.0, {"label": np.unique(labels)[1:]}, {})
    given = Namespace(
        **asked, save_png=png, save_tif=tif, output_name=suffix, no_npy=True, save_rois=False, chan=0, chan2=0
    )
    write_results(result, _picture(images, labels.shape), places(Path(file_names), given), given)


def _picture(image: Any, shape: tuple[int, ...]) -> Image:
    """An image under its masks, its axes told by their shape."""
    array = np.asarray(image)
    axes = "ZYX"[-len(shape) :]
    if array.shape == shape:
        return Image(array, axes)
    return Image(array, axes + "C") if array.shape[:-1] == shape else Image(array, "C" + axes)


def save_to_png(images: Any, masks: Any, flows: Any, file_names: Any) -> None:
    """`save_masks` with its defaults."""
    save_masks(images, masks, flows, file_names, png=True)


def get_image_files(
    folder: str, mask_filter: str, imf: str | None = None, look_one_level_down: bool = False
) -> list[str]:
    """Images of a folder that are no results, in natural order."""
    return [str(path) for path in list_images(folder, imf or "", mask_filter, one_level_down=look_one_level_down)]


def get_label_files(image_names: Sequence[str], mask_filter: str, imf: str | None = None) -> tuple[list[str], None]:
    """The label file of every image, and None in the place of files of flows; raises ReadError where one is missing."""
    return [str(masks_of(Path(name), imf or "", mask_filter)) for name in image_names], None


def load_images_labels(
    tdir: str, mask_filter: str = "_masks", image_filter: str | None = None, look_one_level_down: bool = False
) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """Images, labels and names of the annotated images of a folder."""
    names = get_image_files(tdir, mask_filter, image_filter, look_one_level_down)
    files, _ = get_label_files(names, mask_filter, image_filter)
    return [imread(name) for name in names], [read_labels(file) for file in files], names


def load_train_test_data(
    train_dir: str,
    test_dir: str | None = None,
    image_filter: str | None = None,
    mask_filter: str = "_masks",
    look_one_level_down: bool = False,
) -> tuple[Any, ...]:
    """Images, labels, names of the training folder, then of the test folder (None without one)."""
    one = load_images_labels(train_dir, mask_filter, image_filter, look_one_level_down)
    if test_dir is None:
        return (*one, None, None, None)
    return (*one, *load_images_labels(test_dir, mask_filter, image_filter, look_one_level_down))


def add_model(filename: Files) -> None:
    """Keep a network's file, to be used by its name; raises ValueError for files and names that cannot be used."""
    from cellbasin.cli.models import add

    try:
        add(os.fspath(filename))
    except CommandError as error:
        raise ValueError(str(error)) from error


def remove_model(filename: Files, delete: bool = False) -> None:
    """Forget an added network; delete: also its file, if it is one."""
    name = Path(filename).name.removesuffix(".pth").removesuffix(".pt").removesuffix(".safetensors")
    (user_folder() / f"{name}.safetensors").unlink(missing_ok=True)
    if delete:
        Path(filename).unlink(missing_ok=True)
