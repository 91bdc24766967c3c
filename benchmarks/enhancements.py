"""What each step at test time gives and costs (paper, "Test time enhancements"): AP and seconds, one change at a time.

    python benchmarks/enhancements.py                              the shipped model on validation images
    python benchmarks/enhancements.py --ensemble second.safetensors --only default flips ensemble

Validation images are split off the training images; the test split is not looked at. Seconds are medians per image, all
ways in one run; the first row is what the program does by itself.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from inputs import data_root
from report import BOTH_MEANS, OUTPUT, both_means, command_line, markdown, publish, say

from cellbasin.datasets import select_records
from cellbasin.evaluation import evaluate
from cellbasin.model import Model, load_model
from cellbasin.options import FLOW_THRESHOLD, Options

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
        if arguments.only and not any(word in way.name for word in arguments.only):
            continue
        found = evaluate(way.model, records, diameter=way.diameter, options=way.options)
        rows.append([way.name, *both_means(found), f"{found.summary()['seconds_per_image']:.2f}"])
        say(" | ".join(rows[-1]))
    publish(arguments.out, markdown(["way", *BOTH_MEANS, "seconds per image"], rows) + "\n")
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
    parser = command_line(__doc__)
    parser.add_argument("--model", default="general", help="a shipped model or a weights file")
    parser.add_argument("--ensemble", nargs="*", default=[], help="weights files averaged with it")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="ways whose names hold one of these")
    parser.add_argument("--every", type=int, default=1, help="only every so many images")
    parser.add_argument("--out", type=Path, default=OUTPUT / "enhancements.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
