"""`cellpose.plot`: pictures of masks and flows."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellbasin.cellpose_api.arrays import arranged
from cellbasin.image import Image
from cellbasin.io import display, flow_colours, overlay
from cellbasin.network_outputs import FLOW_SCALE


def dx_to_circ(dP: np.ndarray) -> np.ndarray:
    """Direction of a flow (2, Y, X) as colour, its length (5 is full) as brightness: uint8 (Y, X, 3)."""
    return flow_colours(np.asarray(dP, np.float32) / FLOW_SCALE)


def mask_rgb(masks: np.ndarray, colors: np.ndarray | None = None) -> np.ndarray:
    """Every object in a colour of its own, uint8 (Y, X, 3)."""
    masks = np.asarray(masks).astype(int)
    table = np.zeros((masks.max(initial=0) + 1, 3), np.uint8)
    table[1:] = np.random.default_rng(0).integers(60, 256, (len(table) - 1, 3)) if colors is None else colors
    return table[masks]


def mask_overlay(img: np.ndarray, masks: np.ndarray, colors: np.ndarray | None = None) -> np.ndarray:
    """The image in gray under the objects' colours, uint8 (Y, X, 3)."""
    gray = image_to_rgb(img).mean(axis=-1, keepdims=True)
    colour = mask_rgb(masks, colors)
    inside = (np.asarray(masks) > 0)[..., None]
    return np.where(inside, 0.5 * gray + 0.5 * colour, gray).astype(np.uint8)


def image_to_rgb(img0: np.ndarray, channels: Any = (0, 0)) -> np.ndarray:
    """The image for the screen, uint8 (Y, X, 3); of more than three channels the first three."""
    return display(_image(img0))


def _image(img: np.ndarray) -> Image:
    planes, axes = arranged(img, None, None, volume=False)
    return Image(planes[:3], axes)


def show_segmentation(fig: Any, img: np.ndarray, maski: np.ndarray, flowi: np.ndarray, **_: Any) -> None:
    """Draw image, outlines, masks and flow colours side by side on a figure of matplotlib."""
    masks = np.asarray(maski).astype(np.int32)
    pictures = {
        "original image": image_to_rgb(img),
        "predicted outlines": overlay(_image(img), masks),
        "predicted masks": mask_overlay(img, masks),
        "predicted cell pose": np.asarray(flowi).squeeze(),
    }
    for number, (title, picture) in enumerate(pictures.items(), 1):
        axes = fig.add_subplot(1, 4, number)
        axes.imshow(picture)
        axes.set_title(title)
        axes.axis("off")
