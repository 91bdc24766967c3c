"""Draw docs/figures/ from docs/results/ and docs/runs/ alone: no data, no programs.

    make figures                                    with everything that it needs
    python benchmarks/figures.py --only ap,sizes    some of those below

- ap.png: average precision against the threshold of IoU, by method (paper, figure 3)
- sizes.png: estimated against true diameter, single step and refined (figure S2)
- styles.png: t-SNE of the test images' styles, coloured by source (figure 2); needs scikit-learn
- training.png: losses and validation scores of the runs kept in docs/runs/
- rivals.png: validation scores of the rivals in training, whose logs are kept in docs/runs/rivals/
- trust.png: whether confidence is true, and precision against coverage
- networks.png: specialists and networks that never saw a category, on those images, against `general` (figure 3)
- unseen.png: of networks that never saw a category: whether confidence is true there, and whether novelty tells it
- failures.png: the test images that `general` did worst on, outlines alone (from `failures.py`)
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from compare import NUCLEI
from networks_page import CATEGORIES, SPECIALITIES, part_of
from report import command_line, say
from results import RESULTS, MethodResult, load, load_all

from cellbasin.evaluation import THRESHOLDS, Evaluation
from cellbasin.metrics import summarise

matplotlib.use("Agg")
from matplotlib import pyplot

ROOT = Path(__file__).parent.parent
RUNS, FIGURES = ROOT / "docs" / "runs", ROOT / "docs" / "figures"
NEAR = 1.35
MARKERS = "os^Dv"
RED = (220, 30, 30)
VALIDATION = "validation AP@0.5 (—), 0.75 (- -), 0.9 (···)"
SMOOTH = 20  # lines of a log that are averaged, at most


def main() -> int:
    arguments = _arguments()
    drawings: dict[str, Callable[[], pyplot.Figure | None]] = {
        "ap": lambda: precision_curves(load_all(arguments.results)),
        "sizes": lambda: size_scatter(arguments.results / "sizes-general.json"),
        "styles": lambda: style_map(arguments.results / "styles-general.npz"),
        "training": lambda: training_curves(sorted(arguments.runs.glob("*.jsonl"))),
        "rivals": lambda: rival_curves(sorted((arguments.runs / "rivals").glob("*.jsonl"))),
        "trust": lambda: reliability(arguments.results),
        "networks": lambda: network_curves(arguments.results),
        "unseen": lambda: trust_unseen(arguments.results),
        "failures": lambda: outlines(arguments.results / "failures.npz"),
    }
    wanted = arguments.only.split(",") if arguments.only else list(drawings)
    unknown = sorted(set(wanted) - set(drawings))
    if unknown:
        say(f"found figure {', '.join(unknown)}; expected some of {', '.join(drawings)}")
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        figure = drawings[name]()
        if figure is None:
            say(f"{name}: nothing to draw yet, its results are not in {arguments.results}")
            continue
        figure.savefig(arguments.out / f"{name}.png", dpi=110, metadata={"Software": None})
        say(f"{arguments.out / name}.png")
    return 0


def precision_curves(results: Sequence[MethodResult]) -> pyplot.Figure | None:
    """Average precision against the threshold of IoU: all images, nuclei, all others, and the mean over sources."""
    if not results:
        return None
    parts: dict[str, Callable[[Evaluation], tuple]] = {
        "all images": lambda found: found.scores.over_images,
        f"nuclei ({', '.join(NUCLEI)})": lambda found: _over_images(found, True),
        "all other images": lambda found: _over_images(found, False),
        "mean over sources": lambda found: found.scores.over_sources,
    }
    figure, axes = pyplot.subplots(1, len(parts), figsize=(4 * len(parts), 4), sharey=True, layout="constrained")
    for axis, (title, take) in zip(axes, parts.items(), strict=True):
        for place, result in enumerate(results):
            intervals = take(result.evaluation)
            axis.plot(THRESHOLDS, [one.mean for one in intervals], color=f"C{place}", label=result.title)
            low, high = [one.low for one in intervals], [one.high for one in intervals]
            axis.fill_between(THRESHOLDS, low, high, color=f"C{place}", alpha=0.15, linewidth=0)
        axis.set(title=title, xlabel="IoU threshold", ylim=(0, 1), xlim=(0.5, 0.95))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("average precision")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _over_images(found: Evaluation, nuclei: bool) -> tuple:
    chosen = [image for image in found.images if (image.source in NUCLEI) == nuclei]
    values = np.array([image.average_precision for image in chosen]).reshape(-1, len(THRESHOLDS))
    return summarise(values, [image.source for image in chosen], THRESHOLDS).over_images


def network_curves(folder: Path) -> pyplot.Figure | None:
    """For each speciality and each category left out: that network and the generalist on those images."""
    networks = {path.stem: load(path) for path in sorted((folder / "networks").glob("*.json"))}
    if not networks or not (folder / "general.json").exists():
        return None
    wanted = {source: ((source,), (f"{source}-alone", f"{source}-tuned")) for source in SPECIALITIES}
    wanted["nuclei"] = (NUCLEI, ("nuclei",))
    wanted |= {f"{name}, never seen": (sources, (f"without-{name}",)) for name, sources in CATEGORIES.items()}
    shown = {title: parts for title, parts in wanted.items() if set(parts[1]) & set(networks)}
    networks["general"] = load(folder / "general.json")
    figure, axes = pyplot.subplots(1, len(shown), figsize=(3.2 * len(shown), 3.6), sharey=True, squeeze=False)
    for axis, (title, (sources, names)) in zip(axes[0], shown.items(), strict=True):
        for place, name in enumerate(("general", *names)):
            if name in networks:
                curve = [one.mean for one in part_of(networks[name], sources).scores.over_images]
                axis.plot(THRESHOLDS, curve, color=f"C{place}", label=name)
        axis.set(title=title, xlabel="IoU threshold", ylim=(0, 1), xlim=(0.5, 0.95))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=7)
    axes[0, 0].set_ylabel("average precision")
    figure.set_layout_engine("constrained")
    return figure


def reliability(folder: Path) -> pyplot.Figure | None:
    """Confidence against the truth and precision against coverage, of sources learned from and of others."""
    general = load(folder / "general.json") if (folder / "general.json").exists() else None
    if general is None or general.trust is None:
        return None
    learned = set(general.settings["seen"])
    parts = {"sources of the training": general.trust.of(learned)}
    parts["never trained on"] = general.trust.of(set(general.trust.objects) - learned)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    for place, (name, found) in enumerate(parts.items()):
        if found.objects.sum():
            told, true = zip(*[(told, true) for _, told, true in found.bins()], strict=True)
            error = found.calibration_error
            left.plot(told, true, "o-", color=f"C{place}", label=f"{name}: calibration error {error:.3f}")
            kept, good = (np.cumsum(values[::-1]) for values in (found.objects, found.right))
            right.plot((kept / kept[-1])[kept > 0], good[kept > 0] / kept[kept > 0], color=f"C{place}", label=name)
    left.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    left.set(xlabel="confidence", ylabel="right (IoU at least 0.5)", xlim=(0, 1), ylim=(0, 1))
    right.set(xlabel="objects kept, the surest first", ylabel="right", xlim=(0, 1), ylim=(0, 1))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    return figure


def trust_unseen(folder: Path) -> pyplot.Figure | None:
    """Of networks that never saw a category, on its test images: reliability, and ROC of the novelty."""
    kept = {name: folder / "networks" / f"without-{name}.json" for name in CATEGORIES}
    shown = {name: load(path) for name, path in kept.items() if path.exists()}
    shown = {name: result for name, result in shown.items() if result.trust is not None}
    if not shown:
        return None
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    for place, (name, result) in enumerate(shown.items()):
        found = result.trust.of(CATEGORIES[name])
        if found.objects.sum():
            told, true = zip(*[(told, true) for _, told, true in found.bins()], strict=True)
            label = f"{name}: calibration error {found.calibration_error:.3f}"
            left.plot(told, true, "o-", color=f"C{place}", label=label)
        asked = CATEGORIES[name], result.settings["seen"]
        label = f"{name}: area {result.trust.novelty_area(*asked):.2f}"
        right.plot(*result.trust.novelty_curve(*asked), color=f"C{place}", label=label)
    for axis in (left, right):
        axis.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    left.set(xlabel="confidence", ylabel="right (IoU at least 0.5)", xlim=(0, 1), ylim=(0, 1))
    right.set(xlabel="called unlike, of the sources learned from", ylabel="called unlike, of the category never seen")
    return figure


def outlines(path: Path) -> pyplot.Figure | None:
    """True outlines in black and found ones in red, one panel an image."""
    if not path.exists():
        return None
    with np.load(path) as file:
        titles = [str(title) for title in file["titles"]]
        images = [(file[f"true{n}"], file[f"found{n}"]) for n in range(len(titles))]
    columns = 5
    rows = math.ceil(len(titles) / columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.6 * columns, 3 * rows), squeeze=False)
    for axis, title, (true, found) in zip(axes.flat, titles, images, strict=False):
        picture = np.full((*true.shape, 3), 255, np.uint8)
        picture[true] = 0
        picture[found] = RED
        axis.imshow(picture, interpolation="antialiased")
        axis.set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.set_layout_engine("constrained")
    return figure


def size_scatter(path: Path) -> pyplot.Figure | None:
    """Estimated against true diameter, one point an image."""
    if not path.exists():
        return None
    points: list[dict[str, Any]] = json.loads(path.read_text())
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 5), sharey=True, layout="constrained")
    sources = np.array([point["source"] for point in points])
    true = np.array([point["true"] for point in points])
    ends = np.array([5, 200])
    for axis, step, title in zip(axes, ("single", "refined"), ("from the style", "refined"), strict=True):
        estimated = np.array([point[step] for point in points])
        for name, style in _styles(sources):
            axis.plot(true[sources == name], estimated[sources == name], label=name, markersize=4, **style)
        axis.plot(ends, ends, color="black", linewidth=0.8)
        axis.fill_between(ends, ends / NEAR, ends * NEAR, color="black", alpha=0.08, linewidth=0)
        near = np.mean(np.abs(np.log2(estimated / true)) <= math.log2(NEAR))
        correlation = np.corrcoef(true, estimated)[0, 1]
        axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="true diameter, pixels")
        axis.set_title(f"{title}: correlation {correlation:.2f}, {near:.0%} within a factor of {NEAR}")
    axes[0].set_ylabel("estimated diameter, pixels")
    axes[1].legend(frameon=False, fontsize=7, loc="lower right")
    return figure


def style_map(path: Path) -> pyplot.Figure | None:
    """t-SNE of the styles, one point an image."""
    if not path.exists():
        return None
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise SystemExit("styles: t-SNE needs scikit-learn: pip install scikit-learn, or make figures") from error
    with np.load(path) as file:
        styles, sources = file["styles"].astype(np.float32), file["sources"]
    places = TSNE(perplexity=min(20, len(styles) / 4), init="pca", random_state=0).fit_transform(styles)
    figure, axis = pyplot.subplots(figsize=(7.5, 5.5), layout="constrained")
    for name, style in _styles(sources):
        axis.plot(*places[sources == name].T, label=name, markersize=5, **style)
    axis.set(xticks=[], yticks=[], title="t-SNE of the styles of the test images")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def training_curves(logs: Sequence[Path]) -> pyplot.Figure | None:
    """Losses and validation AP against hours, one line a run."""
    if not logs:
        return None
    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    for place, path in enumerate(logs):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for axis, name in zip(axes, ("flow", "inside"), strict=False):
            hours, values = _series(lines, name)
            width = min(SMOOTH, len(values) // 3)
            if width:
                smooth = np.convolve(values, np.ones(width) / width, "valid")
                axis.plot(hours[width - 1 :], smooth, color=f"C{place}", label=path.stem)
        _plot_validation(axes[2], lines, f"C{place}")
    axes[0].set(title="flow loss")
    axes[1].set(title="inside loss")
    axes[2].set(title=VALIDATION, ylim=(0, 1))
    axes[0].legend(frameon=False, fontsize=8)
    for axis in axes:
        axis.set_xlabel("hours of training")
        axis.grid(alpha=0.3)
    return figure


def rival_curves(logs: Sequence[Path]) -> pyplot.Figure | None:
    """Validation AP against hours, one line a rival."""
    if not logs:
        return None
    figure, axis = pyplot.subplots(figsize=(6, 4.2), layout="constrained")
    for place, path in enumerate(logs):
        _plot_validation(axis, [json.loads(line) for line in path.read_text().splitlines()], f"C{place}", path.stem)
    axis.set(title=VALIDATION, xlabel="hours of training", ylim=(0, 1))
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.3)
    return figure


def _plot_validation(axis: pyplot.Axes, lines: Sequence[dict[str, Any]], color: str, label: str | None = None) -> None:
    for threshold, dash in ((50, "-"), (75, "--"), (90, ":")):
        hours, values = _series(lines, f"validation_ap{threshold}", f"ap{threshold}")
        axis.plot(hours, values, dash, color=color, marker=".", label=label if threshold == 50 else None)


def _series(lines: Sequence[dict[str, Any]], *names: str) -> tuple[np.ndarray, np.ndarray]:
    """Hours and values of the lines that have one of these entries."""
    found = [(line["seconds"] / 3600, line[name]) for line in lines for name in names if name in line]
    return np.array([hours for hours, _ in found]), np.array([value for _, value in found])


def _styles(sources: np.ndarray) -> list[tuple[str, dict[str, Any]]]:
    """A marker for every source, no two alike."""
    return [
        (str(name), {"marker": MARKERS[place // 10], "color": f"C{place % 10}", "linestyle": "none"})
        for place, name in enumerate(np.unique(sources))
    ]


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("--only", help="names of figures, separated by commas")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--out", type=Path, default=FIGURES)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
