"""Generated images for training: more variety of cells than annotated images hold, and fields without cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cellbasin.generator import KINDS, generate
from cellbasin.training.prepared import Annotated

GENERATED = "generated"
COUNT = 600  # images of a long run, beside the annotated ones
_FEWEST, _A_MINUTE = 60, 10
_FOR_EACH = 4  # generated images for an annotated one, in runs of so many passes
_SIDE = 320
# Real annotated images of cells in transmitted light are few, and cultures in it full of what is no cell.
TURNS = (*sorted(KINDS), "culture", "culture", "culture", "phase")


def count_for(minutes: float, own: int = COUNT) -> int:
    """How many generated images a run of that length learns from: a short one would spend more time on drawing them.

    minutes: 0 where the length is given in passes; own: annotated images, which tell its length then.

    >>> count_for(1), count_for(30), count_for(600), count_for(0, own=5), count_for(0, own=900)
    (60, 300, 600, 60, 600)
    """
    return min(COUNT, max(_FEWEST, round(_A_MINUTE * minutes if minutes else _FOR_EACH * own)))


def generated_images(count: int, seed: int = 0, kinds: Sequence[str] = TURNS) -> list[Callable[[], Annotated]]:
    """Functions that draw `count` annotated images, the kinds in turn, object diameters from 18 to 45 pixels."""

    def draw(index: int) -> Annotated:
        number = seed * 1_000_003 + index
        diameter = float(np.random.default_rng(number).uniform(18, 45))
        sample = generate(kinds[index % len(kinds)], (_SIDE, _SIDE), diameter=diameter, seed=number)
        name = f"{sample.kind}-{number}"
        return Annotated(np.asarray(sample.image), sample.labels, name, GENERATED, "gray", name)

    return [lambda index=index: draw(index) for index in range(count)]  # type: ignore[misc]
