"""What is measured: generated fields, and real images where the data set is beside the project."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from cellbasin.datasets import channels_of, read_pair
from cellbasin.flows import labels_to_flows
from cellbasin.generator import generate
from cellbasin.intensity import select_channels
from cellbasin.io import read_index
from cellbasin.labels import median_diameter, split_pieces
from cellbasin.options import NOT_ANNOTATED

ROOT = Path(__file__).parent.parent
CELLS_2048 = 4000
DIAMETER = 30.0
# By size: source and name of the test image that is cropped, or continued by its mirror image, to this size.
REAL = {
    512: ("usiigaci", "set37"),
    1024: ("powder", "Sc1Tile_001-002-000_0-000"),
    2048: ("codex", "R001_X004_Y003_e1"),
}


@dataclass(frozen=True, eq=False)
class Field:
    """name · image (C, Y, X) · labels int32 (Y, X), 1..N · diameter: median, pixels."""

    name: str
    image: np.ndarray
    labels: np.ndarray
    diameter: float

    @property
    def cells(self) -> int:
        """Number of labels."""
        return int(self.labels.max(initial=0))

    def __str__(self) -> str:
        height, width = self.labels.shape
        size = f"{height}²" if height == width else f"{height} × {width}"
        return f"{self.name} {size}, {self.cells} objects of {self.diameter:.0f} px"


def data_root() -> Path:
    """The annotated data set: `CELLBASIN_DATA`, else beside the project."""
    return Path(os.environ.get("CELLBASIN_DATA", ROOT / ".." / "shared" / "data")).resolve()


def generated(size: int, seed: int = 1) -> Field:
    """Fluorescent nuclei, many touching, 4,000 in 2048²; smaller sizes are its corner."""
    sample = _nuclei(max(size, 2048), seed)
    return _field("generated", sample[0][:, :size, :size], sample[1][:size, :size])


@cache
def _nuclei(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    sample = generate("nuclei", (size, size), diameter=DIAMETER, count=CELLS_2048 * size**2 // 2048**2, seed=seed)
    return sample.image, sample.labels


def tiled(size: int, diameter: float = DIAMETER, seed: int = 1) -> Field:
    """As `generated`, quickly at any size: one field of 512² side by side."""
    count = round(CELLS_2048 / 16 * (DIAMETER / diameter) ** 2)
    sample = generate("nuclei", (512, 512), diameter=diameter, count=count, seed=seed)
    times = -(-size // 512)
    image = np.tile(sample.image, (1, times, times))[:, :size, :size]
    offsets = np.arange(times**2, dtype=np.int32).reshape(times, times) * int(sample.labels.max())
    shifts = np.kron(offsets, np.ones((512, 512), np.int32))
    labels = np.tile(sample.labels, (times, times))
    return _field("generated", image, np.where(labels > 0, labels + shifts, 0)[:size, :size])


def real(size: int) -> Field | None:
    """A real image of the data set, or None where the data set is not there."""
    source, name = REAL[size]
    if not (data_root() / "index.csv").is_file():
        return None
    for record in read_index(data_root(), "test"):
        if (record.source, record.name) == (source, name):
            picture, labels = read_pair(record)
            pixels = select_channels(picture, channels_of(record, picture))
            used = pixels if pixels[1].any() else pixels[:1]
            return _field(source, _to_size(used, size), _to_size(np.where(labels == NOT_ANNOTATED, 0, labels), size))
    return None


def _to_size(array: np.ndarray, size: int) -> np.ndarray:
    """Crop, or continue by mirror images, the last two axes."""
    short = [(0, max(0, size - n)) for n in array.shape[-2:]]
    padded = np.pad(array, [(0, 0)] * (array.ndim - 2) + short, mode="symmetric")
    return np.ascontiguousarray(padded[..., :size, :size])


def _field(name: str, image: np.ndarray, labels: np.ndarray) -> Field:
    pieces = split_pieces(labels)
    return Field(name, np.ascontiguousarray(image), pieces, median_diameter(pieces))


def true_maps(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flow and probability that belong to labels."""
    return labels_to_flows(labels), (labels > 0).astype(np.float32)


def predicted_like(labels: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Flow and probability as a network gives them: a little blurred, and not quite right."""
    from scipy.ndimage import gaussian_filter

    flow, probability = true_maps(labels)
    rng = np.random.default_rng(seed)
    noise = np.stack([gaussian_filter(rng.normal(size=labels.shape), 2.0) for _ in flow])
    blurred = np.stack([gaussian_filter(part, 1.0) for part in flow]) + 0.15 * noise / noise.std()
    return blurred.astype(np.float32), gaussian_filter(probability, 1.0).astype(np.float32)
