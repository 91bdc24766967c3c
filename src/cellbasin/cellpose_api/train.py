"""`cellpose.train`: training on arrays or files, as `cellbasin-cellpose --train` does it on folders."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellbasin.cellpose_api.arrays import arranged, picked
from cellbasin.model import load_model

if TYPE_CHECKING:
    from cellbasin.training.prepared import Annotated


_ONLY = {"train_probs": None, "test_probs": None, "class_weights": None, "rgb": False, "normalize": True}
_WITHOUT_EFFECT = {"learning_rate", "weight_decay", "momentum", "SGD", "batch_size", "nimg_per_epoch"}
_WITHOUT_EFFECT |= {"nimg_test_per_epoch", "save_every", "save_each", "load_files", "compute_flows", "rescale"}
_WITHOUT_EFFECT |= {"scale_range", "bsize"}


def train_seg(
    net: Any,
    train_data: Sequence[np.ndarray] | None = None,
    train_labels: Sequence[np.ndarray] | None = None,
    train_files: Sequence[str] | None = None,
    train_labels_files: Sequence[str] | None = None,
    test_data: Sequence[np.ndarray] | None = None,
    test_labels: Sequence[np.ndarray] | None = None,
    test_files: Sequence[str] | None = None,
    test_labels_files: Sequence[str] | None = None,
    channels: Any = None,
    channel_axis: int | None = None,
    n_epochs: int = 500,
    min_train_masks: int = 5,
    save_path: str | None = None,
    model_name: str | None = None,
    **others: Any,
) -> tuple[Path, np.ndarray, np.ndarray]:
    """Go on training the network `CellposeModel(...).net` on images and labels (arrays, or files of them).

    Returns the file SAVE_PATH/models/MODEL_NAME (of the kind that `net` is of), and the losses that were logged, of
    training and test images; `net` is the trained network then. Learning rate and the like are the recipe's. Raises
    ValueError where no image has enough objects or a keyword cannot be followed, TypeError for unknown ones.
    """
    from cellbasin.cellpose.training import trained, write_model
    from cellbasin.cli.console import CommandError

    _check(others)
    readers = _readers(
        train_data, train_labels, train_files, train_labels_files, channels, channel_axis, min_train_masks
    )
    tests = _readers(test_data, test_labels, test_files, test_labels_files, channels, channel_axis, 1)
    if not readers:
        raise ValueError(f"found no image with {min_train_masks} objects or more, expected some to learn from")
    lines: list[dict[str, Any]] = []
    given = Namespace(n_epochs=n_epochs, diam_mean=net.weights[0].card.diameter, train_size=False)
    start = net.weights[0] if net.weights[0].sha256 else None  # what comes from no file knows nothing yet
    try:
        weights = trained(readers, tests, start, given, lambda line: None, lines.append)
    except CommandError as error:
        raise ValueError(str(error)) from error
    folder = Path(save_path or ".") / "models"
    folder.mkdir(parents=True, exist_ok=True)
    path = write_model(weights, folder, model_name or f"cellpose_{time.time():.4f}", start, given)
    vars(net).update(vars(load_model(path)))
    losses = [line["flow"] + line["inside"] for line in lines if "flow" in line]
    watched = [line["validation_loss"] for line in lines if "validation_loss" in line]
    return path, np.array(losses), np.array(watched)


def _check(others: dict[str, Any]) -> None:
    for name, value in others.items():
        if name in _ONLY and np.any(value != _ONLY[name]):
            raise ValueError(f"found {name}={value!r}, expected {_ONLY[name]!r}: nothing else is done here")
        if name not in _ONLY and name not in _WITHOUT_EFFECT:
            raise TypeError(f"train_seg() got an unexpected keyword argument {name!r}")


def _readers(
    images: Sequence[np.ndarray] | None,
    labels: Sequence[np.ndarray] | None,
    files: Sequence[str] | None,
    label_files: Sequence[str] | None,
    channels: Any,
    channel_axis: int | None,
    least: int,
) -> list[Any]:
    """What training reads: arrays where there are some, else files."""
    from cellbasin.cellpose.training import count_objects
    from cellbasin.cellpose_api.io import imread
    from cellbasin.io import read_labels

    pictures: list[Any] = list(images) if images is not None else [partial(imread, name) for name in files or ()]
    masks: list[Any] = list(labels) if labels is not None else [read_labels(name) for name in label_files or ()]
    if len(pictures) != len(masks):
        raise ValueError(f"found {len(pictures)} images and {len(masks)} labels, expected the same number of each")
    names = list(files) if files is not None else [f"image {n}" for n in range(len(pictures))]
    return [
        partial(_annotated, picture, mask, name, channels, channel_axis)
        for picture, mask, name in zip(pictures, masks, names, strict=True)
        if count_objects(mask) >= least
    ]


def _annotated(picture: Any, mask: np.ndarray, name: str, channels: Any, channel_axis: int | None) -> Annotated:
    from cellbasin.training.prepared import Annotated

    planes, axes = arranged(picture() if callable(picture) else picture, channel_axis, None, volume=False)
    if not np.isfinite(planes).all():
        raise ValueError(f"{name}: found NaN or infinite values; expected finite ones: replace them first")
    if axes != "CYX" or planes.shape[1:] != np.shape(mask):
        raise ValueError(
            f"{name}: found an image {planes.shape[1:]} and labels {np.shape(mask)}, expected the same size"
        )
    return Annotated(picked(planes, channels), np.asarray(mask).astype(np.int64), Path(name).stem, "own")
