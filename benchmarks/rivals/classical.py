"""The classical way: Otsu's threshold, then a watershed of the distance to the edge (scikit-image, SciPy).

    python benchmarks/rivals/classical.py                choose on validation, segment the test images, score
    python benchmarks/rivals/classical.py --limit 3      a try: the first images of each source, nothing scored

One setting for all images, chosen on the validation images by AP@0.5 (mean over images): which side of the threshold
the objects are on, how much to smooth, and how near two centres may be, both in parts of the objects' diameter. Nobody
tells the diameter: it is taken from the thresholded image itself (a disc's mean distance to its edge is a sixth
of its diameter).
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from images import IGNORE, ROOT, Example, examples, save_prediction
from report import command_line, say
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from cellbasin.labels import remove_small
from cellbasin.metrics import average_precision

OUTPUT = ROOT / "output" / "rivals" / "classical"
SMALLEST = 15  # pixels, as in cellbasin
FIRST_SMOOTHING = 1.0  # pixels, before the diameter is known


@dataclass(frozen=True)
class Setting:
    """polarity: objects are "bright", "dark", or whichever side of the threshold has "fewer" pixels. smoothing: sigma
    for the image, distance: least distance of centres; both in parts of the diameter."""

    polarity: str
    smoothing: float
    distance: float


POLARITIES = [Setting(polarity, 0.05, 0.25) for polarity in ("bright", "dark", "fewer")]
SHAPES = tuple(itertools.product((0.0, 0.05, 0.1), (0.2, 0.35, 0.5)))


def segment(image: np.ndarray, setting: Setting) -> tuple[np.ndarray, float]:
    """Labels, int32 (Y, X), of an image (Y, X), and the diameter that was found, pixels."""
    inside = foreground(gaussian_filter(image, FIRST_SMOOTHING), setting.polarity)
    depth = distance_transform_edt(inside)
    diameter = max(4.0, 6 * float(depth[inside].mean())) if inside.any() else 4.0
    if setting.smoothing:
        inside = foreground(gaussian_filter(image, setting.smoothing * diameter), setting.polarity)
        depth = distance_transform_edt(inside)
    smooth = gaussian_filter(depth, 0.05 * diameter) * inside
    apart = max(1, round(setting.distance * diameter))
    peaks = peak_local_max(smooth, min_distance=apart, threshold_abs=0.5, exclude_border=False)
    seeds = np.zeros(image.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return remove_small(watershed(-smooth, seeds, mask=inside).astype(np.int32), SMALLEST), diameter


def foreground(image: np.ndarray, polarity: str) -> np.ndarray:
    """Pixels inside objects, bool (Y, X)."""
    if image.min() == image.max():
        return np.zeros(image.shape, bool)
    bright = image > threshold_otsu(image)
    dark = {"bright": False, "dark": True, "fewer": bright.mean() > 0.5}[polarity]
    return ~bright if dark else bright


def score(example: Example, setting: Setting) -> float:
    """AP@0.5 of one image."""
    found, _ = segment(example.image[0], setting)
    return float(average_precision(example.labels, found, (0.5,), IGNORE)[0])


def choose(limit: int | None) -> tuple[Setting, float]:
    """The setting of highest mean AP@0.5 on the validation images: polarity first, then smoothing and distance."""
    images = list(examples("validation", limit=limit))
    polarity = best(images, POLARITIES)[0].polarity
    return best(images, [Setting(polarity, *shape) for shape in SHAPES])


def best(images: Sequence[Example], settings: Sequence[Setting]) -> tuple[Setting, float]:
    """The setting of highest mean AP@0.5, and that."""
    means = [float(np.mean([score(example, setting) for example in images])) for setting in settings]
    for setting, mean in zip(settings, means, strict=True):
        say(f"{setting}: {mean:.3f}")
    return settings[int(np.argmax(means))], max(means)


def predict(setting: Setting, limit: int | None, folder: Path) -> None:
    """Segment the test images."""
    for example in examples("test", limit=limit):
        started = time.perf_counter()
        labels, diameter = segment(example.image[0], setting)
        save_prediction(folder, example, labels, time.perf_counter() - started, diameter)


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--limit", type=int, help="at most so many images of each source; the result is not kept")
    arguments = parser.parse_args()
    setting, validation = choose(arguments.limit)
    folder = OUTPUT / "predictions"
    predict(setting, arguments.limit, folder)
    settings = {
        **asdict(setting),
        "validation_ap50": round(validation, 4),
        "scikit-image": version("scikit-image"),
        "scipy": version("scipy"),
    }
    about = {"title": "Otsu + watershed", "training_hours": 0.0, "settings": settings}
    (folder / "about.json").write_text(json.dumps(about, indent=1))
    if arguments.limit is None:
        from score import keep

        say(str(keep("classical", folder).evaluation.at(0.5)[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
