"""Remembers the styles of training images, and how far from them those of images of the same kinds may be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cellbasin.datasets import channels_of, read_pair
from cellbasin.intensity import select_channels
from cellbasin.io import Record
from cellbasin.labels import median_diameter
from cellbasin.model import Model
from cellbasin.novelty import Novelty, choose_prototypes
from cellbasin.training.prepared import Annotated
from cellbasin.training.size_fit import normalised
from cellbasin.weights import Weights

_PER_SOURCE = 60  # images
_PROTOTYPES = 128
_USUAL = 0.95  # part of images of known kinds that must not be called unlike
FEWEST = 20  # validation images; fewer cannot settle the limit


def fit_novelty(
    weights: Weights,
    images: Sequence[Callable[[], Annotated]],
    records: Sequence[Record],
    ignore: int,
    seed: int = 0,
    channels: tuple[int, ...] | None = None,
) -> Weights:
    """The weights with the styles of their training images in their card.

    images: readers of the training images; records: validation images, 95 % of which are within the limit. Left
    unfitted where there are fewer than twenty of these with objects. channels: of records whose layout no index tells.
    """
    if len(records) < FEWEST:
        return weights
    model = Model([weights])
    rng = np.random.default_rng(seed)
    styles, taken = [], defaultdict[str, int](int)
    for index in rng.permutation(len(images)):
        annotated = images[index]()
        diameter = median_diameter(annotated.labels, ignore)
        if taken[annotated.source] < _PER_SOURCE and diameter > 0:
            taken[annotated.source] += 1
            styles.append(model.style(normalised(annotated), diameter))
    prototypes = choose_prototypes(np.array(styles), _PROTOTYPES)
    known = Novelty(prototypes, 0.0)
    distances = []
    for record in records:
        image, labels = read_pair(record)
        diameter = median_diameter(labels, ignore)
        if diameter > 0:
            pixels = select_channels(image, channels_of(record, image, channels))
            distances.append(known.distance(model.style(pixels, diameter)))
    if len(distances) < FEWEST:
        return weights
    limit = float(np.quantile(distances, _USUAL))
    return replace(weights, card=replace(weights.card, novelty=Novelty(prototypes, limit).as_card()))
