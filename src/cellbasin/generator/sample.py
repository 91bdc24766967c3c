"""Annotated images of every kind, and label images alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cellbasin.generator import fluorescence as glowing
from cellbasin.generator import phase as in_phase
from cellbasin.generator import transmitted as lit
from cellbasin.generator.layout import Layout
from cellbasin.generator.paint import Labels, Scene, draw_scene, tidy

Look = Callable[[Generator, Scene], NDArray]


@dataclass(frozen=True, eq=False)
class Sample:
    """A generated image and its annotation.

    image: (C, [Z,] Y, X) uint8 or uint16 · labels: int32 ([Z,] Y, X), 0 = background, 1..N without gaps,
    every label one piece of at least 15 px · kind: a key of KINDS · diameter: px, the one asked for ·
    axes: "CYX" or "CZYX" · channels: what each channel shows · seed: what it was generated from.
    """

    image: NDArray
    labels: Labels
    kind: str
    diameter: float
    axes: str
    channels: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class _Kind:
    """One line about it, its channels, and the (layout, look) pairs that a seed chooses from."""

    line: str
    channels: tuple[str, ...]
    variants: tuple[tuple[Layout, Look], ...]


_ROUND = Layout(density=(0.04, 0.45))
_SPREAD = Layout(density=(0.1, 0.6), size_spread=(0.15, 0.4), aspect=(1, 2.2), wobble=(0.08, 0.2), warp=(0.02, 0.12))
_BRANCHED = replace(_SPREAD, density=(0.05, 0.45), branches=(0, 5), wobble=(0.05, 0.15), warp=(0.02, 0.08))
_SPINDLE = Layout(
    density=(0.05, 0.5),
    aspect=(1.5, 6),
    wobble=(0.05, 0.15),
    warp=(0.03, 0.12),
    branches=(0, 3),
    align=(0, 1),
)
_BODIES = replace(_SPREAD, density=(0.02, 0.35), aspect=(1, 1.8), clump=(0, 3), branches=(0, 2))
_CONFLUENT = replace(_BODIES, density=(0.35, 0.8), aspect=(1, 3.5), branches=(0, 0))
_TILES = Layout(
    density=(0.95, 1.0),
    clump=(0, 0),
    size_spread=(0.05, 0.3),
    aspect=(1, 1.5),
    wobble=(0.0, 0.05),
    reach=2.2,
    align=(0, 1),
    warp=(0.0, 0.08),
)
_CROWD = replace(_ROUND, density=(0.5, 0.85), size_spread=(0.1, 0.3), wobble=(0.03, 0.12), tightness=(0.8, 1.0))
_RODS = Layout(
    "capsule",
    density=(0.1, 0.75),
    clump=(0, 3),
    size_spread=(0.05, 0.2),
    aspect=(2, 5),
    warp=(0.0, 0.1),
    align=(0, 1),
)
_BALLS = Layout(
    density=(0.3, 0.9),
    clump=(0, 1.5),
    size_spread=(0.1, 0.6),
    aspect=(1, 1.2),
    wobble=(0.0, 0.06),
    tightness=(0.75, 1.0),
    overlap="stack",
)
_FLAT_BALLS = replace(_BALLS, overlap="split", tightness=(0.95, 1.15), size_spread=(0.03, 0.3))
_BOXES = replace(
    _FLAT_BALLS,
    outline="box",
    power=(2.5, 7),
    clump=(0, 4),
    align=(0, 1),
    tightness=(1.0, 1.2),
    density=(0.1, 0.6),
)
_SHARDS = Layout("box", density=(0.1, 0.5), size_spread=(0.2, 0.6), aspect=(1, 3), wobble=(0.05, 0.2), power=(2, 5))
_RINGS = Layout(
    density=(0.6, 0.9),
    clump=(0, 1),
    size_spread=(0.2, 0.5),
    aspect=(1, 1.8),
    wobble=(0.04, 0.15),
    core=(0.5, 0.75),
)

_ONE_CHANNEL: tuple[Look, ...] = (
    *(glowing.nuclei, glowing.bright_rods, in_phase.phase, in_phase.culture, lit.dic, lit.brightfield),
    *(lit.stained, lit.grains, lit.dark_rods, lit.transmission),
)
_RECIPES: dict[str, _Kind] = {
    "nuclei": _Kind(
        "fluorescent nuclei, some touching, of varied brightness, with debris and haze",
        ("nuclei",),
        ((_ROUND, glowing.nuclei), (_CROWD, glowing.nuclei)),
    ),
    "cytoplasm": _Kind(
        "whole cells (channel 0) with nuclei (channel 1): spread, spindle-shaped or branched",
        ("cytoplasm", "nuclei"),
        tuple((layout, glowing.cytoplasm) for layout in (_SPREAD, _BRANCHED, _SPINDLE)),
    ),
    "tissue": _Kind(
        "crowded tissue: patchy cytoplasm and borders (channel 0), nuclei (channel 1)",
        ("cytoplasm", "nuclei"),
        ((replace(_TILES, reach=1.25, density=(0.7, 1.0)), glowing.tissue), (_CROWD, glowing.tissue)),
    ),
    "membrane": _Kind(
        "packed cells whose borders are bright lines, or dark lines between bright cells",
        ("membrane",),
        ((_TILES, glowing.membrane), (_TILES, glowing.membrane), (_TILES, glowing.endothelium)),
    ),
    "phase": _Kind(
        "phase contrast: halos, dark and bright rims, elongated, branched and rounded cells",
        ("phase contrast",),
        tuple((layout, in_phase.phase) for layout in (_SPREAD, _BRANCHED, _SPINDLE)),
    ),
    "culture": _Kind(
        "neural culture in phase contrast: the bodies are labelled, not the thin processes and debris around them",
        ("phase contrast",),
        tuple((layout, in_phase.culture) for layout in (_SPREAD, _SPINDLE, _BODIES, _CONFLUENT)),
    ),
    "dic": _Kind(
        "differential interference contrast: cells in relief, lit from one side",
        ("DIC",),
        ((replace(_ROUND, density=(0.02, 0.3), aspect=(1, 1.3)), lit.dic), (_SPREAD, lit.dic)),
    ),
    "brightfield": _Kind(
        "unstained cells in brightfield: dark blobs with bright rings, or the reverse",
        ("brightfield",),
        ((_ROUND, lit.brightfield), (_CROWD, lit.brightfield), (_SPREAD, lit.brightfield)),
    ),
    "stained": _Kind(
        "dark stained nuclei in pale, fibrous tissue",
        ("brightfield",),
        ((replace(_CROWD, density=(0.2, 0.8), aspect=(1, 2.5)), lit.stained), (_ROUND, lit.stained)),
    ),
    "bacteria": _Kind(
        "rods, single and packed, fluorescent or dark in phase contrast",
        ("bacteria",),
        ((_RODS, glowing.bright_rods), (_RODS, lit.dark_rods)),
    ),
    "particles": _Kind(
        "grains, powders and nanoparticles of electron microscopes, and heaps of stones",
        ("electrons",),
        ((_BALLS, lit.powder), (_BOXES, lit.transmission), (_FLAT_BALLS, lit.transmission),
         (_SHARDS, lit.grains),
         (replace(_TILES, reach=1.25, wobble=(0.05, 0.15), size_spread=(0.1, 0.35)), lit.stones)),
    ),
    "axons": _Kind(
        "dark cores in bright walls, cut across; the cores are labelled",
        ("electrons",),
        ((_RINGS, lit.rings),),
    ),
    "empty": _Kind(
        "no cells: background, dirt and noise of one of the one-channel kinds",
        ("background",),
        tuple((_ROUND, look) for look in _ONE_CHANNEL),
    ),
}  # fmt: skip
KINDS: dict[str, str] = {kind: recipe.line for kind, recipe in _RECIPES.items()}
"""Every kind that `generate` knows, with one line about it."""

LAYOUTS: dict[str, str] = {
    "ellipses": "ellipses, many of them touching",
    "blobs": "irregular round cells",
    "rods": "long rods with round ends",
    "branched": "bodies with long thin processes",
    "tiles": "cells that fill the whole image",
    "boxes": "squares and rectangles with round corners",
    "rings": "ellipses with a hole",
    "nested": "rings that hold another object in the hole",
}
"""Every layout that `labels_only` knows, with one line about it."""

_LABEL_LAYOUTS: dict[str, Layout] = {
    "ellipses": replace(_ROUND, density=(0.5, 0.6), wobble=(0, 0), warp=(0, 0), tightness=(0.9, 0.9)),
    "blobs": replace(_SPREAD, density=(0.3, 0.5)),
    "rods": replace(_RODS, density=(0.3, 0.5), warp=(0, 0)),
    "branched": replace(_BRANCHED, branches=(3, 5), density=(0.2, 0.3)),
    "tiles": _TILES,
    "boxes": replace(_BOXES, density=(0.3, 0.5), wobble=(0, 0)),
    "rings": replace(_ROUND, density=(0.3, 0.4), tightness=(1.1, 1.1)),
    "nested": replace(_ROUND, density=(0.3, 0.4), tightness=(1.1, 1.1)),
}


def _check_name(name: str, known: dict[str, str]) -> None:
    if name not in known:
        raise ValueError(f"{name!r}: expected one of {', '.join(known)}")


def check_size(shape: Sequence[int], dimensions: int, diameter: float) -> None:
    """Raise ValueError for a bad shape or a bad diameter."""
    if len(shape) != dimensions or any(int(n) != n or n < 1 for n in shape):
        raise ValueError(f"shape={tuple(shape)}: expected {dimensions} positive whole numbers")
    if not 1 <= diameter < np.inf:
        raise ValueError(f"diameter={diameter}: expected pixels, 1 or more")


def generate(
    kind: str,
    shape: tuple[int, int] = (512, 512),
    *,
    diameter: float = 30.0,
    count: int | None = None,
    density: float | None = None,
    seed: int = 0,
) -> Sample:
    """Draw one annotated image of a `kind` from KINDS; the same arguments give the same pixels.

    shape: (Y, X) in px · diameter: median equivalent diameter in px (the cells of "membrane" grow into free
    space, so there it holds only without count and density) · count: how many cells, those cut by the border
    included; a few of a hundred can get lost under others · density: part of the area to cover, 0..1, used
    where there is no count; with neither, the seed decides · seed: 0 or more.

    Returns a Sample: image (C, Y, X) uint16 (fluorescence) or uint8, labels int32 (Y, X).
    Raises ValueError for an unknown kind, a bad shape, diameter or density, or more cells than fit.

    >>> sample = generate("nuclei", (128, 128), diameter=20, seed=3)
    >>> sample.image.shape, sample.image.dtype, sample.axes, bool(sample.labels.max() > 0)
    ((1, 128, 128), dtype('uint16'), 'CYX', True)
    """
    _check_name(kind, KINDS)
    check_size(shape, 2, diameter)
    recipe = _RECIPES[kind]
    rng = np.random.default_rng([seed, crc32(kind.encode())])  # new kinds leave the old ones as they are
    layout, look = recipe.variants[rng.integers(len(recipe.variants))]
    if kind == "empty":
        count, density = 0, None
    scene = draw_scene(rng, shape, layout, diameter, count, density)
    return Sample(look(rng, scene), scene.labels, kind, float(diameter), "CYX", recipe.channels, seed)


def labels_only(
    layout: str,
    shape: tuple[int, int] = (256, 256),
    *,
    diameter: float = 30.0,
    count: int | None = None,
    density: float | None = None,
    aspect: float | None = None,
    seed: int = 0,
) -> Labels:
    """Draw labels without an image, by a `layout` from LAYOUTS: int32 (Y, X), guarantees as in Sample.

    aspect: length / width of every object, 1 or more; the other arguments and errors are those of `generate`.

    >>> labels = labels_only("ellipses", (100, 100), diameter=20, count=8)
    >>> labels.dtype, bool(labels.max() > 4)
    (dtype('int32'), True)
    """
    _check_name(layout, LAYOUTS)
    check_size(shape, 2, diameter)
    chosen = _LABEL_LAYOUTS[layout]
    if aspect is not None:
        if not 1 <= aspect < np.inf:
            raise ValueError(f"aspect={aspect}: expected length / width, 1 or more")
        chosen = replace(chosen, aspect=(aspect, aspect))
    scene = draw_scene(np.random.default_rng([seed, 1000]), shape, chosen, diameter, count, density)
    labels = scene.labels
    if layout in ("rings", "nested"):
        labels = np.where(scene.depth < 0.55, 0, labels)
        if layout == "nested":
            inside = (scene.depth < 0.4) & (scene.labels > 0)
            labels = np.where(inside, scene.labels + scene.number, labels)
        labels = tidy(labels)[0]
    return labels
