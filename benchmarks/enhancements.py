"""What each step at test time gives and costs (paper, "Test time enhancements"): AP and seconds, one change at a time.

    python benchmarks/enhancements.py                              the shipped model on validation images
    python benchmarks/enhancements.py --ensemble second.safetensors

Validation images are split off the training images; the test split is not looked at. Seconds are medians per image, all
ways in one run; the first row is what the program does by itself.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from bench import markdown, say
from inputs import data_root

from cellbasin.evaluation import SHOWN, evaluate
from cellbasin.model import Model, load_model
from cellbasin.options import FLOW_THRESHOLD, Options
from cellbasin.training.folder import select_records

ROOT = Path(__file__).parent.parent
DEFAULT = Options()


@dataclass(frozen=True)
class Way:
    """One way to segment: a model, the diameter ("auto", "true" or pixels) and options."""

    name: str
    model: Model
    diameter: str | float = "auto"
    options: Options = DEFAULT


def main() -> int:
    arguments = _arguments()
    records = select_records(data_root(), "validation", ("sartorius",))[:: arguments.every]
    say(f"{len(records)} validation images")
    rows = []
    for way in ways(arguments.model, arguments.ensemble):
        found = evaluate(way.model, records, diameter=way.diameter, options=way.options)
        scores = [f"{found.at(t)[0].mean:.3f} / {found.at(t)[1].mean:.3f}" for t in SHOWN]
        rows.append([way.name, *scores, f"{found.summary()['seconds_per_image']:.2f}"])
        say(" | ".join(rows[-1]))
    header = ["way", *(f"AP@{t} over images / sources" for t in SHOWN), "seconds per image"]
    text = markdown(header, rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n")
    print(text)
    return 0


def ways(name: str, ensemble: list[str]) -> list[Way]:
    """The default, and one change of it at a time."""
    model = load_model(name)
    found = [
        Way("default: automatic diameter", model),
        Way("true diameter", model, "true"),
        Way("no resizing: 30 px for every image", model, 30.0),
        Way("judged by flow error (paper)", model, options=Options(min_confidence=0, flow_threshold=FLOW_THRESHOLD)),
        Way("nothing dropped", model, options=Options(min_confidence=0)),
        Way("tiles do not overlap", model, options=Options(overlap=0)),
        Way("tiles overlap by half", model, options=Options(overlap=0.5)),
        Way("flips (--augment)", model, options=Options(augment=True)),
        Way("float32", load_model(name, precision="float32")),
    ]
    if ensemble:
        together = load_model([name, *ensemble])
        found.append(Way(f"ensemble of {1 + len(ensemble)}", together))
        found.append(Way("ensemble and flips", together, options=Options(augment=True)))
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="general", help="a shipped model or a weights file")
    parser.add_argument("--ensemble", nargs="*", default=[], help="weights files averaged with it")
    parser.add_argument("--every", type=int, default=1, help="only every so many images")
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "enhancements.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
