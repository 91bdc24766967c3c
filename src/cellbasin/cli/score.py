"""`cellbasin score`: label images against label images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cellbasin.cli.console import DONE, Bar, CommandError, check_json, say, write_json
from cellbasin.cli.evaluate import IgnoreOption, report_text
from cellbasin.cli.flags import JsonOption
from cellbasin.options import NOT_ANNOTATED

EXAMPLES = """Examples:
  cellbasin score truth_masks.tif found_masks.tif
  cellbasin score truth_folder found_folder --json scores.json"""


def score(
    truth: Annotated[Path, Parameter(name="TRUTH", help="True label image, or a folder of them.")],
    predicted: Annotated[
        Path,
        Parameter(name="PREDICTED", help="Label image to score, or a folder of them with the same names."),
    ],
    /,
    *,
    ignore: IgnoreOption = NOT_ANNOTATED,
    json_file: JsonOption = None,
) -> int:
    """Score label images: average precision at IoU 0.5, 0.75 and 0.9, object counts and sizes.

    Files of two folders (and subfolders) are paired by name; endings and a final _masks or _seg do not matter.
    """
    from cellbasin.datasets import pair_label_files, read_numbered
    from cellbasin.evaluation import Evaluation, score_labels

    pairs = pair_label_files(truth, predicted)
    check_json(json_file, [file for _, *files in pairs for file in files])
    images = []
    with Bar(len(pairs)) as bar:
        for name, true_file, predicted_file in pairs:
            bar.begin(name)
            source = name.split("/")[0] if "/" in name else "all"
            try:
                true, found = read_numbered(true_file), read_numbered(predicted_file)
                images.append(score_labels(true, found, source, name, ignore))
            except ValueError as error:
                text = str(error)
                told = str(true_file) in text or str(predicted_file) in text
                raise CommandError(text if told else f"{predicted_file}: {text}") from error
            bar.end()
    scored = Evaluation(tuple(images))
    if json_file:
        write_json(json_file, scored.as_dict())
    if json_file != "-":
        say(report_text(scored))
    return DONE
