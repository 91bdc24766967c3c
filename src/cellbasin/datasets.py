"""Annotated images on disk: which of a data set belong to a part of it, how they are read, labels paired by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellbasin.image import Image
from cellbasin.io import LABEL_SUFFIXES, ReadError, Record, image_stem, is_zarr, read_image, read_index, read_labels
from cellbasin.labels import check_numbered
from cellbasin.options import NOT_ANNOTATED, VALIDATION

SPLITS = ("train", "validation", "test", "all")


def select_records(
    folder: str | Path,
    split: str = "train",
    exclude: Sequence[str] = (),
    sources: Sequence[str] = (),
    validation: float = VALIDATION,
    axes: str | None = None,
) -> list[Record]:
    """List the annotated images of one part of a data set (see `cellbasin.io.read_index` for its layout).

    split: "train" (without what validation takes), "validation" (split off the training images by group, the
    same in every run), "test", or "all". A folder of pairs without splits is its own training and its own
    test part. exclude: sources left out; sources: the only ones kept, if any are named. axes: of all images,
    instead of what their files say. Raises ReadError when nothing is left, a source is unknown or files are missing.
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
    return [replace(record, axes=axes or "") for record in records]


def split_groups(groups: Sequence[tuple[str, str]], part: float) -> list[bool]:
    """Which images belong to validation, by (source, group): whole groups, about `part` of each source's images.

    Sources of fewer than three groups give none. The choice depends on the names alone, so it is the same in every run
    on the same images; where images of a source are added or taken away, others of it may change sides.

    >>> split_groups([("a", "1"), ("a", "2"), ("a", "3"), ("b", "x")], 0.3)
    [False, True, False, False]
    """
    members: dict[str, dict[str, int]] = {}
    for source, group in groups:
        members.setdefault(source, {}).setdefault(group, 0)
        members[source][group] += 1
    chosen: set[tuple[str, str]] = set()
    for source, counts in members.items():
        wanted = part * sum(counts.values())
        for group in sorted(counts, key=lambda g: hashlib.sha256(f"{source}/{g}".encode()).hexdigest()):
            if len(counts) < 3 or wanted < 0.5 or counts[group] > 2 * wanted + 1:
                continue
            chosen.add((source, group))
            wanted -= counts[group]
    return [pair in chosen for pair in groups]


def limit_per_source(records: Iterable[Record], limit: int) -> list[Record]:
    """At most so many images of each source, chosen by their names alone, in their order."""
    by_source: dict[str, list[Record]] = {}
    for record in records:
        by_source.setdefault(record.source, []).append(record)
    kept: list[Record] = []
    for members in by_source.values():
        chosen = sorted(members, key=lambda r: hashlib.sha256(r.name.encode()).hexdigest())[:limit]
        kept += [record for record in members if record in chosen]
    return kept


def read_pair(record: Record, read: Callable[[Path], Image] | None = None) -> tuple[Image, np.ndarray]:
    """Image, by `read` where given, and labels (int32 (Y, X)) of one record, checked to fit; raises ReadError."""
    image = read(record.image) if read else read_image(record.image, axes=record.axes or None)
    labels = read_numbered(record.masks)
    if labels.shape != image.spatial_shape or labels.ndim != 2:
        raise ReadError(
            f"{record.masks}: found labels of shape {labels.shape}; expected two dimensions and the size of "
            f"{record.image.name}, {image.spatial_shape}"
        )
    return image, labels


def read_numbered(path: Path) -> np.ndarray:
    """Read labels, int32 (Y, X) or more axes; raises ReadError also for a mask of classes, see `check_numbered`."""
    labels = read_labels(path)
    try:
        check_numbered(labels, NOT_ANNOTATED)
    except ValueError as error:
        raise ReadError(f"{path}: {error}") from error
    return labels


def channels_of(record: Record, image: Image, channels: tuple[int, ...] | None = None) -> tuple[int, ...] | None:
    """The channels to segment in an annotated image, by the layout that its record tells; see `Options.channels`."""
    count = len(image.channels_first)
    if record.layout == "nucleus-cytoplasm" and count > 1:
        return (1, 0)
    if record.layout == "gray" and count > 1:
        return (0,)
    return channels if not record.layout else None


def pair_label_files(truth: Path, predicted: Path) -> list[tuple[str, Path, Path]]:
    """Pair label images of two folders (also in subfolders) by name, (name, truth, predicted).

    Endings and a final _masks, _cp_masks or _seg in names do not matter; where a folder has files with the first two,
    only these count, else those of Cellpose (_seg.npy), else all. Two files, or label images as OME-Zarr, are a pair
    whatever their names. Raises ValueError when labels lack a partner.
    """
    if all(path.is_file() or is_zarr(path) for path in (truth, predicted)):
        return [(truth.name, truth, predicted)]
    if not truth.is_dir() or not predicted.is_dir():
        missing = truth if not truth.exists() else predicted if not predicted.exists() else None
        if missing is not None:
            raise ValueError(f"{missing}: no such file or folder; expected label images: check the name")
        raise ValueError(f"found a file and a folder ({truth}, {predicted}); expected two files or two folders")
    true_files, predicted_files = _label_files(truth), _label_files(predicted)
    lacking = [name for name in true_files if name not in predicted_files]
    if lacking:
        raise ValueError(
            f"{predicted}: found no labels for {len(lacking)} of {len(true_files)} images of {truth} "
            f"({', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}); expected one of the same "
            f"name for each"
        )
    return [(name, path, predicted_files[name]) for name, path in true_files.items()]


def _label_files(folder: Path) -> dict[str, Path]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in LABEL_SUFFIXES and not path.name.startswith(".")
    ]
    named = [path for path in files if image_stem(path) != path.stem]
    masks = [path for path in named if not path.name.endswith("_seg.npy")]
    found: dict[str, Path] = {}
    for path in masks or named or files:
        name = (path.relative_to(folder).parent / image_stem(path)).as_posix()
        if name in found:
            raise ValueError(f"found two label images for {name}: {found[name]} and {path}; expected one")
        found[name] = path
    if not found:
        raise ValueError(f"{folder}: found no label image; expected .tif, .png or .npy files")
    return found
