"""A picture of a training run, from its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cellbasin.atomic import atomic


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL log; a last line cut short by a kill is left out."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def plot_log(log: Path, picture: Path) -> None:
    """Draw losses and validation scores against hours of training. Needs matplotlib (part of the extra `train`).

    Raises WriteError when the picture cannot be written.
    """
    from matplotlib.figure import Figure

    records = read_log(log)
    losses = [r for r in records if "flow" in r]
    scores = [r for r in records if "validation_score" in r]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, label in (("flow", "flow (0.5 x squared error of 5 x flow)"), ("inside", "inside (cross-entropy)")):
        left.plot([r["seconds"] / 3600 for r in losses], [r[key] for r in losses], label=label, linewidth=1)
    left.set(xlabel="hours of training", ylabel="training loss", yscale="log")
    for key in ("ap50", "ap75", "ap90"):
        values = [r.get(f"validation_{key}") for r in scores]
        right.plot(
            [r["seconds"] / 3600 for r in scores],
            values,
            "o-",
            label=f"AP@0.{key[2:].rstrip('0') or '5'}",
            markersize=3,
        )
    right.set(xlabel="hours of training", ylabel="validation, true diameter", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with atomic(picture) as temporary:
        figure.savefig(temporary, dpi=110)
