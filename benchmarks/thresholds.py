"""Probability and flow-error thresholds by cross-validation, beside the paper's 0.5 and 0.4.

    python benchmarks/thresholds.py                    the shipped model on validation images, true diameter

Validation images (split off the training images by group) are parted into five folds by group; for each fold the
thresholds are those that are best on the other four, and its images are scored with them. The test split is not
looked at. What counts is AP, mean over the thresholds of overlap 0.5 and 0.75 and over images and sources alike.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from pathlib import Path

import numpy as np
from inputs import data_root
from report import OUTPUT, command_line, markdown, publish, say

from cellbasin.datasets import channels_of, read_pair, select_records
from cellbasin.dynamics import judge, segment_flows
from cellbasin.evaluation import SHOWN, THRESHOLDS, score_labels
from cellbasin.intensity import select_channels
from cellbasin.io import Record
from cellbasin.labels import median_diameter
from cellbasin.model import Model, load_model
from cellbasin.options import NOT_ANNOTATED

PROBABILITY = (0.3, 0.4, 0.5, 0.6, 0.7)
FLOW = (0.3, 0.4, 0.5, 0.6, 0.8, 1.0, np.inf)
PAPER = (PROBABILITY.index(0.5), FLOW.index(0.4))
FOLDS = 5
PLACES = tuple(THRESHOLDS.index(threshold) for threshold in SHOWN)


def main() -> int:
    arguments = _arguments()
    records = select_records(data_root(), "validation", ("sartorius",))[:: arguments.every]
    model = load_model(arguments.model)
    say(f"{len(records)} validation images")
    scores = np.array([score_grid(model, record) for record in records])  # (images, probability, flow, 3)
    sources = np.array([record.source for record in records])
    folds = np.array([zlib.crc32((record.group or record.name).encode()) % FOLDS for record in records])
    text = "\n\n".join([grid_table(scores, sources), cross_validated(scores, sources, folds)]) + "\n"
    publish(arguments.out, text)
    return 0


def score_grid(model: Model, record: Record) -> np.ndarray:
    """AP at 0.5, 0.75 and 0.9 (probability, flow, 3) of one image with its true diameter."""
    image, truth = read_pair(record)
    diameter = median_diameter(truth, NOT_ANNOTATED)
    diameter = diameter if diameter > 0 else model.card.diameter
    maps = model.predict(select_channels(image, channels_of(record, image)), diameter)
    rows = []
    for threshold in PROBABILITY:
        found = segment_flows(
            maps.flow,
            maps.probability,
            probability_threshold=threshold,
            flow_threshold=None,
            step=model.step_length(diameter),
        )
        precisions = [score_labels(truth, judge(found, limit).labels).average_precision for limit in FLOW]
        rows.append([[precision[place] for place in PLACES] for precision in precisions])
    return np.array(rows)


def over_sources(scores: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Mean over the means of the sources of scores (images, ...)."""
    return np.mean([scores[sources == source].mean(axis=0) for source in np.unique(sources)], axis=0)


def merit(scores: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """What is maximised, (probability, flow): AP at 0.5 and 0.75, over images and over sources alike."""
    return ((scores.mean(axis=0) + over_sources(scores, sources)) / 2)[..., :2].mean(axis=-1)


def grid_table(scores: np.ndarray, sources: np.ndarray) -> str:
    """AP@0.5 over images / sources for every pair of thresholds."""
    by_source = over_sources(scores, sources)
    rows = [
        [f"{p:g}", *(f"{scores[:, i, j, 0].mean():.3f} / {by_source[i, j, 0]:.3f}" for j in range(len(FLOW)))]
        for i, p in enumerate(PROBABILITY)
    ]
    header = ["probability", *("off" if np.isinf(limit) else f"flow error {limit:g}" for limit in FLOW)]
    return f"AP@0.5 over images / sources, all {len(scores)} images\n\n{markdown(header, rows)}"


def cross_validated(scores: np.ndarray, sources: np.ndarray, folds: np.ndarray) -> str:
    """What is chosen on four folds, scored on the fifth, beside the paper's thresholds."""
    left_out, chosen = np.empty((len(scores), scores.shape[-1])), []
    for fold in range(FOLDS):
        inside = folds == fold
        values = merit(scores[~inside], sources[~inside])
        best = np.unravel_index(values.argmax(), values.shape)
        left_out[inside] = scores[inside][:, best[0], best[1]]
        chosen.append(f"{PROBABILITY[best[0]]:g} and {FLOW[best[1]]:g}")
    values = merit(scores, sources)
    best = np.unravel_index(values.argmax(), values.shape)
    rows = [
        _row("paper: 0.5 and 0.4", scores[:, PAPER[0], PAPER[1]], sources),
        _row(f"chosen on the other folds ({', '.join(chosen)})", left_out, sources),
        _row(
            f"best on all (optimistic): {PROBABILITY[best[0]]:g} and {FLOW[best[1]]:g}",
            scores[:, best[0], best[1]],
            sources,
        ),
    ]
    return markdown(["probability and flow error", *(f"AP@{t} images / sources" for t in SHOWN)], rows)


def _row(name: str, scores: np.ndarray, sources: np.ndarray) -> list[str]:
    pairs = zip(scores.mean(axis=0), over_sources(scores, sources), strict=True)
    return [name, *(f"{images:.4f} / {by_source:.4f}" for images, by_source in pairs)]


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("--model", default="general", help="a shipped model or a weights file")
    parser.add_argument("--every", type=int, default=1, help="only every so many images")
    parser.add_argument("--out", type=Path, default=OUTPUT / "thresholds.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
