"""Segment and score annotated images: what `cellbasin evaluate` prints and training validates with."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cellbasin import metrics
from cellbasin.image import Image
from cellbasin.io import LABEL_SUFFIXES, ReadError, Record, image_stem, is_zarr, read_image, read_labels
from cellbasin.labels import check_numbered, median_diameter
from cellbasin.metrics import Interval, Scores, match, overlap, summarise
from cellbasin.model import Model, Progress
from cellbasin.options import NOT_ANNOTATED, Options
from cellbasin.results import Segmentation
from cellbasin.weights import Card, Weights

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
SHOWN = metrics.THRESHOLDS  # of these, those that are told to people


@dataclass(frozen=True, slots=True)
class ImageScore:
    """Scores of one image.

    average_precision, tp, fp, fn: at each of the evaluation's thresholds. true_diameter, diameter: median of
    the annotated objects (NaN without any) and the one used or, of `score_labels`, of the predicted objects;
    pixels. seconds: of the segmentation alone, NaN where none was made.
    """

    source: str
    name: str
    average_precision: tuple[float, ...]
    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]
    true_diameter: float
    diameter: float
    seconds: float = math.nan

    @property
    def log2_ratio(self) -> float:
        """log2(diameter / true diameter), NaN where one of them is unknown."""
        known = self.true_diameter > 0 and self.diameter > 0
        return math.log2(self.diameter / self.true_diameter) if known else math.nan


@dataclass(frozen=True)
class Evaluation:
    """Scores of many images, with their means."""

    images: tuple[ImageScore, ...]
    thresholds: tuple[float, ...] = THRESHOLDS

    @cached_property
    def scores(self) -> Scores:
        """Means over images and over sources with at least five images, with 95 % bootstrap intervals."""
        values = [image.average_precision for image in self.images]
        return summarise(np.array(values), [image.source for image in self.images], self.thresholds)

    def at(self, threshold: float) -> tuple[Interval, Interval]:
        """Average precision over images and over sources at one of the thresholds."""
        place = self.thresholds.index(threshold)
        return self.scores.over_images[place], self.scores.over_sources[place]

    def of(self, source: str) -> Evaluation:
        """The images of one source."""
        return replace(self, images=tuple(image for image in self.images if image.source == source))

    @property
    def sources(self) -> list[str]:
        """Names in alphabetical order."""
        return sorted({image.source for image in self.images})

    def summary(self) -> dict[str, Any]:
        """Counts at every threshold, mean precision, diameters and time of all images together."""
        table = np.array([image.average_precision for image in self.images])
        ratios = np.array([image.log2_ratio for image in self.images])
        ratios = np.abs(ratios[np.isfinite(ratios)])
        seconds = np.array([image.seconds for image in self.images])
        return {
            "images": len(self.images),
            "average_precision": table.mean(axis=0).tolist(),
            **{name: self._sum(name) for name in ("tp", "fp", "fn")},
            "median_abs_log2_diameter": float(np.median(ratios)) if ratios.size else math.nan,
            "diameter_within_1.35": float((ratios <= math.log2(1.35)).mean()) if ratios.size else math.nan,
            "seconds_per_image": float(np.median(seconds)),
        }

    def _sum(self, name: str) -> list[int]:
        return np.array([getattr(image, name) for image in self.images]).sum(axis=0).tolist()

    def as_dict(self) -> dict[str, Any]:
        """Everything, of plain types: for JSON."""
        return {
            "thresholds": list(self.thresholds),
            "over_images": [asdict(interval) for interval in self.scores.over_images],
            "over_sources": [asdict(interval) for interval in self.scores.over_sources],
            "all": self.summary(),
            "by_source": {source: self.of(source).summary() for source in self.sources},
            "images": [asdict(image) for image in self.images],
        }


def evaluate(
    model: Model,
    records: Sequence[Record],
    *,
    diameter: float | str = "auto",
    options: Options | None = None,
    ignore: int | None = NOT_ANNOTATED,
    progress: Progress | None = None,
    report: Callable[[Record, Segmentation], None] | None = None,
) -> Evaluation:
    """Segment and score annotated images.

    diameter: pixels, "auto" to estimate it for each image, or "true" for the median of the annotated objects
    (the model's own where there are none). options: everything else; its channels hold for images whose
    layout the record does not tell. ignore: label of pixels not annotated. report is called with every
    result. Raises ReadError for files that cannot be used, ValueError for another word as diameter.
    """
    if isinstance(diameter, str) and diameter not in ("auto", "true"):
        raise ValueError(f"diameter is {diameter!r}, expected a number of pixels, auto or true")
    options = options or Options()
    images = []
    for record in records:
        image, labels = read_pair(record)
        true = median_diameter(labels, ignore)
        wanted = {"auto": None, "true": true if true > 0 else model.card.diameter}
        used = wanted[diameter] if isinstance(diameter, str) else diameter
        chosen = replace(options, diameter=used, channels=channels_of(record, image, options.channels))
        started = time.perf_counter()
        try:
            result = model.segment(image, options=chosen, progress=progress)
        except ValueError as error:
            raise ReadError(f"{record.image}: {error}") from error
        seconds = time.perf_counter() - started
        if report:
            report(record, result)
        scored = score_labels(labels, result.labels, record.source, record.name, ignore)
        images.append(replace(scored, true_diameter=true, diameter=result.diameter, seconds=seconds))
    return Evaluation(tuple(images))


def score_labels(
    truth: np.ndarray, predicted: np.ndarray, source: str = "all", name: str = "", ignore: int | None = NOT_ANNOTATED
) -> ImageScore:
    """Score predicted against true labels: integers of one shape, label numbers and gaps do not matter.

    Raises ValueError when the shapes differ.

    >>> score_labels(np.array([[1, 1, 0, 5]]), np.array([[7, 7, 0, 0]])).average_precision[0]
    0.5
    """
    matches = match(truth, predicted, THRESHOLDS, ignore)
    return ImageScore(
        source,
        name,
        tuple(one.average_precision for one in matches),
        tuple(one.tp for one in matches),
        tuple(one.fp for one in matches),
        tuple(one.fn for one in matches),
        median_diameter(truth, ignore),
        median_diameter(predicted),
    )


def are_right(
    truth: np.ndarray, labels: np.ndarray, ignore: int | None = NOT_ANNOTATED
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) int64 of the found objects that count; whether a true object has an IoU of at least 0.5, (N,) bool.

    >>> are_right(np.array([[1, 1, 0, 0]]), np.array([[1, 1, 0, 2]]))
    (array([1, 2]), array([ True, False]))
    """
    shared = overlap(truth, labels, ignore)
    right = np.zeros(len(shared.predicted_labels), bool)
    right[shared.predicted_index[shared.iou >= 0.5]] = True
    return shared.predicted_labels, right


def read_pair(record: Record) -> tuple[Image, np.ndarray]:
    """Image and labels (int32 (Y, X)) of one record, checked to fit; raises ReadError."""
    image, labels = read_image(record.image), read_numbered(record.masks)
    if labels.shape != image.spatial_shape or labels.ndim != 2:
        raise ReadError(
            f"{record.masks}: found labels of shape {labels.shape}; expected two dimensions and the size of "
            f"{record.image.name}, {image.spatial_shape}"
        )
    return image, labels


def read_numbered(path: Path) -> np.ndarray:
    """Read labels, int32 (Y, X) or more axes; raises ReadError also for a mask of classes, see `check_numbered`."""
    labels = read_labels(path)
    try:
        check_numbered(labels, NOT_ANNOTATED)
    except ValueError as error:
        raise ReadError(f"{path}: {error}") from error
    return labels


def channels_of(record: Record, image: Image, channels: tuple[int, ...] | None = None) -> tuple[int, ...] | None:
    """The channels to segment in an annotated image, by the layout that its record tells; see `Options.channels`."""
    count = len(image.channels_first)
    if record.layout == "nucleus-cytoplasm" and count > 1:
        return (1, 0)
    if record.layout == "gray" and count > 1:
        return (0,)
    return channels if not record.layout else None


def limit_per_source(records: Iterable[Record], limit: int) -> list[Record]:
    """At most so many images of each source, chosen by their names alone, in their order."""
    by_source: dict[str, list[Record]] = {}
    for record in records:
        by_source.setdefault(record.source, []).append(record)
    kept: list[Record] = []
    for members in by_source.values():
        chosen = sorted(members, key=lambda r: hashlib.sha256(r.name.encode()).hexdigest())[:limit]
        kept += [record for record in members if record in chosen]
    return kept


def validator(
    records: Sequence[Record],
    *,
    engine: str = "auto",
    precision: str = "auto",
    diameter: float = 30.0,
    options: Options | None = None,
) -> Callable[[Any], Mapping[str, float]]:
    """A function that scores a `cellbasin.network.Network` in training, with true diameters.

    diameter: the one that the network is trained for; options as in `evaluate`. Returned:
    {"score": AP at 0.5, "ap50", "ap75", "ap90"}, means over images.
    """

    def validate(network: Any) -> Mapping[str, float]:
        card = Card(name="in training", architecture=network.architecture, diameter=diameter)
        model = Model([Weights(card, network.tensors(), "")], engine=engine, precision=precision)
        found = evaluate(model, records, diameter="true", options=options)
        values = {f"ap{round(100 * t)}": found.at(t)[0].mean for t in SHOWN}
        return {"score": values["ap50"], **values}

    return validate


def pair_label_files(truth: Path, predicted: Path) -> list[tuple[str, Path, Path]]:
    """Pair label images of two folders (also in subfolders) by name, (name, truth, predicted).

    Endings and a final _masks, _cp_masks or _seg in names do not matter; where a folder has files with the first two,
    only these count, else those of Cellpose (_seg.npy), else all. Two files, or label images as OME-Zarr, are a pair
    whatever their names. Raises ValueError when labels lack a partner.
    """
    if all(path.is_file() or is_zarr(path) for path in (truth, predicted)):
        return [(truth.name, truth, predicted)]
    if not truth.is_dir() or not predicted.is_dir():
        missing = truth if not truth.exists() else predicted if not predicted.exists() else None
        if missing is not None:
            raise ValueError(f"{missing}: no such file or folder; expected label images: check the name")
        raise ValueError(f"found a file and a folder ({truth}, {predicted}); expected two files or two folders")
    true_files, predicted_files = _label_files(truth), _label_files(predicted)
    lacking = [name for name in true_files if name not in predicted_files]
    if lacking:
        raise ValueError(
            f"{predicted}: found no labels for {len(lacking)} of {len(true_files)} images of {truth} "
            f"({', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}); expected one of the same "
            f"name for each"
        )
    return [(name, path, predicted_files[name]) for name, path in true_files.items()]


def _label_files(folder: Path) -> dict[str, Path]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in LABEL_SUFFIXES and not path.name.startswith(".")
    ]
    named = [path for path in files if image_stem(path) != path.stem]
    masks = [path for path in named if not path.name.endswith("_seg.npy")]
    found: dict[str, Path] = {}
    for path in masks or named or files:
        name = (path.relative_to(folder).parent / image_stem(path)).as_posix()
        if name in found:
            raise ValueError(f"found two label images for {name}: {found[name]} and {path}; expected one")
        found[name] = path
    if not found:
        raise ValueError(f"{folder}: found no label image; expected .tif, .png or .npy files")
    return found
