"""The images that `data.py` wrote, and predictions; numpy alone, for every rival's environment."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellbasin.options import NOT_ANNOTATED as IGNORE

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "output" / "rivals" / "data"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Example:
    """image: float32 (2, Y, X), about 0..1. labels: int32 (Y, X), IGNORE where nobody annotated. diameter: pixels."""

    source: str
    name: str
    image: np.ndarray
    labels: np.ndarray
    diameter: float


def file_of(folder: Path, split: str, source: str, name: str) -> Path:
    """Where an image is."""
    return folder / split / f"{source}__{name}.npz"


def examples(
    split: str, sources: Sequence[str] = (), limit: int | None = None, folder: Path = FOLDER, *, bright: bool = False
) -> Iterator[Example]:
    """Read the images of one part one by one, in the order of their names.

    sources: the only ones. limit: at most so many of each source. bright: only those whose objects are brighter than
    what is between them. Raises FileNotFoundError where nothing is.
    """
    counts: Counter[str] = Counter()
    for path in sorted((folder / split).glob("*.npz")):
        source = path.name.split("__")[0]
        counts[source] += 1
        if (not sources or source in sources) and (limit is None or counts[source] <= limit):
            with np.load(path) as file:
                diameter = float(file["diameter"])
                found = Example(source, str(file["name"]), file["image"], file["labels"], diameter)
            if not bright or has_bright_objects(found):
                yield found
    if not counts:
        raise FileNotFoundError(f"{folder / split}: found no images; expected those of data.py: run it first")


def scaled_shape(example: Example, diameter: float, wanted: float = 30.0) -> tuple[int, int]:
    """Rows and columns at which objects of a diameter have the wanted one, at least 32."""
    rows, columns = (max(32, round(n * wanted / diameter)) for n in example.labels.shape)
    return rows, columns


def chances(found: Sequence[Example]) -> np.ndarray:
    """How often each image is drawn, float64 (N,), sum 1: a source by the square root of its images, as ours does."""
    counts = Counter(example.source for example in found)
    weights = np.array([1 / math.sqrt(counts[example.source]) for example in found])
    return weights / weights.sum()


def blanked(example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels with nothing to see and nothing to find where nobody annotated: for rivals that know no such
    pixels."""
    unknown = example.labels == IGNORE
    return np.where(unknown, np.float32(0), example.image), np.where(unknown, 0, example.labels)


def save_prediction(folder: Path, example: Example, labels: np.ndarray, seconds: float, diameter: float) -> None:
    """Write predicted labels. seconds: of the segmentation alone. diameter: that was used, NaN where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{example.source}__{example.name}.npz"
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez_compressed(temporary, labels=labels.astype(np.int32), seconds=seconds, diameter=diameter)
    temporary.replace(path)


def has_bright_objects(example: Example) -> bool:
    """Annotated objects are brighter than what is between them: in `dsb2018` the fluorescent images."""
    inside, outside = (example.labels > 0) & (example.labels != IGNORE), example.labels == 0
    return bool(inside.any() and outside.any() and example.image[0][inside].mean() > example.image[0][outside].mean())


def crop(
    example: Example, rng: np.random.Generator, size: int, scale: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """A random piece, turned, flipped and enlarged: image float32 (2, size, size) and labels int32 (size, size).

    scale: the factor is drawn between these, evenly in its logarithm. Nine of ten pieces are centred on an object. What
    lies beyond the image is its mirror image, labelled IGNORE.
    """
    from scipy.ndimage import affine_transform

    factor = math.exp(rng.uniform(*np.log(scale)))
    angle = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / factor
    if rng.random() < 0.5:
        turn[:, 1] *= -1
    centre = _centre(example.labels, rng)
    reach = math.ceil(size / factor / math.sqrt(2)) + 2  # cut this out first: the rest is far, and may be float16
    first = np.maximum(0, np.floor(centre).astype(int) - reach)
    window = tuple(slice(low, int(place) + reach + 1) for low, place in zip(first, centre, strict=True))
    part, truth = example.image[(slice(None), *window)].astype(np.float32), example.labels[window]
    offset = centre - first - turn @ np.full(2, (size - 1) / 2)
    shape = (size, size)
    image = np.stack([affine_transform(plane, turn, offset, shape, order=1, mode="mirror") for plane in part])
    labels = affine_transform(truth, turn, offset, shape, order=0, mode="constant", cval=IGNORE)
    return image, labels


def vary_brightness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast, brightness, noise and, one time in ten, inversion; image (C, Y, X)."""
    changed = image * rng.uniform(0.6, 1.6) + rng.uniform(-0.2, 0.2) * image.any(axis=(-2, -1), keepdims=True)
    if rng.random() < 0.1:
        changed[0] = 1 - changed[0]
    return (changed + rng.normal(0, rng.uniform(0, 0.05), image.shape) * (image != 0)).astype(np.float32)


def _centre(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.9:
        for _ in range(50):  # rejection: quick, and needs no list of pixels
            place = rng.integers(0, labels.shape)
            if 0 < labels[tuple(place)] != IGNORE:
                return place.astype(float)
    return rng.uniform(0, np.array(labels.shape) - 1)
