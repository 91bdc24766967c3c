"""Accuracy on the test split: scores by source, confidence, the ten worst images drawn, objects where there are none.

    python benchmarks/accuracy.py                              the shipped model, automatic diameter
    python benchmarks/accuracy.py --model FILE --limit 3       at most three images of each source

The data set is found through CELLBASIN_DATA, else beside the project. Results go to output/accuracy/, which is not
tracked: pictures of other people's images are not for the repository. The scores of every image of the whole test split
are also kept in docs/results/NAME.json, and the images' styles in styles-NAME.npz, for `compare.py` and `figures.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from inputs import data_root
from looks import log_look
from PIL import Image as Pillow
from PIL import ImageDraw
from report import command_line, markdown, say
from results import RESULTS, of_model
from trust import Trust, evaluate_with_trust, table

from cellbasin.atomic import atomic
from cellbasin.datasets import channels_of, limit_per_source, read_pair
from cellbasin.evaluation import SHOWN, Evaluation, ImageScore
from cellbasin.generator import generate
from cellbasin.io import Record, display, read_index
from cellbasin.labels import boundaries
from cellbasin.metrics import summarise
from cellbasin.model import Model, load_model
from cellbasin.options import NOT_ANNOTATED
from cellbasin.version import VERSION

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "output" / "accuracy"
WORST = 10
YELLOW, RED, GRAY = (255, 220, 0), (255, 40, 40), (90, 90, 90)
SIDE = 512  # pixels of the fields without cells


def main() -> int:
    arguments = _arguments()
    model = load_model(arguments.model, engine=arguments.engine, precision=arguments.precision)
    engine = model.engines[0]
    name = f"model {model.card.name} ({model.weights[0].sha256[:12]})"
    title = f"cellbasin {VERSION}, {name}, {engine.name} {engine.precision}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = [f"{title}, diameter {arguments.diameter}\n"]
    results: dict[str, object] = {"about": report[0].strip()}
    if (data_root() / "index.csv").is_file():
        records = read_index(data_root(), arguments.split)
        records = limit_per_source(records, arguments.limit) if arguments.limit else records
        found, trust, styles = evaluate_with_trust(model, records, arguments.diameter)
        results["evaluation"] = found.as_dict()
        results["trust"] = trust.as_json()
        if arguments.split == "test":
            log_look(model, found, arguments.diameter)
            if not arguments.limit:
                keep(model, found, trust, arguments, styles)
        report += [source_table(found), *trust_tables(model, trust)]
        report.append(worst_images(model, records, found, arguments.diameter, arguments.out))
    else:
        say(f"scores on real images: skipped, no data set in {data_root()} (set CELLBASIN_DATA)")
    fields = empty_fields(model, arguments.fields)
    results["empty_fields"] = fields
    report.append(empty_table(fields))
    text = "\n".join(report)
    (arguments.out / "accuracy.md").write_text(text)
    (arguments.out / "accuracy.json").write_text(json.dumps(results, indent=1))
    print(text)
    say(f"written to {arguments.out}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("--model", default="general", help="a shipped model or a weights file")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--split", default="test")
    parser.add_argument("--diameter", default="auto", choices=("auto", "true"))
    parser.add_argument("--limit", type=int, help="at most so many images of each source")
    parser.add_argument("--fields", type=int, default=10, help="fields without cells of each kind")
    parser.add_argument("--hours", type=float, help="of training with all ancestors, where their cards don't tell")
    parser.add_argument("--out", type=Path, default=OUTPUT)
    return parser.parse_args()


def keep(
    model: Model, found: Evaluation, trust: Trust, arguments: argparse.Namespace, styles: Sequence[np.ndarray]
) -> None:
    """Write docs/results/NAME.json and, with automatic diameters, styles-NAME.npz: for comparisons and figures."""
    card, diameter = model.card, arguments.diameter
    name = card.name if diameter == "auto" else f"{card.name}-{diameter}-diameter"
    of_model(model, name, found, trust, diameter, arguments.hours).save()
    if diameter == "auto":
        with atomic(RESULTS / f"styles-{name}.npz") as temporary:
            np.savez_compressed(
                temporary,
                styles=np.array(styles, np.float16),
                sources=np.array([image.source for image in found.images]),
                model=card.name,
            )


def trust_tables(model: Model, trust: Trust) -> list[str]:
    """Of the sources that the network has learned from, and of those that it has not."""
    learned = model.card.seen
    left_out = sorted(set(trust.objects) - set(learned))
    tables = [table("sources of the training", trust.of(learned))]
    return [*tables, table(f"never trained on: {', '.join(left_out)}", trust.of(left_out))] if left_out else tables


def source_table(found: Evaluation) -> str:
    """AP by source, with 95 % bootstrap intervals, and over images and sources."""
    places = [found.thresholds.index(threshold) for threshold in SHOWN]
    lines = []
    for source in found.sources:
        part = found.of(source)
        values = np.array([image.average_precision for image in part.images])[:, places]
        scores = summarise(values, [source] * len(values), SHOWN)
        ratio = part.summary()["median_abs_log2_diameter"]
        lines.append([source, str(len(values)), *map(str, scores.over_images), f"{ratio:.2f}"])
    over_images, over_sources = zip(*(found.at(threshold) for threshold in SHOWN), strict=True)
    lines.append(["**mean over images**", str(len(found.images)), *map(str, over_images), ""])
    lines.append(["**mean over sources** with five images or more", "", *map(str, over_sources), ""])
    header = ["source", "images", *(f"AP@{threshold}" for threshold in SHOWN), "median error of diameter, log2"]
    return f"## Scores by source, with 95 % bootstrap intervals\n\n{markdown(header, lines)}\n"


def worst_images(model: Model, records: Sequence[Record], found: Evaluation, diameter: str, out: Path) -> str:
    """Write a picture of each of the images with the lowest AP@0.5 and list them."""
    place = found.thresholds.index(0.5)
    paired = sorted(zip(found.images, records, strict=True), key=lambda pair: pair[0].average_precision[place])
    for old in out.glob("worst-*.png"):
        old.unlink()
    lines = []
    for number, (score, record) in enumerate(paired[:WORST], start=1):
        path = out / f"worst-{number:02d}-{score.source}-{score.name[:40]}.png"
        _picture(model, record, score, diameter).save(path)
        counts = (score.tp[place], score.fp[place], score.fn[place])
        values = [f"{score.average_precision[place]:.3f}", *map(str, counts)]
        lines.append(
            [f"{score.source}/{score.name}", *values, f"{score.true_diameter:.0f}", f"{score.diameter:.0f}", path.name]
        )
    header = ["image", "AP@0.5", "TP", "FP", "FN", "true diameter", "used", "picture"]
    return f"## The {len(lines)} worst images\n\n{markdown(header, lines)}\n"


def _picture(model: Model, record: Record, score: ImageScore, diameter: str) -> Pillow.Image:
    """Left the truth in yellow (not annotated: gray), right what was found in red."""
    image, truth = read_pair(record)
    channels = channels_of(record, image)
    wanted = score.diameter if diameter == "true" else None
    predicted = model.segment(image, channels=channels, diameter=wanted).labels
    base = display(image, channels)
    left, right = base.copy(), base.copy()
    left[truth == NOT_ANNOTATED] = left[truth == NOT_ANNOTATED] // 2 + np.uint8(GRAY[0] // 2)
    left[boundaries(np.where(truth == NOT_ANNOTATED, 0, truth))] = YELLOW
    right[boundaries(predicted)] = RED
    gap = np.full((base.shape[0], 8, 3), 255, np.uint8)
    picture = Pillow.fromarray(np.concatenate([left, gap, right], axis=1))
    counts = f"{truth_count(truth)} true, {predicted.max()} found"
    text = f"{score.source}/{score.name}: AP@0.5 {score.average_precision[0]:.2f}, {counts}"
    canvas = Pillow.new("RGB", (picture.width, picture.height + 16), "white")
    canvas.paste(picture, (0, 16))
    ImageDraw.Draw(canvas).text((2, 2), text, fill="black")
    return canvas


def truth_count(truth: np.ndarray) -> int:
    """Annotated objects."""
    return int(np.setdiff1d(np.unique(truth), (0, NOT_ANNOTATED)).size)


def empty_fields(model: Model, count: int) -> dict[str, list[int]]:
    """Objects found in each of `count` fields of 512² without any: background and dirt of the generator, and noise."""
    shape = (SIDE, SIDE)
    kinds: dict[str, Callable[[int], np.ndarray]] = {
        "background, dirt and noise of every look": lambda seed: generate("empty", shape, seed=seed).image[0],
        "normal noise": lambda seed: np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32),
        "photon noise, 2 a pixel": lambda seed: np.random.default_rng(seed).poisson(2.0, shape).astype(np.uint16),
        "photon noise, 50 a pixel": lambda seed: np.random.default_rng(seed).poisson(50.0, shape).astype(np.uint16),
        "uniform noise, 8 bits": lambda seed: np.random.default_rng(seed).integers(0, 256, shape, np.uint8),
        "constant": lambda seed: np.full(shape, seed, np.uint8),
    }
    return {kind: [len(model.segment(draw(seed), axes="YX")) for seed in range(count)] for kind, draw in kinds.items()}


def empty_table(fields: dict[str, list[int]]) -> str:
    """False objects per megapixel by kind of field."""
    megapixels = SIDE**2 / 1e6
    lines = [
        [kind, str(len(counts)), f"{np.mean(counts) / megapixels:.2f}", f"{max(counts) / megapixels:.2f}"]
        for kind, counts in fields.items()
    ]
    together = [number for counts in fields.values() for number in counts]
    lines.append(
        ["**all**", str(len(together)), f"{np.mean(together) / megapixels:.2f}", f"{max(together) / megapixels:.2f}"]
    )
    header = [f"field of {SIDE}²", "fields", "objects per megapixel", "worst field"]
    return f"## Objects where there are none (automatic diameter)\n\n{markdown(header, lines)}\n"


if __name__ == "__main__":
    sys.exit(main())
