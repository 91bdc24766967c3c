"""Training as Cellpose's command line does it: annotated images in a folder, the new model in its folder `models`.

The new model is of the kind that it starts from: of a network of Cellpose's a file that Cellpose loads too, else one of
cellbasin's. QuPath follows the lines that are logged and takes the file from the folder.
"""

from __future__ import annotations

import re
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellbasin.cellpose.images import list_images, masks_of, own_channels, read
from cellbasin.cellpose.networks import find_network
from cellbasin.cli.console import DONE, CommandError, check_torch
from cellbasin.io import ReadError, Record, atomic, read_labels
from cellbasin.options import NOT_ANNOTATED

if TYPE_CHECKING:
    from cellbasin.training.prepared import Annotated
    from cellbasin.training.recipe import Recipe
    from cellbasin.weights import Weights

Say = Callable[[str], None]
Readers = list[Callable[[], "Annotated"]]
_NOTHING = ("", "None", "False", "0", "scratch")
_TEST_EVERY = 60.0  # seconds


def train(given: Namespace, log: Say, warn: Say) -> int:
    """Train on --dir and write --dir/models/NAME. Returns the exit code; raises CommandError and ReadError."""
    check_torch()
    if not given.dir:
        raise CommandError("found no --dir, expected the folder of annotated images")
    name = given.model_name_out or f"cellpose_{time.time():.4f}"
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise CommandError(f"found --model_name_out {name!r}, expected letters, digits, dots, - and _")
    start = _start(given, warn)
    readers = annotated(given.dir, given, log)
    tests = annotated(given.test_dir, given, log) if given.test_dir else []
    weights = trained(readers, tests, start, given, log)
    folder = Path(given.dir) / "models"
    folder.mkdir(exist_ok=True)
    path = write_model(weights, folder, name, start, given)
    log(f">>>> model trained and saved to {path.resolve()}")
    return DONE


def write_model(weights: Weights, folder: Path, name: str, start: Weights | None, given: Namespace) -> Path:
    """Write FOLDER/NAME, and with --train_size of a network of Cellpose's its size model; returns the path.

    It is Cellpose's own kind where the training started from such a network, or from nothing.
    """
    from cellbasin.foreign import exported
    from cellbasin.weights import save_weights

    if start is not None and start.card.conventions != "cellpose":
        save_weights(folder / name, replace(weights.card, name=name), weights.tensors)
        return folder / name
    for file, data in exported(weights, name).items():
        if file == name or given.train_size:  # QuPath takes the one file that it finds
            with atomic(folder / file) as temporary:
                temporary.write_bytes(data)
    return folder / name


def annotated(folder: str, given: Namespace, log: Say) -> Readers:
    """Readers of the annotated images of a folder; those with too few objects are left out. Raises ReadError."""
    from cellbasin.training.folder import read_annotated

    channels = own_channels(given.chan, given.chan2)
    pixels = partial(read, channel_axis=given.channel_axis, z_axis=given.z_axis)
    images = list_images(folder, given.img_filter, given.mask_filter, one_level_down=given.look_one_level_down)
    readers: Readers = []
    for image in images:
        masks = masks_of(image, given.img_filter, given.mask_filter)
        objects = count_objects(read_labels(masks))
        if objects < given.min_train_masks:
            log(f"{image.name}: {objects} objects, fewer than --min_train_masks {given.min_train_masks}: left out")
            continue
        record = Record(Path(folder).name, "", image.stem, image, masks)
        readers.append(partial(read_annotated, record, channels, pixels))
    if not readers:
        raise ReadError(f"{folder}: found no image with {given.min_train_masks} objects or more; expected some")
    return readers


def count_objects(labels: np.ndarray) -> int:
    """How many objects are annotated.

    >>> count_objects(np.array([[1, 1, 5, 65535]]))
    2
    """
    return np.setdiff1d(labels, (0, NOT_ANNOTATED)).size


def _start(given: Namespace, warn: Say) -> Weights | None:
    from cellbasin.foreign import open_weights

    if given.pretrained_model in _NOTHING:
        return None
    found, notice = find_network(given.pretrained_model)
    if notice:
        warn(notice)
    return open_weights(found)


def _recipe(given: Namespace, start: Weights | None) -> Recipe:
    from cellbasin.training.recipe import RECIPES

    if given.n_epochs < 1:
        raise CommandError(f"found --n_epochs {given.n_epochs}, expected 1 or more")
    return replace(
        RECIPES["tune" if start else "default"],
        minutes=0,
        epochs=given.n_epochs,
        warmup=0,
        generated=0.0,
        diameter=start.card.diameter if start else given.diam_mean,
    )


def trained(
    readers: Readers,
    tests: Readers,
    start: Weights | None,
    given: Namespace,
    log: Say,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Weights:
    """A network trained on the images that the readers give, with its size model.

    Raises CommandError where it cannot be trained.
    """
    from cellbasin.training.loop import TrainingError
    from cellbasin.training.loop import train as run
    from cellbasin.training.prepared import prepare_all
    from cellbasin.training.size_fit import fit_size_model
    from cellbasin.training.validation_loss import validation_loss
    from cellbasin.weights import PAPER, load_weights

    recipe = _recipe(given, start)
    log(f">>>> training on {len(readers)} images, objects resized to {recipe.diameter:g} pixels")
    images = prepare_all(readers, recipe.ignore_label)
    if not any(image.areas.size for image in images):
        raise CommandError(f"found no object in the labels of {len(images)} images, expected some")
    told = report or _Lines(log, len(images), recipe)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "network.safetensors"
        try:
            run(
                images,
                start.card.architecture if start else PAPER,
                recipe,
                out,
                start=start,
                validate=validation_loss(prepare_all(tests, recipe.ignore_label), recipe) if tests else None,
                validate_every=_TEST_EVERY,
                report=told,
            )
        except TrainingError as error:
            raise CommandError(str(error)) from error
        weights = load_weights(out)
    log("fitting the size model")
    weights = fit_size_model(weights, readers, recipe.ignore_label, recipe.seed)
    card = replace(weights.card, typical_diameter=float(np.nanmedian([_own_diameter(reader()) for reader in readers])))
    return replace(weights, card=card)


def _own_diameter(image: Annotated) -> float:
    from cellbasin.labels import median_diameter

    return median_diameter(image.labels, NOT_ANNOTATED)


class _Lines:
    """The lines of a training as Cellpose 3 logs them."""

    def __init__(self, log: Say, images: int, recipe: Recipe) -> None:
        self._log, self._steps = log, max(1, images // recipe.schedule[-1][2])
        self._test = 0.0

    def __call__(self, record: dict[str, Any]) -> None:
        """Take one record of the training."""
        if "validation_loss" in record:
            self._test = record["validation_loss"]
        elif "flow" in record:
            self._log(
                f"{record['step'] // self._steps}, train_loss={record['flow'] + record['inside']:.4f}, "
                f"test_loss={self._test:.4f}, LR={record['rate']:.6f}, time {record['seconds']:.2f}s"
            )
