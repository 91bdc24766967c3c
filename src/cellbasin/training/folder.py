"""Annotated images on disk as what training wants: a data set with index.csv, or a folder of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cellbasin.evaluation import read_pair
from cellbasin.io import ReadError, Record, read_index
from cellbasin.training.dataset import Annotated, split_groups
from cellbasin.training.recipe import VALIDATION

SPLITS = ("train", "validation", "test", "all")


def select_records(
    folder: str | Path,
    split: str = "train",
    exclude: Sequence[str] = (),
    sources: Sequence[str] = (),
    validation: float = VALIDATION,
) -> list[Record]:
    """List the annotated images of one part of a data set (see `cellbasin.io.read_index` for its layout).

    split: "train" (without what validation takes), "validation" (split off the training images by group, the
    same in every run), "test", or "all". A folder of pairs without splits is its own training and its own
    test part. exclude: sources left out; sources: the only ones kept, if any are named. Raises ReadError
    when nothing is left, a source is unknown or files are missing.
    """
    if split not in SPLITS:
        raise ReadError(f"{folder}: found split {split!r}; expected one of {', '.join(SPLITS)}")
    kept_split = {"validation": "train", "all": None}.get(split, split)
    records = read_index(folder, kept_split)
    known = sorted({record.source for record in records})
    unknown = [source for source in sources if source not in known]
    if unknown:
        raise ReadError(
            f"{folder}: found no source {', '.join(unknown)} in split {split}; expected some of {', '.join(known)}"
        )
    records = [r for r in records if r.source not in exclude and (not sources or r.source in sources)]
    if split in ("train", "validation"):
        held = split_groups([(record.source, record.group) for record in records], validation)
        records = [r for r, out in zip(records, held, strict=True) if out == (split == "validation")]
    if not records:
        few = "; of a source of fewer than five images none are kept" if split == "validation" else ""
        raise ReadError(
            f"{folder}: found no image in split {split}; expected some: check the split and the sources left out{few}"
        )
    return records


def read_folder(
    folder: str | Path,
    split: str = "train",
    exclude: Sequence[str] = (),
    channels: tuple[int, ...] | None = None,
    validation: float = VALIDATION,
    sources: Sequence[str] = (),
) -> list[Callable[[], Annotated]]:
    """Readers of the annotated images of one part of a data set, for `prepare_all`; see `select_records`.

    channels: (primary,) or (primary, nuclear) of images whose layout the index does not tell; None: gray, or
    RGB that training mixes to gray. The readers raise ReadError for files that cannot be used.
    """
    records = select_records(folder, split, exclude, sources, validation)
    return [partial(read_annotated, record, channels) for record in records]


def read_annotated(record: Record, channels: tuple[int, ...] | None = None) -> Annotated:
    """Read one annotated image; see `read_folder`.

    Raises ReadError when the image is not two-dimensional, lacks a channel, holds NaN or infinity, or its labels have
    another size.
    """
    image, labels = read_pair(record)
    planes = np.ascontiguousarray(image.channels_first)
    if not np.isfinite(planes).all():
        raise ReadError(f"{record.image}: found NaN or infinite values; expected finite ones: replace them first")
    if channels is not None and not record.layout:
        if max(channels) >= len(planes):
            raise ReadError(f"{record.image}: found {len(planes)} channels, expected those numbered {channels} from 0")
        return Annotated(planes[list(channels)], labels, record.name, record.source, "gray", record.group)
    layout = record.layout or ("rgb" if "S" in image.axes else "gray")
    if len(planes) == 1:
        layout = "gray"
    elif layout == "gray":
        planes = planes[:1] if record.layout else _primary(record, planes)
    return Annotated(planes, labels, record.name, record.source, layout, record.group)


def _primary(record: Record, planes: np.ndarray) -> np.ndarray:
    """Refuse to guess which channel shows the cells."""
    if len(planes) > 1:
        raise ReadError(
            f"{record.image}: found {len(planes)} channels; say which shows the cells with the option channels, "
            "PRIMARY[,NUCLEAR]"
        )
    return planes
