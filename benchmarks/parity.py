"""Networks of Cellpose 1 to 3 give here what they give in Cellpose 3.1.1.3, which runs in an environment of its own.

1. Raw outputs of a network with random weights and of a trained one, written by us for Cellpose and read back.
2. Maps of whole real images: resized, padded, cut into tiles, blended.
3. Masks of real images, in every precision; Cellpose has two integrators (processor, graphics processor), and where
   these two do not agree with each other nothing can agree with Cellpose. What is left is told apart: the masks are
   compared without quality control (nothing is dropped, on either side), and with ours judged by the flows that
   Cellpose itself computes of them.
4. The files: `_seg.npy`, masks, ROIs and outlines that we write are read by Cellpose, and what it writes by us.

`python benchmarks/parity.py --weights PAPER.safetensors` needs a trained network of the paper's kind for 2 and 3
(`cellbasin train ... --network paper`) and the data set beside the project.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from inputs import data_root
from upstream import DEFAULT_ENVIRONMENT, export, set_up, start_ours, start_theirs
from workers import Worker, stage

from cellbasin.datasets import channels_of, limit_per_source, read_pair
from cellbasin.dynamics import FlowSegmentation, flow_errors, judge
from cellbasin.engines import choose_engine, find_hardware
from cellbasin.foreign import open_weights
from cellbasin.intensity import select_channels
from cellbasin.io import read_index, read_labels, read_outlines_text, read_rois, read_seg, write_labels, write_seg
from cellbasin.labels import median_diameter
from cellbasin.metrics import match
from cellbasin.model import load_model
from cellbasin.network_outputs import FLOW_SCALE
from cellbasin.options import FLOW_THRESHOLD, NOT_ANNOTATED, Options

AGREE = 0.98
TOLERANCE = 1e-4
UNJUDGED, THEIR_FLOWS = "float32 without quality control", "float32 judged by Cellpose's flows"
TOLD_APART = (UNJUDGED, THEIR_FLOWS)
LARGEST = 1 << 19  # pixels of an image as the network sees it and as it is stored: the rival is slow


@dataclass(frozen=True, eq=False)
class Sample:
    """name · image (C, Y, X), one channel or primary and nuclear · diameter in pixels."""

    name: str
    image: np.ndarray
    diameter: float


def samples(count: int) -> Iterator[Sample]:
    """Real test images, from every source in turn."""
    records = limit_per_source(read_index(data_root(), "test"), 5)
    by_source: dict[str, list] = {}
    for record in records:
        by_source.setdefault(record.source, []).append(record)
    turns = [members[turn] for turn in range(5) for members in by_source.values() if turn < len(members)]
    for record in turns:
        picture, labels = read_pair(record)
        known = np.where(labels == NOT_ANNOTATED, 0, labels)
        if not known.any() or labels.size * max(1.0, 30 / median_diameter(known)) ** 2 > LARGEST:
            continue
        pixels = select_channels(picture, channels_of(record, picture))
        used = pixels if pixels[1].any() else pixels[:1]
        yield Sample(f"{record.source}/{record.name}", used, median_diameter(known))
        count -= 1
        if not count:
            return


def raw_difference(theirs: Worker, file: Path) -> float:
    """Largest difference of the networks' outputs (flows are 5 times unit vectors), on each of our engines."""
    tiles = np.random.default_rng(0).random((2, 2, 96, 128), np.float32)
    expected = theirs.call("raw", stage(theirs.folder, "raw", tiles=tiles), keep=True, name="network").arrays
    weights = open_weights(file)
    found = [choose_engine(weights, engine, "float32").run(tiles) for engine in ("openvino", "torch")]
    return max(
        float(np.abs(part - other).max())
        for maps, style in found
        for part, other in ((maps, expected["maps"]), (style, expected["style"]))
    )


def compare(theirs: Worker, file: Path, sample: Sample, precisions: list[str]) -> dict:
    """Differences of the maps, and how far masks agree, average precision at IoU 0.9."""
    name = sample.name.replace("/", "-")
    answer = theirs.call(
        "segment_twice",
        stage(theirs.folder, name, image=sample.image),
        keep=True,
        name="network",
        diameter=sample.diameter,
    ).arrays
    row: dict = {"image": sample.name, "diameter": round(sample.diameter, 1)}
    row["objects"] = int(answer["processor"].max())
    row["two integrators"] = match(answer["processor"], answer["graphics"], 0.9).average_precision
    channels = tuple(range(len(sample.image)))
    for precision in precisions:
        model = load_model(file, engine="openvino", precision=precision)
        result = model.segment(sample.image, axes="CYX", channels=channels, diameter=sample.diameter)
        row[precision] = match(answer["processor"], result.labels, 0.9).average_precision
        row[f"{precision} of what both find"] = of_common(answer["processor"], answer["graphics"], result.labels)
        if precision == "float32":
            all_of_them = Options(diameter=sample.diameter, channels=channels, flow_threshold=0)
            unjudged = model.segment(sample.image, axes="CYX", options=all_of_them).labels
            row[UNJUDGED] = match(answer["unjudged"], unjudged, 0.9).average_precision
            judged = judged_by_their_flows(theirs, name, unjudged, result.flow)
            row[THEIR_FLOWS] = match(answer["processor"], judged, 0.9).average_precision
            row["flow difference"] = float(np.abs(FLOW_SCALE * result.flow - answer["flow"]).max())
            row["probability difference"] = float(np.abs(result.probability - answer["probability"]).max())
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def judged_by_their_flows(theirs: Worker, name: str, labels: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Quality control with the flows that Cellpose computes of the labels."""
    own = theirs.call("labels_to_flows", stage(theirs.folder, f"labels-{name}", labels=labels), keep=True).arrays[
        "flow"
    ]
    errors = flow_errors(labels, flow, own)
    return judge(FlowSegmentation(labels, errors), FLOW_THRESHOLD, border_leniency=1.0).labels


def of_common(one: np.ndarray, other: np.ndarray, ours: np.ndarray) -> float:
    """Part of the objects of which Cellpose's two integrators make the same (IoU 0.9) that we make too."""
    both = set(match(one, other, 0.9).pairs[:, 0].tolist())
    here = set(match(one, ours, 0.9).pairs[:, 0].tolist())
    return len(both & here) / len(both) if both else 1.0


def check_files(theirs: Worker, file: Path, sample: Sample) -> bool:
    """What one program writes the other reads."""
    model = load_model(file, engine="openvino", precision="float32")
    result = model.segment(sample.image, axes="CYX", channels=tuple(range(len(sample.image))), diameter=sample.diameter)
    ours, other = theirs.folder / "ours" / "cells", theirs.folder / "theirs" / "cells"
    for stem in (ours, other):
        stem.parent.mkdir()
    write_labels(f"{ours}.tif", result.labels)  # any image of that size
    write_labels(f"{ours}_cp_masks.png", result.labels)
    write_seg(f"{ours}_seg.npy", result.labels, result.flow, result.probability, result.diameter, f"{ours}.tif")
    read = theirs.call("read_files", keep=True, stem=str(ours)).arrays
    image = stage(theirs.folder, "files", image=sample.image)
    known = {"name": "network", "diameter": sample.diameter, "stem": str(other)}
    written = theirs.call("write_files", image, keep=True, **known).arrays
    seg, masks = read_seg(f"{other}_seg.npy"), written["masks"]
    if not masks.any():
        print(f"files: Cellpose finds nothing on {sample.name}: expected a network that has been trained for longer")
        return False
    drawn = read_outlines_text(f"{other}_cp_outlines.txt", masks.shape)
    rois = read_rois(f"{other}_rois.zip", masks.shape, points="centres")
    found = {
        "our _seg.npy in its training and window": np.array_equal(read["seg"], result.labels) and bool(read["fits"]),
        "our flows there": np.allclose(read["raw"][:2], FLOW_SCALE * result.flow, atol=1e-5),
        "our _cp_masks.png there": np.array_equal(read["png"], result.labels),
        "its _seg.npy here": np.array_equal(seg.labels, masks),
        "its flows here": seg.flow is not None and np.allclose(FLOW_SCALE * seg.flow, written["flow"], atol=1e-5),
        "its masks here": all(np.array_equal(read_labels(f"{other}_cp_masks{end}"), masks) for end in (".png", ".tif")),
        "its _cp_outlines.txt here": same_outlines(drawn, masks),
        "its _rois.zip here": same_outlines(rois, masks),
    }
    for name, good in found.items():
        print(f"files: {name}: {'yes' if good else 'NO'}", flush=True)
    return all(found.values())


def same_outlines(drawn: np.ndarray, masks: np.ndarray) -> bool:
    """Whether the same objects are drawn; outlines know neither holes nor other pieces than the largest."""
    both = match(masks, drawn, 0.9)
    return both.fn == both.fp == 0


def report(rows: list[dict], precisions: list[str]) -> bool:
    """Print the means; whether all is as wanted."""
    agreeing = [row for row in rows if row["two integrators"] >= AGREE]
    print(f"the two integrators of Cellpose agree (AP@0.9 >= {AGREE}) on {len(agreeing)} of {len(rows)} images")
    well = True
    for precision in precisions:
        for name, some in (("those", agreeing), ("all", rows)):
            values = [row[precision] for row in some]
            common = [row[f"{precision} of what both find"] for row in some]
            if values:
                good = sum(value >= AGREE for value in values)
                print(
                    f"{precision}, {name}: AP@0.9 with Cellpose mean {np.mean(values):.3f}, least {min(values):.3f}, "
                    f"{good} of {len(values)} at least {AGREE}; of what both integrators find {np.mean(common):.4f}"
                )
        well &= precision != "float32" or all(row[precision] >= AGREE for row in agreeing)
    for name, some in (("those", agreeing), ("all", rows)):
        counts = {key: sum(row[key] >= AGREE for row in some) for key in ("float32", *TOLD_APART)}
        print(f"{name}, {len(some)} images, on how many {AGREE} is reached: {json.dumps(counts)}")
    print(f"two integrators, all images: mean {np.mean([row['two integrators'] for row in rows]):.3f}")
    return well


def check_network(theirs: Worker, file: Path, name: str) -> bool:
    """Export, load in Cellpose, compare the raw outputs."""
    export(file, theirs.folder / name)
    exported = theirs.folder / f"{name}.pth"
    theirs.call("load", name="network", model=str(exported.with_suffix("")))
    found = raw_difference(theirs, exported)
    print(f"{name}: largest difference of raw outputs {found:.1e} (allowed: {TOLERANCE:.0e})", flush=True)
    return found <= TOLERANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rival-env", type=Path, default=DEFAULT_ENVIRONMENT)
    parser.add_argument("--weights", type=Path, help="a trained network of the paper's kind")
    parser.add_argument("--images", type=int, default=20)
    arguments = parser.parse_args()
    python = set_up(arguments.rival_env)
    hardware = find_hardware()
    precisions = ["float32", "bf16"] if hardware.has_bf16 else ["float32"]
    print(f"{hardware.processor}, {hardware.threads} threads")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with start_ours(folder) as ours:
            ours.call("random_weights", path=str(folder / "random.safetensors"), network="paper", seed=1)
        with start_theirs(python, folder) as theirs:
            well = check_network(theirs, folder / "random.safetensors", "random")
            if arguments.weights:
                well &= check_network(theirs, arguments.weights, "trained")
                exported = folder / "trained.pth"
                well &= check_files(theirs, exported, next(samples(1)))
                rows = []
                for sample in samples(arguments.images):
                    rows.append(compare(theirs, exported, sample, precisions))
                    print(json.dumps(rows[-1]), flush=True)
                well &= report(rows, precisions)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
