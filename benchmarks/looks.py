"""The log of looks at the test split: settings must not be tuned on it, and everybody may see how often it was used."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from cellbasin.evaluation import SHOWN, Evaluation
from cellbasin.model import Model
from cellbasin.version import VERSION

TEST_LOG = Path(__file__).parent.parent / "docs" / "test-log.jsonl"


def log_look(model: Model, found: Evaluation, diameter: str) -> None:
    """Append date, models, precision and scores to docs/test-log.jsonl."""
    line = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": VERSION,
        "models": {weights.card.name: weights.sha256 for weights in model.weights},
        "precision": model.engines[0].precision,
        "diameter": diameter,
        "images": len(found.images),
        **{f"ap_at_{t}": [round(interval.mean, 4) for interval in found.at(t)] for t in SHOWN},
    }
    with TEST_LOG.open("a") as file:
        file.write(json.dumps(line) + "\n")
