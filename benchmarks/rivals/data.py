"""Write the annotated images as rivals take them: the same images, splits, channels and brightness as cellbasin's own.

    python benchmarks/rivals/data.py                 everything, to output/rivals/data (about 1.5 GB)

One npz an image: image (2, Y, X) float32 (primary and nuclear as `cellbasin.intensity.select_channels` scales them,
zeros where there is no nuclear one), labels (Y, X) int32 (65535: not annotated), source, name, diameter (median of the
annotated objects, pixels). Training and validation images are those of `cellbasin train`, without the non-commercial
source; test images are of all sources.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from images import FOLDER, SPLITS, file_of
from inputs import data_root
from report import command_line, say

from cellbasin.atomic import atomic
from cellbasin.datasets import channels_of, read_pair, select_records
from cellbasin.intensity import select_channels
from cellbasin.io import Record
from cellbasin.labels import median_diameter
from cellbasin.options import NOT_ANNOTATED

NOT_FOR_TRAINING = ("sartorius",)  # as `general`, the network that rivals are compared with


def export_all(folder: Path = FOLDER) -> None:
    """Write what is not there yet; what is there stays as it is."""
    for split in SPLITS:
        records = select_records(data_root(), split, () if split == "test" else NOT_FOR_TRAINING)
        missing = [record for record in records if not file_of(folder, split, record.source, record.name).exists()]
        say(f"{split}: {len(records)} images, {len(missing)} to write")
        (folder / split).mkdir(parents=True, exist_ok=True)
        for record in missing:
            export(record, file_of(folder, split, record.source, record.name))


def export(record: Record, path: Path) -> None:
    """Write one image."""
    image, labels = read_pair(record)
    with atomic(path) as temporary:
        np.savez_compressed(
            temporary,
            image=select_channels(image, channels_of(record, image)),
            labels=labels.astype(np.int32),
            source=record.source,
            name=record.name,
            diameter=median_diameter(labels, NOT_ANNOTATED),
        )


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    export_all(parser.parse_args().out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
