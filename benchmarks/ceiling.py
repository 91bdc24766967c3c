"""The most that any network could reach here: true flows at the network's size instead of predicted ones, test images.

    python benchmarks/ceiling.py

Labels are shrunk or enlarged as the image would be, their flows and insides take the way back that predictions take,
and objects are found in them. What is lost is lost to resizing, to following flows, and to objects that are not of one
piece. The test images' truth is used, but nothing is chosen by it. Writes output/ceiling.md (two minutes).
"""

from __future__ import annotations

import sys

import numpy as np
from inputs import data_root
from report import OUTPUT, markdown, publish
from results import RESULTS, load

from cellbasin.datasets import read_pair
from cellbasin.dynamics import flows_to_labels
from cellbasin.evaluation import SHOWN, Evaluation, score_labels
from cellbasin.flows import labels_to_flows
from cellbasin.io import read_index
from cellbasin.labels import median_diameter
from cellbasin.model import Model, load_model
from cellbasin.options import NOT_ANNOTATED
from cellbasin.resize import resize_labels


def main() -> int:
    model = load_model()
    found = load(RESULTS / "general.json").evaluation
    used = {(image.source, image.name): image.diameter for image in found.images}
    scores: dict[str, list] = {"true": [], "automatic": []}
    for record in read_index(data_root(), "test"):
        labels = read_pair(record)[1]
        known = np.where(labels == NOT_ANNOTATED, 0, labels)
        true = median_diameter(known) or model.card.diameter
        for name, diameter in (("true", true), ("automatic", used[record.source, record.name])):
            best = best_labels(model, known, diameter)
            scores[name].append(score_labels(labels, best, record.source, record.name))
    ceilings = {name: Evaluation(tuple(images)) for name, images in scores.items()}
    text = table({"general": found, **{f"true flows, {name} diameter": one for name, one in ceilings.items()}})
    publish(OUTPUT / "ceiling.md", text)
    return 0


def best_labels(model: Model, labels: np.ndarray, diameter: float) -> np.ndarray:
    """What would be found in an image (Y, X) if the network, which sees it resized, were right in every pixel."""
    scale = model.card.diameter / diameter
    small = resize_labels(labels, tuple(max(1, model.conventions.length(n * scale)) for n in labels.shape))
    maps = np.concatenate([labels_to_flows(small), (small > 0).astype(np.float32)[None]])
    maps = model.conventions.resize(maps, labels.shape)
    return flows_to_labels(maps[:2], np.clip(maps[2], 0, 1), step=model.step_length(diameter))


def table(columns: dict[str, Evaluation]) -> str:
    """AP by source."""
    first = next(iter(columns.values()))
    rows = []
    for source in first.sources:
        means = [one.of(source).at(t)[0].mean for one in columns.values() for t in SHOWN]
        rows.append([f"{source} ({len(first.of(source).images)})", *(f"{mean:.3f}" for mean in means)])
    for place, name in enumerate(("all images", "mean over sources")):
        means = [one.at(t)[place].mean for one in columns.values() for t in SHOWN]
        rows.append([f"**{name}**", *(f"{mean:.3f}" for mean in means)])
    return markdown(["source", *(f"{name}: AP@{t}" for name in columns for t in SHOWN)], rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
