"""Scores of volumes: both modes, with automatic diameter and with the diameter given, volume by volume.

    python benchmarks/volumes.py                                      all volumes (about a minute)
    python benchmarks/volumes.py --only qcanet_8cell,stardist_img3d   some of them
    python benchmarks/volumes.py --rival                              also the pipeline of rivals/pixels3d.py (minutes)

Settings were chosen on generated volumes, qcanet_8cell and gonuclear_1135; the other volumes are scored with them.
Each volume is scored for itself, never pooled with others: they are small and unlike.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from report import command_line, markdown, say

from cellbasin.io import read_image, read_labels
from cellbasin.labels import areas, remove_small
from cellbasin.metrics import average_precision, match
from cellbasin.model import Model, load_model
from cellbasin.options import Options

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("CELLBASIN_DATA3D", ROOT.parent / "shared" / "data3d"))
OUTPUT = ROOT / "output" / "benchmarks"
THRESHOLDS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Volume:
    """axes, channels and anisotropy as its description says, since the file does not · smallest: true objects of
    fewer voxels do not count · settings: used to choose defaults."""

    axes: str
    anisotropy: float
    channels: tuple[int, ...] | None = None
    smallest: int = 0
    settings: bool = False

    def load(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Image and true labels."""
        labels = read_labels(DATA / f"{name}_masks.tif")
        return read_image(DATA / f"{name}.tif", axes=self.axes).array, remove_small(labels, self.smallest)

    def diameter(self, labels: np.ndarray) -> float:
        """Diameter, in px of y and x, of a ball of the median volume."""
        size = areas(labels)
        return float(np.cbrt(6 / np.pi * np.median(size[size > 0]) * self.anisotropy))


VOLUMES = {
    "qcanet_8cell": Volume("ZYX", 2.188, settings=True),
    "gonuclear_1135": Volume("ZYX", 2.237, smallest=200, settings=True),
    "idr0062_6001240": Volume("ZCYX", 1.388, channels=(1,)),
    "qcanet_16cell": Volume("ZYX", 2.188),
    "stardist_img3d": Volume("ZYX", 1.0),
}


@dataclass(frozen=True)
class Score:
    """One method on one volume; ap at IoU 0.25, 0.5, 0.75; counts at 0.5; volume_ratio: found / true, median of
    matches."""

    volume: str
    method: str
    diameter: float
    ap: tuple[float, ...]
    true: int
    found: int
    false_positives: int
    volume_ratio: float
    seconds: float

    def line(self) -> list[str]:
        """For the table."""
        numbers = [f"{value:.3f}" for value in self.ap]
        counts = [str(self.true), str(self.found), str(self.false_positives)]
        return [self.volume, self.method, f"{self.diameter:.1f}", *numbers, *counts, f"{self.volume_ratio:.2f}"]


HEADER = ["volume", "method", "diameter", "AP@0.25", "AP@0.5", "AP@0.75", "true", "found", "false at 0.5", "size ratio"]


def score(name: str, method: str, diameter: float, truth: np.ndarray, found: np.ndarray, seconds: float) -> Score:
    """Compare labels with the true ones."""
    matched = match(truth, found, 0.5)
    own, true = areas(found), areas(truth)
    ratios = [own[b - 1] / true[a - 1] for a, b in matched.pairs]
    return Score(
        name,
        method,
        round(diameter, 2),
        tuple(round(float(ap), 4) for ap in average_precision(truth, found, THRESHOLDS)),
        int((true > 0).sum()),
        int((own > 0).sum()),
        matched.fp,
        round(float(np.median(ratios)), 3) if ratios else float("nan"),
        round(seconds, 2),
    )


def scores_of(model: Model, name: str, *, rival: bool) -> list[Score]:
    """Both modes, with the diameter found and given, and where asked for the pixel classifier."""
    volume = VOLUMES[name]
    image, truth = volume.load(name)
    found, labels = [], {}
    for given in (None, volume.diameter(truth)):
        for mode in ("flows", "stitch"):
            options = Options(volume_mode=mode, anisotropy=volume.anisotropy, diameter=given)
            started = time.perf_counter()
            result = model.segment(image, volume.axes, volume.channels, options=options)
            seconds = time.perf_counter() - started
            method = f"{mode}, diameter {'given' if given else 'found'}"
            labels[method] = result.labels
            found.append(score(name, method, result.diameter, truth, result.labels, seconds))
            say("  ".join(found[-1].line()))
    if rival:
        planes = np.moveaxis(image, volume.axes.index("C"), 0)[volume.channels[0]] if volume.channels else image
        found += scores_beside_rival(name, planes, truth, labels)
    return found


def scores_beside_rival(name: str, image: np.ndarray, truth: np.ndarray, ours: dict[str, np.ndarray]) -> list[Score]:
    """The pixel classifier, and ours once more in the part of the volume that it has not been shown."""
    sys.path.insert(0, str(Path(__file__).parent / "rivals"))
    import pixels3d

    theirs, method, seconds = pixels3d.segment(image, truth)
    first = pixels3d.first_column(truth.shape)
    found = []
    for label, labels in {method: theirs, **ours}.items():
        time_taken = seconds if label == method else float("nan")
        part = (np.ascontiguousarray(array[..., first:]) for array in (truth, labels))
        found.append(score(name, f"{label} [x >= {first}]", float("nan"), *part, time_taken))
        say("  ".join(found[-1].line()))
    return found


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(VOLUMES), help="names of volumes, with commas between"
    )
    parser.add_argument("--model", default="general", help="a shipped model or a weights file")
    parser.add_argument("--rival", action="store_true", help="also the pixel classifier of rivals/pixels3d.py")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder for volumes.json and volumes.md")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        parser.error(f"found no folder {DATA}, expected the annotated volumes; set CELLBASIN_DATA3D to where they are")
    model = load_model(arguments.model)
    found: list[Score] = []
    for name in arguments.only:
        found += scores_of(model, name, rival=arguments.rival)
    about = f"Model {model.card.name} ({model.weights[0].sha256[:12]}), {model.engines[0].precision}."
    report = f"{about}\n\n{markdown(HEADER, [one.line() for one in found])}\n"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "volumes.json").write_text(json.dumps([asdict(one) for one in found], indent=1))
    (arguments.out / "volumes.md").write_text(report)
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
