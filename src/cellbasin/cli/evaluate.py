"""`cellbasin evaluate`: segment annotated images and score the result."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cellbasin.cli.console import DONE, Bar, CommandError, check_json, claim, make_folder, say, table, write_json
from cellbasin.cli.flags import EvaluateFlags, JsonOption, ModelFlags, ModelOption, one_word, options_from, words
from cellbasin.options import NOT_ANNOTATED

if TYPE_CHECKING:
    from cellbasin.evaluation import Evaluation
    from cellbasin.io import Record
    from cellbasin.options import Options
    from cellbasin.results import Segmentation

EXAMPLES = """Examples:
  cellbasin evaluate dataset --split validation
  cellbasin evaluate dataset --split test --json scores.json --save predictions
  cellbasin evaluate folder_of_pairs --split all --diameter true -m mine"""


IgnoreOption = Annotated[
    int | None,
    Parameter(
        name="--ignore-label",
        **one_word(int, "a label number or none", {"none": None}),
        metavar="N|none",
        help="Pixels annotated with this label are not scored.",
    ),
]


def evaluate(  # noqa: PLR0913
    folder: Annotated[Path, Parameter(name="DIR", help="A data set with index.csv, or pairs NAME.* and NAME_masks.*.")],
    /,
    *,
    split: Annotated[
        str,
        Parameter(metavar="train|validation|test|all", help="Which images; validation is a fixed part of train."),
    ] = "test",
    diameter: Annotated[
        float | str,
        Parameter(
            **one_word(float, "a number of pixels, auto or true", {"auto": "auto", "true": "true"}),
            metavar="PX|auto|true",
            help="Object diameter; true takes the annotated objects'.",
        ),
    ] = "auto",
    source: Annotated[tuple[str, ...], words("NAME[,...]", "Only these sources.")] = (),
    limit: Annotated[int | None, Parameter(metavar="N", help="At most N images of each source.")] = None,
    ignore: IgnoreOption = NOT_ANNOTATED,
    json_file: JsonOption = None,
    save: Annotated[Path | None, Parameter(metavar="DIR", help="Folder for the label images that were found.")] = None,
    log: Annotated[
        Path | None, Parameter(metavar="FILE", help="Append date, model and scores as one line of JSON.")
    ] = None,
    models: ModelOption = None,
    flags: EvaluateFlags = None,
) -> int:
    """Segment annotated images and print average precision by source and overall, with 95 % intervals.

    Average precision (AP) is TP / (TP + FP + FN) of objects matched at an overlap (IoU) of 0.5, 0.75 and 0.9.
    """
    from cellbasin.datasets import limit_per_source, select_records
    from cellbasin.evaluation import evaluate as run

    if limit is not None and limit < 1:
        raise CommandError(f"--limit is {limit}, expected a number from 1")
    options = options_from(flags)
    records = select_records(folder, split, sources=source, axes=options.axes)
    records = limit_per_source(records, limit) if limit else records
    _check_files(records, json_file, save, log)
    model = (models or ModelFlags()).load()
    first: dict[str, Any] = {}
    settings: dict[str, Any] = {"diameter": diameter, "options": options, "ignore": ignore}
    with Bar(len(records)) as bar:
        bar.begin("segmenting")
        found = run(model, records, **settings, progress=bar.tell, report=_reporter(save, bar, first))
    facts = {key: first[key] for key in ("version", "models", "engine", "precision")}
    facts |= {"data": folder.resolve().name, "split": split, "sources": list(source), "limit": limit}
    facts |= {"diameter": diameter, "ignore_label": ignore, "options": _changed(options)}
    if log:
        _append(log, {"date": datetime.now(UTC).isoformat(timespec="seconds"), **facts, **_short(found)})
    if json_file:
        write_json(json_file, {**facts, **found.as_dict()})
    if json_file != "-":
        say(report_text(found))
        known = {source for weights in model.weights for source in weights.card.seen}
        learned = {record.source for record in records if record.split != "test"} & known
        if learned and split != "validation":
            say(
                f"the model has learned from images of {', '.join(sorted(learned))}: new ones may score lower; "
                "--split validation takes those that a run on just these images never saw"
            )
    return DONE


def _check_files(records: Sequence[Record], json_file: str | None, save: Path | None, log: Path | None) -> None:
    """Refuse, before any work, what would overwrite annotated images or put results among them."""
    used = [path for record in records for path in (record.image, record.masks)]
    check_json(json_file, used)
    check_json(log, used)
    if json_file and log and Path(json_file).resolve() == log.resolve():
        raise CommandError(f"{log}: found one file for --json and --log, expected two: choose another")
    homes = {record.masks.parent.resolve() for record in records}
    if save is not None:
        if any(_saved(save, record).parent.resolve() in homes for record in records):
            raise CommandError(f"{save}: found the annotated images where results would go; choose another with --save")
        makers: dict[Path, Path] = {}
        for record in records:
            claim(makers, _saved(save, record), record.image)
        make_folder(save, "choose another with --save")


def _changed(options: Options) -> dict[str, Any]:
    """The options that are not at their default."""
    usual = type(options)().as_dict()
    return {key: value for key, value in options.as_dict().items() if value != usual[key]}


def report_text(found: Evaluation) -> str:
    """The table that is printed: a line for each source, the means below."""
    from cellbasin.evaluation import SHOWN

    timed = any(math.isfinite(image.seconds) for image in found.images)
    header = ["source", "images", "AP@0.5", "AP@0.75", "AP@0.9", "TP", "FP", "FN", "|log2 d|"] + ["s/image"] * timed
    rows = [_row(source, found.of(source).summary(), found.thresholds, timed=timed) for source in found.sources]
    if list(found.sources) != ["all"]:  # of images that have no sources there is that row already
        rows.append(_row("all", found.summary(), found.thresholds, timed=timed))
    lines = [table(header, rows), "TP, FP and FN are those of AP@0.5.", ""]
    for number, title in enumerate(("mean over images", "mean over sources with at least 5 images")):
        means = [found.at(threshold)[number] for threshold in SHOWN]
        told = "  ".join(f"AP@{t:g} {mean}" for t, mean in zip(SHOWN, means, strict=True))
        lines.append(f"{title}: {told}" if math.isfinite(means[0].mean) else f"{title}: there is none")
    return "\n".join(lines)


def _row(name: str, summary: dict[str, Any], thresholds: Sequence[float], *, timed: bool) -> list[str]:
    from cellbasin.evaluation import SHOWN

    places = [list(thresholds).index(threshold) for threshold in SHOWN]
    values = [f"{summary['average_precision'][place]:.3f}" for place in places]
    counts = [str(summary[key][places[0]]) for key in ("tp", "fp", "fn")]
    last = [_number(summary["median_abs_log2_diameter"])] + [_number(summary["seconds_per_image"])] * timed
    return [name, str(summary["images"]), *values, *counts, *last]


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _reporter(save: Path | None, bar: Bar, first: dict[str, Any]) -> Callable[[Record, Segmentation], None]:
    """Keeps the first result's provenance, writes label images, moves the bar on."""
    from cellbasin.io import write_labels

    def report(record: Record, result: Segmentation) -> None:
        first.update(result.provenance if not first else {})
        if save is not None:
            path = _saved(save, record)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_labels(path, result.labels, provenance=result.provenance)
        bar.end()

    return report


def _saved(folder: Path, record: Record) -> Path:
    return folder / record.source / record.split / f"{record.name}_masks.tif"


def _short(found: Evaluation) -> dict[str, Any]:
    from cellbasin.evaluation import SHOWN

    images, sources = zip(*(found.at(threshold) for threshold in SHOWN), strict=True)
    return {
        "images": len(found.images),
        "ap_over_images": [round(interval.mean, 4) for interval in images],
        "ap_over_sources": [round(interval.mean, 4) if math.isfinite(interval.mean) else None for interval in sources],
    }


def _append(path: Path, entry: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
