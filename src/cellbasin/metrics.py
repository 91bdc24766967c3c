"""Scores of predicted against true labels: average precision, F1, panoptic quality, aggregated Jaccard index.

Objects are matched one to one at a threshold of their intersection over union (IoU): the most matches, and of
these the highest sum of IoU. Label numbers and gaps between them never matter, arrays may have any number of
axes, and memory grows with the number of pixels and of overlapping pairs, never with objects times objects.

`ignore` is the value of true pixels that nobody annotated (65535 in the project's data). A predicted object
with half or more of its pixels there does not count at all; of every other one the pixels there are removed
before its IoU is taken, since nobody knows whether they are right. Nothing found where nothing is counts 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from cellbasin.overlap import Overlap, overlap

__all__ = [
    "Interval",
    "Match",
    "Overlap",
    "Scores",
    "aggregated_jaccard",
    "average_precision",
    "bootstrap_interval",
    "match",
    "overlap",
    "summarise",
]

THRESHOLDS = (0.5, 0.75, 0.9)
SMALLEST_SOURCE = 5  # images that a source needs to count in the mean over sources


@dataclass(frozen=True, eq=False)
class Match:
    """Objects of one image matched one to one at one threshold.

    Attributes
    ----------
    threshold : smallest IoU that counts as a match.
    tp : matched objects (true positives).
    fp : predicted objects without a match (false positives).
    fn : true objects without a match (false negatives).
    pairs : (tp, 2) int64, true and predicted label of every match, ascending by true label.
    scores : (tp,) float64, IoU of every match.
    """

    threshold: float
    tp: int
    fp: int
    fn: int
    pairs: NDArray[np.int64]
    scores: NDArray[np.float64]

    def _ratio(self, above: float, below: float) -> float:
        if self.tp + self.fp + self.fn == 0:
            return 1.0
        return above / below if below > 0 else 0.0

    @property
    def precision(self) -> float:
        """Part of the predicted objects that are right: TP / (TP + FP)."""
        return self._ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Part of the true objects that were found: TP / (TP + FN)."""
        return self._ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN)."""
        return self._ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN) (paper, Methods, "Quantification of segmentation quality")."""
        return self._ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def mean_matched_score(self) -> float:
        """Mean IoU of the matches."""
        return self._ratio(float(self.scores.sum()), self.tp)

    @property
    def mean_true_score(self) -> float:
        """Sum of the matches' IoU over the number of true objects."""
        return self._ratio(float(self.scores.sum()), self.tp + self.fn)

    @property
    def panoptic_quality(self) -> float:
        """Sum of the matches' IoU over TP + FP/2 + FN/2 (Kirillov et al. 2019)."""
        return self._ratio(float(self.scores.sum()), self.tp + self.fp / 2 + self.fn / 2)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, eq=False)
class Scores:
    """Average precision of many images.

    Attributes
    ----------
    thresholds : the K thresholds of IoU.
    sources : the source of each of the M images.
    average_precision : (M, K) float64.
    over_images : mean over all images, for every threshold.
    over_sources : mean over the means of all sources with at least five images, for every threshold; nan
        where no source has as many.
    by_source : mean over the images of every source, (K,) float64 each, sources in alphabetical order.
    """

    thresholds: tuple[float, ...]
    sources: tuple[str, ...]
    average_precision: NDArray[np.float64]
    over_images: tuple[Interval, ...]
    over_sources: tuple[Interval, ...]
    by_source: dict[str, NDArray[np.float64]]


@overload
def match(truth: NDArray, predicted: NDArray, threshold: float = 0.5, ignore: int | None = None) -> Match: ...
@overload
def match(
    truth: NDArray, predicted: NDArray, threshold: Sequence[float], ignore: int | None = None
) -> tuple[Match, ...]: ...
def match(
    truth: NDArray, predicted: NDArray, threshold: float | Sequence[float] = 0.5, ignore: int | None = None
) -> Match | tuple[Match, ...]:
    """Match true with predicted objects, at one threshold of IoU or at several.

    Parameters
    ----------
    truth : true labels, integers, any shape; 0 is background.
    predicted : predicted labels, integers, same shape.
    threshold : smallest IoU that counts, above 0; a sequence gives a tuple of results in its order.
    ignore : value in `truth` that means not annotated.

    Raises
    ------
    ValueError for shapes that differ, negative labels, or a threshold that is not above 0.
    TypeError for arrays that do not hold integers.

    >>> truth = np.array([[1, 1, 0, 5, 5]])
    >>> found = match(truth, np.array([[3, 3, 0, 0, 9]]), threshold=0.75)
    >>> found.tp, found.fp, found.fn, found.pairs.tolist()
    (1, 1, 1, [[1, 3]])
    """
    shared = overlap(truth, predicted, ignore)
    found = tuple(_match_at(shared, float(one)) for one in np.atleast_1d(threshold))
    return found if np.ndim(threshold) else found[0]


def average_precision(
    truth: NDArray, predicted: NDArray, thresholds: float | Sequence[float] = THRESHOLDS, ignore: int | None = None
) -> NDArray[np.float64]:
    """Average precision TP / (TP + FP + FN) at every threshold of IoU, float64 (K,), one for K = 1; as in `match`.

    >>> truth = np.array([[1, 1, 0, 5, 5]])
    >>> average_precision(truth, np.array([[3, 3, 0, 0, 9]]), (0.5, 0.75))
    array([1.        , 0.33333333])
    """
    found = match(truth, predicted, np.atleast_1d(thresholds).tolist(), ignore)
    return np.array([one.average_precision for one in found])


def aggregated_jaccard(truth: NDArray, predicted: NDArray, ignore: int | None = None) -> float:
    """Aggregated Jaccard index (Kumar et al. 2017), 0..1; arguments as in `match`.

    Every true object is joined with the predicted one of highest IoU; the sum of their intersections is
    divided by the sum of their unions and of the predicted objects that none was joined with.

    >>> aggregated_jaccard(np.array([[1, 1, 0, 2]]), np.array([[4, 0, 6, 7]]))
    0.5
    """
    shared = overlap(truth, predicted, ignore)
    if len(shared.true_labels) + len(shared.predicted_labels) == 0:
        return 1.0
    order = np.lexsort((-shared.iou, shared.true_index))
    _, first = np.unique(shared.true_index[order], return_index=True)
    best = order[first]
    partner = shared.predicted_index[best]
    common = int(shared.pixels[best].sum())
    used = int(shared.predicted_areas[partner].sum())
    unused = int(shared.predicted_areas.sum() - shared.predicted_areas[np.unique(partner)].sum())
    return common / (int(shared.true_areas.sum()) + used - common + unused)


def summarise(
    values: Sequence[NDArray[np.float64]] | NDArray[np.float64],
    sources: Sequence[str],
    thresholds: Sequence[float] = THRESHOLDS,
    seed: int = 0,
) -> Scores:
    """Means of the images' average precision (M, K) over images and sources; see `Scores`.

    Raises ValueError where there is no image, or not one source and K values for each.

    >>> summarise([[1.0], [0.0]], ["nuclei", "axons"], [0.5]).by_source
    {'axons': array([0.]), 'nuclei': array([1.])}
    """
    table = np.asarray(values, np.float64)
    if table.shape != (len(sources), len(thresholds)) or len(sources) == 0:
        raise ValueError(
            f"expected at least one image, and the scores of {len(sources)} images (one for every source) "
            f"at {len(thresholds)} thresholds, found an array of shape {table.shape}"
        )
    names = np.array(sources)
    return Scores(
        tuple(map(float, thresholds)),
        tuple(map(str, sources)),
        table,
        tuple(bootstrap_interval(column, seed=seed) for column in table.T),
        tuple(bootstrap_interval(column, sources, seed=seed) for column in table.T),
        {str(name): table[names == name].mean(axis=0) for name in np.unique(names)},
    )


def bootstrap_interval(
    values: Sequence[float] | NDArray[np.float64],
    sources: Sequence[str] | None = None,
    seed: int = 0,
    repeats: int = 2000,
) -> Interval:
    """Mean of values with its 95 % interval: 2.5 % to 97.5 % of the means of images drawn with replacement.

    With `sources` it is the mean over the means of the sources that have at least five images, and images are
    drawn within each of these sources; nan if there is none.

    >>> print(bootstrap_interval([0.5, 0.5, 0.5]))
    0.500 [0.500, 0.500]
    """
    table = np.asarray(values, np.float64)
    groups = [table]
    if sources is not None:
        names = np.array(sources)
        groups = [table[names == name] for name in np.unique(names)]
        groups = [group for group in groups if len(group) >= SMALLEST_SOURCE]
    if not groups or table.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    random = np.random.default_rng(seed)
    drawn = [
        np.mean([group[random.integers(0, len(group), len(group))].mean() for group in groups]) for _ in range(repeats)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(float(np.mean([group.mean() for group in groups])), float(low), float(high))


def _match_at(shared: Overlap, threshold: float) -> Match:
    if not threshold > 0:
        raise ValueError(f"the threshold of IoU must be above 0, found {threshold}")
    chosen = _assign(shared, threshold)
    tp = len(chosen)
    labels = (
        shared.true_labels[shared.true_index[chosen]],
        shared.predicted_labels[shared.predicted_index[chosen]],
    )
    return Match(
        threshold=threshold,
        tp=tp,
        fp=len(shared.predicted_labels) - tp,
        fn=len(shared.true_labels) - tp,
        pairs=np.stack(labels, axis=1),
        scores=shared.iou[chosen],
    )


def _assign(shared: Overlap, threshold: float) -> NDArray[np.int64]:
    """Positions of the matched pairs, ascending: the most matches, then the highest sum of IoU.

    Partners below the threshold weigh in the sum as they do in StarDist, though they are no matches. At 0.5
    and above they cannot change what is matched and are left out, which makes the problem trivial.
    """
    iou = shared.iou
    allowed = np.flatnonzero(iou >= threshold if threshold >= 0.5 else iou > 0)
    if not allowed.size:
        return np.zeros(0, np.int64)
    true, true_number = np.unique(shared.true_index[allowed], return_inverse=True)
    _, column = np.unique(shared.predicted_index[allowed], return_inverse=True)
    columns = int(column.max()) + 1
    cost = 2 - (iou[allowed] >= threshold) - iou[allowed] / (2 * min(len(true), columns))
    # a column of its own lets every true object stay alone, so that a full matching exists
    own = np.arange(len(true))
    table = csr_matrix(
        (
            np.concatenate([cost, np.full(len(true), 2.0)]),
            (np.concatenate([true_number, own]), np.concatenate([column, columns + own])),
        )
    )
    rows, partners = min_weight_full_bipartite_matching(table)
    pair_of = csr_matrix((1 + np.arange(len(allowed)), (true_number, column)), (len(true), columns))
    taken = partners < columns
    found = allowed[np.asarray(pair_of[rows[taken], partners[taken]]).reshape(-1) - 1]
    return np.sort(found[iou[found] >= threshold])
