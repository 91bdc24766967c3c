"""Annotated images on disk as what training wants: a data set with index.csv, or a folder of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cellbasin.datasets import read_pair, select_records
from cellbasin.image import Image
from cellbasin.io import ReadError, Record
from cellbasin.options import VALIDATION
from cellbasin.training.generated import GENERATED
from cellbasin.training.prepared import Annotated


def read_folder(
    folder: str | Path,
    split: str = "train",
    exclude: Sequence[str] = (),
    channels: tuple[int, ...] | None = None,
    validation: float = VALIDATION,
    sources: Sequence[str] = (),
    axes: str | None = None,
) -> list[Callable[[], Annotated]]:
    """Readers of the annotated images of one part of a data set, for `prepare_all`; see `select_records`.

    channels: (primary,) or (primary, nuclear) of images whose layout the index does not tell; None: gray, or
    RGB that training mixes to gray. The readers raise ReadError for files that cannot be used.
    """
    records = select_records(folder, split, exclude, sources, validation, axes)
    if any(record.source == GENERATED for record in records):
        raise ReadError(f"{folder}: found a source called {GENERATED}, as drawn images are; expected another name")
    return [partial(read_annotated, record, channels) for record in records]


def read_annotated(
    record: Record, channels: tuple[int, ...] | None = None, read: Callable[[Path], Image] | None = None
) -> Annotated:
    """Read one annotated image, its pixels by `read` where given; see `read_folder`.

    Raises ReadError when the image is not two-dimensional, lacks a channel, holds NaN or infinity, or its labels have
    another size.
    """
    image, labels = read_pair(record, read)
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
