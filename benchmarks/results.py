"""What a method scored on the test images, one small file each in docs/results/, for tables and figures.

Counts at every threshold are kept; average precision follows from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trust import Trust

from cellbasin.atomic import atomic
from cellbasin.engines.hardware import find_hardware
from cellbasin.evaluation import THRESHOLDS, Evaluation, ImageScore
from cellbasin.model import Model
from cellbasin.version import VERSION

RESULTS = Path(__file__).parent.parent / "docs" / "results"


@dataclass(frozen=True)
class MethodResult:
    """One method on one part of the data set.

    method: name of the file. title: as tables show it. training_hours: NaN where nothing is trained. settings: whatever
    else decides the outcome (versions, thresholds, options). processor: where `seconds` of the images were measured.
    trust: what a model says of its own results, None of methods that say nothing.
    """

    method: str
    title: str
    evaluation: Evaluation
    training_hours: float = math.nan
    settings: Mapping[str, Any] = field(default_factory=dict)
    split: str = "test"
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    processor: str = field(default_factory=lambda: find_hardware().processor)
    trust: Trust | None = None

    def save(self, folder: Path = RESULTS) -> Path:
        """Write FOLDER/METHOD.json, one line an image, and return it."""
        header = {
            **{name: getattr(self, name) for name in ("method", "title", "date", "processor", "split")},
            "training_hours": _or_none(self.training_hours, 3),
            "settings": dict(self.settings),
            "thresholds": list(THRESHOLDS),
            **({"trust": self.trust.as_json()} if self.trust else {}),
        }
        lines = ",\n".join(json.dumps(_line(image)) for image in self.evaluation.images)
        entries = ",\n ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in header.items())
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.method}.json"
        with atomic(path) as temporary:
            temporary.write_text(f'{{\n {entries},\n "images": [\n{lines}\n]\n}}\n')
        return path


def of_model(
    model: Model,
    name: str,
    found: Evaluation,
    trust: Trust | None = None,
    diameter: str = "auto",
    hours: float | None = None,
) -> MethodResult:
    """The result of one of our networks. hours: of training with all ancestors, where their cards do not tell."""
    card, engine = model.card, model.engines[0]
    runs = [card.recipe.get("hours"), *(ancestor.get("hours") for ancestor in card.ancestors)]
    settings = {
        "version": VERSION,
        "weights": model.weights[0].sha256,
        "seen": list(card.seen),
        "sources": list(card.sources),
        "ancestors": [{"sha256": one["sha256"], "sources": one["sources"]} for one in card.ancestors],
        "run": {name: card.recipe.get(name) for name in ("crops", "hours")},
        "diameter": diameter,
        "engine": f"{engine.name} {engine.precision}",
    }
    hours = hours or (math.nan if None in runs else sum(runs))
    return MethodResult(name, f"cellbasin {name}", found, hours, settings, trust=trust)


def load(path: Path) -> MethodResult:
    """Read what `MethodResult.save` wrote.

    Raises ValueError for a file of other thresholds or another form.
    """
    try:
        found = json.loads(path.read_text())
        if found["thresholds"] != list(THRESHOLDS):
            raise ValueError(f"{path}: found thresholds {found['thresholds']}; expected {list(THRESHOLDS)}")
        hours = found["training_hours"]
        return MethodResult(
            evaluation=Evaluation(tuple(_score(line) for line in found["images"])),
            training_hours=math.nan if hours is None else hours,
            trust=Trust.from_json(found["trust"]) if "trust" in found else None,
            **{name: found[name] for name in ("method", "title", "settings", "split", "date", "processor")},
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: found no result of a method ({error}); expected what results.py writes") from error


def load_all(folder: Path = RESULTS) -> list[MethodResult]:
    """All results of a folder, the best mean AP@0.5 first; other JSON files (without "method") are passed over."""
    files = [path for path in sorted(folder.glob("*.json")) if "method" in _header(path)]
    return sorted((load(path) for path in files), key=lambda result: -result.evaluation.at(0.5)[0].mean)


def _header(path: Path) -> Mapping[str, Any]:
    content = json.loads(path.read_text())
    return content if isinstance(content, dict) else {}


def _line(image: ImageScore) -> dict[str, Any]:
    return {
        "source": image.source,
        "name": image.name,
        "true": image.tp[0] + image.fn[0],
        "found": image.tp[0] + image.fp[0],
        "tp": list(image.tp),
        "true_diameter": _or_none(image.true_diameter, 2),
        "diameter": _or_none(image.diameter, 2),
        "seconds": _or_none(image.seconds, 4),
    }


def _score(line: Mapping[str, Any]) -> ImageScore:
    tp = tuple(line["tp"])
    fp, fn = tuple(line["found"] - n for n in tp), tuple(line["true"] - n for n in tp)
    counts = zip(tp, fp, fn, strict=True)
    precision = tuple(t / (t + p + n) if t + p + n else 1.0 for t, p, n in counts)
    known = [math.nan if line[name] is None else line[name] for name in ("true_diameter", "diameter", "seconds")]
    return ImageScore(line["source"], line["name"], precision, tp, fp, fn, *known)


def _or_none(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None
