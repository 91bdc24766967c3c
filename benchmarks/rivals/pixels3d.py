"""The paper's rival for volumes: pixels classified by a random forest, then hysteresis ("Using ilastik for 3D
segmentation"), rebuilt with scikit-learn, SciPy and scikit-image; see `python benchmarks/volumes.py --rival`.

The forest learns from at most 5 % of the voxels of a slab, the quarter of the volume with the smallest x; thresholds
are searched around the paper's on that slab too, and only the rest of the volume is scored. So it has been shown this
very volume, which cellbasin has not. Volumes above four million voxels are halved along every axis for it.
"""

from __future__ import annotations

import itertools
import time

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import hessian_matrix, hessian_matrix_eigvals, structure_tensor, structure_tensor_eigenvalues
from skimage.segmentation import watershed

from cellbasin.labels import areas, boundaries, remove_small
from cellbasin.metrics import average_precision

SLAB = 0.25  # of the volume, along x
ANNOTATED = 0.05  # of the slab's voxels
MOST_ANNOTATED = 30_000
LARGE = 4_000_000  # voxels
SMOOTHING = (0.3, 1.0, 3.5, 10.0)  # voxels, as all that follow (paper)
SCALES = (0.7, 1.6, 5.0)
HIGH, LOW = (0.7, 0.85, 0.95), (0.25, 0.4, 0.55)  # around the paper's 0.85 and 0.4
SMALLEST = 0.1  # of the median volume (paper)


def features(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """The paper's 28 features (F, Z, Y, X) of a volume (Z, Y, X)."""
    found = [ndimage.gaussian_filter(volume, sigma) for sigma in SMOOTHING]
    for sigma in SCALES:
        found.append(ndimage.gaussian_gradient_magnitude(volume, sigma))
        found.append(ndimage.gaussian_filter(volume, sigma) - ndimage.gaussian_filter(volume, 0.66 * sigma))
        found += list(structure_tensor_eigenvalues(structure_tensor(volume, sigma)))
        found += list(hessian_matrix_eigvals(hessian_matrix(volume, sigma, use_gaussian_derivatives=False)))
    return np.stack(found).astype(np.float32)


def classes(truth: NDArray[np.int32]) -> NDArray[np.uint8]:
    """What a person would paint: 0 background, 1 the objects' rims, 2 their cores."""
    return (truth > 0).astype(np.uint8) + ((truth > 0) & ~boundaries(truth)).astype(np.uint8)


def classify(volume: NDArray[np.float32], truth: NDArray[np.int32], slab: int, seed: int = 0) -> NDArray[np.float32]:
    """Probabilities (2, Z, Y, X), of core and of core or rim, learnt from voxels of the slab x < `slab`."""
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(seed)
    known = features(volume)
    painted = classes(truth)[..., :slab].ravel()
    number = min(int(ANNOTATED * painted.size), MOST_ANNOTATED)
    chosen = np.concatenate(
        [rng.permutation(np.flatnonzero(painted == k))[: number // 3] for k in range(3)]  # of each as many
    )
    forest = RandomForestClassifier(100, min_samples_leaf=3, n_jobs=-1, random_state=seed)
    forest.fit(known[..., :slab].reshape(len(known), -1)[:, chosen].T, painted[chosen])
    probability = forest.predict_proba(known.reshape(len(known), -1).T).T.reshape(3, *volume.shape)
    core, inside = probability[2], probability[1] + probability[2]
    return np.stack([ndimage.gaussian_filter(part.astype(np.float32), 1.0) for part in (core, inside)])


def objects(probability: NDArray[np.float32], high: float, low: float) -> NDArray[np.int32]:
    """Hysteresis: cores above `high`, each grown as far as the inside is above `low`; small ones are left out."""
    cores, _ = ndimage.label(probability[0] > high, np.ones((3, 3, 3)))
    found = watershed(-probability[1], cores, mask=probability[1] > low).astype(np.int32)
    size = areas(found)
    return remove_small(found, int(SMALLEST * np.median(size[size > 0]))) if size.any() else found


def segment(volume: NDArray, truth: NDArray[np.int32]) -> tuple[NDArray[np.int32], str, float]:
    """Labels of the volume's size, the thresholds chosen on the slab, and seconds."""
    started = time.perf_counter()
    step = 2 if volume.size > LARGE else 1
    shrunk = ndimage.zoom(volume.astype(np.float32), 1 / step, order=1) if step > 1 else volume.astype(np.float32)
    nearest = np.ix_(*(np.arange(n) * old // n for n, old in zip(shrunk.shape, truth.shape, strict=True)))
    small = truth[nearest]
    slab = first_column(shrunk.shape)
    probability = classify(shrunk, small, slab)
    part = np.ascontiguousarray(probability[..., :slab])
    tried = {
        (high, low): average_precision(small[..., :slab], objects(part, high, low), (0.5,))[0]
        for high, low in itertools.product(HIGH, LOW)
        if low < high
    }
    high, low = max(tried, key=lambda pair: tried[pair])
    labels = objects(probability, high, low)
    back = np.ix_(*(np.arange(n) * new // n for n, new in zip(truth.shape, shrunk.shape, strict=True)))
    return labels[back], f"pixel classifier, {high}/{low}", time.perf_counter() - started


def first_column(shape: tuple[int, ...]) -> int:
    """Where the slab ends and what is scored begins, along x."""
    return max(1, round(SLAB * shape[-1]))
