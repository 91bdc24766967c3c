"""Generated images for training: more variety of cells than annotated images hold, and fields without cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cellbasin.generator import KINDS, generate
from cellbasin.training.dataset import Annotated

GENERATED = "generated"
COUNT = 360  # images of a run, beside the annotated ones
_SIDE = 320


def generated_images(count: int, seed: int = 0) -> list[Callable[[], Annotated]]:
    """Functions that draw `count` annotated images, all kinds in turn, object diameters from 18 to 45 pixels."""
    kinds = sorted(KINDS)

    def draw(index: int) -> Annotated:
        number = seed * 1_000_003 + index
        diameter = float(np.random.default_rng(number).uniform(18, 45))
        sample = generate(kinds[index % len(kinds)], (_SIDE, _SIDE), diameter=diameter, seed=number)
        name = f"{sample.kind}-{number}"
        return Annotated(np.asarray(sample.image), sample.labels, name, GENERATED, "gray", name)

    return [lambda index=index: draw(index) for index in range(count)]  # type: ignore[misc]
