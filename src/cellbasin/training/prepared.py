"""Annotated images made ready for training: objects of a common size, flows computed once and kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from cellbasin.atomic import atomic
from cellbasin.flows import labels_to_flows
from cellbasin.intensity import normalisation_range
from cellbasin.labels import relabel
from cellbasin.options import NOT_ANNOTATED
from cellbasin.parallel import parallel_map
from cellbasin.resize import resize, resize_labels

FLOW_UNIT = 127  # flows are kept as int8
FINEST_DIAMETER = 48.0  # pixels; larger objects are shrunk to this before their flows are computed
_CACHE_VERSION = 6
_FULL_SCALE = 4000  # int16 value of the 99.9th percentile
_SHADES = 256  # at least, from the 1st to the 99th percentile
_SAMPLE = 4096  # pixels kept for percentiles of channel mixtures


@dataclass(frozen=True, slots=True)
class Annotated:
    """An image with labels as given: image (C, Y, X) of any real dtype; labels (Y, X) int, `ignore` = not annotated.

    layout is "gray" (primary[, nuclear]), "rgb" or "nucleus-cytoplasm" (channel 1 is primary, channel 0 nuclear).
    group: images that must stay on one side of a split.
    """

    image: np.ndarray
    labels: np.ndarray
    name: str
    source: str
    layout: str = "gray"
    group: str = ""


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution. image: int16 (C, Y, X); labels: int32 (Y, X), -1 = not annotated; flow: int8 (2, Y, X)."""

    image: np.ndarray
    labels: np.ndarray
    flow: np.ndarray


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """levels: finest first, each half the one before; diameter: median, in pixels of the finest level; sample: float32
    (C, n) random pixels and each channel's darkest and brightest; centres: (N, 2) in parts of height and width; areas:
    (N,) pixels of the finest level; content: tells images and labels apart."""

    name: str
    source: str
    layout: str
    group: str
    levels: tuple[Level, ...]
    diameter: float
    sample: np.ndarray
    centres: np.ndarray
    areas: np.ndarray
    content: str

    @property
    def look(self) -> str:
        """What sampling balances over: the source, its layout and its image size (a stand-in for the instrument)."""
        return f"{self.source}/{self.layout}/{self.levels[0].labels.shape}"


def cache_folder() -> Path:
    """Where prepared images are kept: `CELLBASIN_CACHE`, else the user's cache folder."""
    base = os.environ.get("CELLBASIN_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "cellbasin" / "training"


def prepare(annotated: Annotated, ignore: int = NOT_ANNOTATED) -> TrainingImage:
    """Shrink, compute flows and collect what sampling needs; taken from the cache if the same content was seen before.

    Raises ValueError when image and labels differ in size.
    """
    if annotated.image.shape[1:] != annotated.labels.shape:
        found, wanted = annotated.labels.shape, annotated.image.shape[1:]
        raise ValueError(f"{annotated.name}: labels are {found} pixels, the image is {wanted}")
    path = cache_folder() / f"{_content_key(annotated, ignore)}.npz"
    with suppress(OSError, EOFError, ValueError, KeyError, BadZipFile):  # not there yet, or damaged
        return _load(path, annotated)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        np.savez(temporary, allow_pickle=False, **_compute(annotated, ignore))
    return _load(path, annotated)


def prepare_all(
    images: Sequence[Callable[[], Annotated]],
    ignore: int = NOT_ANNOTATED,
    progress: Callable[[int, int], None] | None = None,
) -> list[TrainingImage]:
    """Prepare images that are read one by one by the given functions."""
    done: list[TrainingImage] = []
    step = 16
    for start in range(0, len(images), step):
        done += parallel_map(lambda read: prepare(read(), ignore), images[start : start + step])
        if progress:
            progress(len(done), len(images))
    return done


def _content_key(annotated: Annotated, ignore: int) -> str:
    digest = hashlib.sha256(f"{_CACHE_VERSION} {FINEST_DIAMETER} {ignore} {annotated.layout}".encode())
    for array in (annotated.image, annotated.labels):
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


def _compute(annotated: Annotated, ignore: int) -> dict[str, np.ndarray]:
    unknown = annotated.labels == ignore
    labels = relabel(np.where(unknown, 0, annotated.labels))
    labels[unknown] = -1
    areas = np.bincount(labels[labels > 0].ravel())
    areas = areas[areas > 0]
    diameter = float(np.median(2 * np.sqrt(areas / np.pi))) if areas.size else 0.0
    factor = min(1.0, FINEST_DIAMETER / diameter) if diameter else 1.0
    together = annotated.layout == "rgb"  # colours have one scale, so that mixtures keep their balance
    image = _to_int16(annotated.image) if together else np.stack([_to_int16(channel) for channel in annotated.image])
    height, width = labels.shape
    arrays: dict[str, np.ndarray] = {"diameter": np.array(diameter * factor or 30.0)}
    for n in range(2):
        size = (max(1, round(height * factor / 2**n)), max(1, round(width * factor / 2**n)))
        small = labels if size == labels.shape else resize_labels(labels, size)
        shrunk = image if size == labels.shape else resize(image.astype(np.float32), size)
        arrays[f"image{n}"] = np.clip(np.rint(shrunk), -32768, 32767).astype(np.int16)
        arrays[f"labels{n}"] = small
        arrays[f"flow{n}"] = np.rint(labels_to_flows(np.maximum(small, 0)) * FLOW_UNIT).astype(np.int8)
    finest = arrays["image0"].reshape(len(image), -1)
    chosen = np.random.default_rng(0).integers(0, finest.shape[1], _SAMPLE)
    chosen = np.concatenate([chosen, finest.argmin(1), finest.argmax(1)])
    arrays["sample"] = finest[:, chosen].astype(np.float32)
    arrays["centres"], arrays["areas"] = _centres(arrays["labels0"])
    return arrays


def _to_int16(values: np.ndarray) -> np.ndarray:
    """Where few bright pixels take most of the range, they are cut off, so that the others keep their shades."""
    least, bright, most = np.percentile(values, (0, 99.9, 100))
    low, high = normalisation_range(values)
    scale = _FULL_SCALE / (((bright if bright > least else most) - least) or 1)
    scale = max(scale, _SHADES / (high - low)) if high > low else scale
    return np.clip(np.rint((values.astype(np.float32) - least) * scale), -32768, 32767).astype(np.int16)


def _centres(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean position of every object in parts of height and width, and its area."""
    ys, xs = np.nonzero(labels > 0)
    ids, inverse = np.unique(labels[ys, xs], return_inverse=True)
    if ids.size == 0:
        return np.zeros((0, 2)), np.zeros(0)
    area = np.bincount(inverse)
    mean = np.stack([np.bincount(inverse, ys), np.bincount(inverse, xs)], axis=1) / area[:, None]
    return mean / labels.shape, area.astype(np.float64)


def _load(path: Path, annotated: Annotated) -> TrainingImage:
    with np.load(path) as arrays:
        levels = tuple(Level(arrays[f"image{n}"], arrays[f"labels{n}"], arrays[f"flow{n}"]) for n in range(2))
        return TrainingImage(
            annotated.name,
            annotated.source,
            annotated.layout,
            annotated.group or annotated.name,
            levels,
            float(arrays["diameter"]),
            arrays["sample"],
            arrays["centres"],
            arrays["areas"],
            path.stem,
        )
