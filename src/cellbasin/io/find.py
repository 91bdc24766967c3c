"""Find images, pairs of image and labels, and annotated data sets in folders."""

from __future__ import annotations

import csv
import glob
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ReadError
from .read import SUFFIXES, is_zarr
from .write import is_as_segmented

MASK_ENDINGS = ("_masks", "_cp_masks")
"""What is added to an image's stem in the names of its labels, in the order in which they are looked for."""

OUTPUT_ENDINGS = (
    *MASK_ENDINGS,
    "_overlay",
    "_outlines",
    "_flows",
    "_flows_0",
    "_flows_1",
    "_flows_2",
    "_cellprob",
    "_cp_output",
    "_cp_outlines",
    "_cp_cellprob",
    "_cp_flows",
)
"""Stems with these endings are results (ours, or Cellpose's), not images."""

ARRAY_ENDINGS = ("_seg", "_size", "_predicted_diams", "_train_losses", "_test_losses")
"""The same, of NPY files alone."""

_PNG_ENDINGS = (".log",)  # what 'cellbasin train' draws of a run

LABEL_SUFFIXES = (".tif", ".tiff", ".png", ".npy")
"""Endings of label images, in any case, in the order in which they are looked for."""

_FRAME = re.compile(r"(_p\d+)?(_t\d+)?$")  # what `read_frames` adds to a name
_INDEX = "index.csv"


@dataclass(frozen=True)
class Record:
    """One annotated image of a data set.

    Attributes
    ----------
    source, split, name : where it belongs ("train" or "test", "" where a folder has no splits) and its stem.
    image, masks : paths of the image and of its labels.
    layout : "gray", "rgb" or "nucleus-cytoplasm" (first channel nucleus, second cytoplasm); "" if unknown.
    group : images of one field, photo or burst share it, and no split may part them.
    category, polarity : what is seen, and whether it is brighter than its surroundings; "" if unknown.
    diameter : median diameter of the objects in pixels, None if unknown.
    objects : number of objects, None if unknown.
    annotated : fraction of the image that is annotated.
    axes : a letter per axis of the image, "" for what the file says.
    """

    source: str
    split: str
    name: str
    image: Path
    masks: Path
    layout: str = ""
    group: str = ""
    category: str = ""
    polarity: str = ""
    diameter: float | None = None
    objects: int | None = None
    annotated: float = 1.0
    axes: str = ""


def find_images(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List the images that files, folders and patterns stand for.

    Parameters
    ----------
    inputs : files (taken as they are, unless they are results of another file in the list), folders (their
        images, not those of folders inside) and patterns with `*`, `?`, `[]` or `**`. Of folders and
        patterns, hidden files and results are left out.

    Returns
    -------
    Paths, in the order of the inputs, within each in natural order ("img2" before "img10"), each once.

    Raises
    ------
    ReadError for an input that does not exist or holds no image.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("img10.tif", "img2.png", "img2_masks.tif", "notes.txt"):
    ...         _ = Path(folder, name).touch()
    ...     [path.name for path in find_images([folder])]
    ['img2.png', 'img10.tif']
    """
    found: dict[Path, Path] = {}
    named: list[Path] = []
    for item in inputs:
        path = Path(item)
        try:
            images = _expand(path)
        except OSError as error:
            raise ReadError(
                f"{path}: cannot be read ({error.strerror}); "
                f"expected images in an open folder: check name and permissions"
            ) from error
        if images == [path]:
            named.append(path)
        for image in images:
            found.setdefault(image.resolve(), image)
    stems = {(image.resolve().parent, image.stem) for image in found.values()}
    results = {path.resolve() for path in named if _is_result_of(path, stems)}
    return [image for key, image in found.items() if key not in results]


def find_pairs(folder: str | os.PathLike[str]) -> list[tuple[Path, Path]]:
    """Pair the images of a folder with their labels.

    Parameters
    ----------
    folder : holds for every image STEM.* (or STEM_img.*) its labels STEM_masks.* (or STEM_cp_masks.*): .tif,
        .tiff, .png or .npy; or Cellpose's STEM_seg.npy.

    Returns
    -------
    (image, labels) paths in natural order.

    Raises
    ------
    ReadError when the folder is missing, holds no image, or an image has no labels.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.tif", "b_masks.tif", "a2.png", "a2_masks.png", "a10.png", "a10_masks.png"):
    ...         (Path(folder) / name).touch()
    ...     [image.name for image, labels in find_pairs(folder)]
    ['a2.png', 'a10.png', 'b.tif']
    """
    images = find_images([folder])
    labels = [_labels_of(image) for image in images]
    missing = [image.name for image, path in zip(images, labels, strict=True) if path is None]
    if missing:
        raise ReadError(
            f"{folder}: found {len(missing)} of {len(images)} images without labels ({_listed(missing)}); "
            f"expected STEM{MASK_ENDINGS[0]}.tif or .png beside each: add them or move the images elsewhere"
        )
    return [(image, path) for image, path in zip(images, labels, strict=True) if path is not None]


def read_index(folder: str | os.PathLike[str], split: str | None = None) -> list[Record]:
    """List an annotated data set: one with `index.csv`, or a folder of pairs, plain or in subfolders named by
    split.

    Parameters
    ----------
    folder : holds `index.csv` with at least the columns source, split and name, and the files SOURCE/SPLIT/NAME.png (or
        any ending that is read) with NAME_masks.png; or pairs as `find_pairs` wants them, in the folder or in its
        subfolder `split`.
    split : keep only this split ("train", "test"); None keeps all. A plain folder of pairs is taken whole.

    Returns
    -------
    Records in the order of the index, or in natural order.

    Raises
    ------
    ReadError when something is missing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train", "train/a.tif", "train/a_masks.tif", "test", "test/b.tif", "test/b_masks.tif"):
    ...         path = Path(folder) / name
    ...         path.touch() if path.suffix else path.mkdir()
    ...     [(record.split, record.name) for record in read_index(folder)]
    [('train', 'a'), ('test', 'b')]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ReadError(f"{folder}: no such folder; expected a data set with {_INDEX} or pairs of image and labels")
    index = folder / _INDEX
    if index.is_file():
        records = _indexed(index)
        kept = [record for record in records if split in (None, record.split)]
        if not kept:
            known = sorted({record.split for record in records})
            raise ReadError(f"{index}: found no line for split {split!r}; expected one of {known}")
        return kept
    parts = [folder / name for name in (("train", "test") if split is None else (split,)) if (folder / name).is_dir()]
    records = []
    for part in parts or [folder]:
        for image, masks in find_pairs(part):
            name = part.name if parts else ""
            records.append(Record(folder.resolve().name, name, image.stem, image, masks, group=image.stem))
    return records


def image_stem(labels: Path) -> str:
    """The stem of the image that a label file belongs to.

    >>> image_stem(Path("a_cp_masks.png")), image_stem(Path("a_seg.npy")), image_stem(Path("a.png"))
    ('a', 'a', 'a')
    """
    if labels.name.endswith("_seg.npy"):
        return labels.stem.removesuffix("_seg")
    ending = max((one for one in MASK_ENDINGS if labels.stem.endswith(one)), key=len, default="")
    return labels.stem.removesuffix(ending)


def natural_key(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts "img2" before "img10" and ignores case.

    >>> sorted([Path("b1"), Path("a10"), Path("A9")], key=natural_key)[0].name
    'A9'
    """
    parts = re.split(r"([0-9]+)", str(path))
    keys = [(0, int(part), part) if part.isascii() and part.isdigit() else (1, 0, part.casefold()) for part in parts]
    return (*keys, (2, 0, str(path)))


def _expand(path: Path) -> list[Path]:
    if path.is_file() or is_zarr(path):
        return [path]
    if path.is_dir():
        images = _images_among(path.iterdir())
        where = f"directly in this folder (those of folders inside are '{path}/**/*.tif')"
    elif glob.has_magic(str(path)):
        images = _images_among(Path(match) for match in glob.glob(os.path.expanduser(path), recursive=True))
        where = "that fits this pattern"
    else:
        raise ReadError(f"{path}: no such file or folder; expected images: check the name")
    if not images:
        raise ReadError(f"{path}: found no image {where}; expected files ending in {' '.join(SUFFIXES)}")
    return images


def _images_among(paths: Iterable[Path]) -> list[Path]:
    kept = [
        path
        for path in paths
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and not path.stem.endswith(_result_endings(path))
        and (path.is_file() or is_zarr(path))
    ]
    return sorted(kept, key=natural_key)


def _is_result_of(path: Path, stems: set[tuple[Path, str]]) -> bool:
    parent = path.resolve().parent
    return any(
        path.stem.endswith(ending) and (parent, stem) in stems
        for ending in _result_endings(path)
        for stem in (path.stem.removesuffix(ending), _FRAME.sub("", path.stem.removesuffix(ending)))
    )


def _result_endings(path: Path) -> tuple[str, ...]:
    more = {".npy": ARRAY_ENDINGS, ".png": _PNG_ENDINGS}
    return OUTPUT_ENDINGS + more.get(path.suffix.lower(), ())


def _labels_of(image: Path) -> Path | None:
    for stem in (image.stem, image.stem.removesuffix("_img")):
        masks = [path for end in MASK_ENDINGS for path in _files_of(image.with_name(f"{stem}{end}"), LABEL_SUFFIXES)]
        seg = image.with_name(f"{stem}_seg.npy")
        found = _annotation([*masks, seg] if seg.is_file() else masks)
        if found is not None:
            return found
    return None


def _annotation(candidates: Sequence[Path]) -> Path | None:
    """The first label file, but one that `save` wrote only where there is no other: it is a result, and no truth."""
    if len(candidates) > 1:
        candidates = [path for path in candidates if not is_as_segmented(path)] or candidates
    return candidates[0] if candidates else None


def _files_of(stem: Path, suffixes: Iterable[str]) -> list[Path]:
    """The files that there are of a path without its ending, which may be written .tif, .TIF or .Tif."""
    paths = (
        stem.with_name(stem.name + spelt) for suffix in suffixes for spelt in (suffix, suffix.upper(), suffix.title())
    )
    return [path for path in paths if path.is_file()]


def _indexed(index: Path) -> list[Record]:
    try:
        with index.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReadError(f"{index}: cannot be read ({error}); expected a CSV table in UTF-8") from error
    if not rows:
        raise ReadError(f"{index}: found no lines; expected one for each image")
    absent = [column for column in ("source", "split", "name") if column not in rows[0]]
    if absent:
        raise ReadError(f"{index}: found no column {_listed(absent)}; expected at least source, split and name")
    return [_record(index, number, row) for number, row in enumerate(rows, 2)]


def _record(index: Path, number: int, row: dict[str, str]) -> Record:
    name = row["name"]
    if None in (row["source"], row["split"], name):
        raise ReadError(f"{index}: line {number} is cut short; expected at least source, split and name")
    inside = Path(row["source"], row["split"], name)
    if inside.is_absolute() or ".." in inside.parts or not name:  # results are written to folders of these names
        raise ReadError(f"{index}: line {number} names {str(inside)!r}; expected a name inside the data set")
    stem = index.parent / inside
    image = next(iter(_files_of(stem, (".png", ".jpg", *SUFFIXES))), None)
    masks = _annotation(_files_of(stem.with_name(f"{stem.name}{MASK_ENDINGS[0]}"), LABEL_SUFFIXES))
    if image is None or masks is None:
        wanted = f"{stem}.png" if image is None else f"{stem}{MASK_ENDINGS[0]}.png"
        raise ReadError(f"{index}: line {number} names {wanted}, which does not exist; expected a file for every line")
    diameter, objects = (
        _number(index, number, row, "median_diameter_px"),
        _number(index, number, row, "objects"),
    )
    annotated = _number(index, number, row, "annotated")
    return Record(
        row["source"],
        row["split"],
        name,
        image,
        masks,
        layout=row.get("layout") or "",
        group=row.get("group") or name,
        category=row.get("category") or "",
        polarity=row.get("polarity") or "",
        diameter=diameter,
        objects=None if objects is None else int(objects),
        annotated=1.0 if annotated is None else annotated,
    )


def _number(index: Path, number: int, row: dict[str, str], column: str) -> float | None:
    text = row.get(column) or ""
    try:
        value = float(text) if text else math.nan
    except ValueError as error:
        raise ReadError(f"{index}: line {number} has {text!r} for {column}; expected a number") from error
    return value if math.isfinite(value) else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
