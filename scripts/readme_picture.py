"""Draws docs/figures/demo.jpg: generated images of several kinds with the outlines that the shipped model finds.

python scripts/readme_picture.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from cellbasin.generator import generate
from cellbasin.image import Image
from cellbasin.io import overlay
from cellbasin.model import load_model

TARGET = Path(__file__).parent.parent / "docs" / "figures" / "demo.jpg"
SHOWN = (
    ("nuclei", 24, 11),
    ("cytoplasm", 34, 5),
    ("tissue", 30, 7),
    ("bacteria", 22, 4),
    ("dic", 34, 9),
    ("particles", 36, 2),
)
SIDE, COLUMNS, GAP = 320, 3, 6


def main() -> None:
    """Segment and draw."""
    model = load_model()
    tiles = []
    for kind, diameter, seed in SHOWN:
        sample = generate(kind, (SIDE, SIDE), diameter=diameter, seed=seed)
        channels = (0, 1) if len(sample.image) > 1 else (0,)
        image = Image(sample.image, sample.axes)
        found = model.segment(image, channels=channels)
        tiles.append(overlay(image, found.labels, channels))
        print(f"{kind}: {len(found)} found, {sample.labels.max()} drawn; diameter {found.diameter:.1f} of {diameter}")
    framed = [np.pad(tile, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for tile in tiles]
    rows = [np.concatenate(framed[i : i + COLUMNS], axis=1) for i in range(0, len(framed), COLUMNS)]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.concatenate(rows)[:-GAP, :-GAP]).save(TARGET, quality=90)
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
