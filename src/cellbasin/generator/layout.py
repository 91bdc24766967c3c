"""Where the generator's cells lie and how they are shaped: placed at random, then pushed apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import gamma

from cellbasin.generator.noise import between, plane_waves

Floats = NDArray[np.float64]
Outline = Literal["ellipse", "capsule", "box"]
Range = tuple[float, float]
_HARMONICS = 5  # a boundary's radius varies with the angles 2..6
_PACKED = 0.6  # from this density on, cells beyond the border hold those inside in place
_MOST_DISCS = 48
_ROUNDS = 40


@dataclass(frozen=True)
class Layout:
    """How cells are shaped and placed; from every (low, high) each image, or each cell, draws.

    density: part of the area that cells cover · clump: 0 even .. 4 in clumps · size_spread: deviation of the
    log size · aspect: length/width, drawn per cell · wobble: strength of the waves in the outline · warp:
    bending, in diameters · align: 0 any direction .. 1 like the neighbours · branches: processes per cell ·
    branch_length: in diameters · tightness: how far apart cells are pushed, 1: until they touch · reach:
    cells grow into free space up to this many radii (1: not at all) · overlap: cells that meet split what
    they share, or the later covers the earlier · power: squareness of boxes, 2 (ellipse) and more · core: the
    part of the radius that is labelled (below 1 for cells with a wall).
    """

    outline: Outline = "ellipse"
    density: Range = (0.1, 0.5)
    clump: Range = (0.0, 2.0)
    size_spread: Range = (0.05, 0.25)
    aspect: Range = (1.0, 1.6)
    wobble: Range = (0.02, 0.1)
    warp: Range = (0.0, 0.1)
    align: Range = (0.0, 0.3)
    branches: Range = (0.0, 0.0)
    branch_length: Range = (0.5, 1.8)
    tightness: Range = (0.9, 1.05)
    reach: float = 1.0
    overlap: Literal["split", "stack"] = "split"
    power: Range = (2.0, 2.0)
    core: Range = (1.0, 1.0)


@dataclass(frozen=True)
class Cells:
    """N cells; pixels, radians.

    centre: (N, 2) y, x; half_length, half_width, angle, power: (N,); waves: (N, 5) complex, the outline's;
    branches[i] is a list of processes of cell i: (n, 3) arrays of y, x and half width along the process.
    """

    centre: Floats
    half_length: Floats
    half_width: Floats
    angle: Floats
    power: Floats
    waves: NDArray[np.complex128]
    branches: list[list[Floats]]

    def __len__(self) -> int:
        return len(self.centre)


def number_of_cells(area: float, diameter: float, count: int | None, density: float) -> int:
    """How many cells to place on `area` square pixels: `count`, or as many as cover the part `density` of it.

    Raises ValueError if `count` is negative or more than fit.

    >>> number_of_cells(10_000, 10, None, 0.5)
    64
    """
    room = area / (np.pi / 4 * diameter**2)
    if count is None:
        return int(np.ceil(density * room))
    if count < 0 or count > max(1.0, 1.2 * room):
        raise ValueError(
            f"count={count}: expected 0 to {max(1, int(1.2 * room))} cells of diameter {diameter:g} px "
            "on an image of this shape; ask for fewer or smaller cells, or a larger image"
        )
    return count


def place(rng: Generator, shape: Sequence[int], number: int, margin: float, clump: float, diameter: float) -> Floats:
    """`number` random points (number, D) in `shape` and `margin` px around it; `clump` > 0 gathers them.

    >>> place(np.random.default_rng(0), (50, 60), 7, 5.0, 1.0, 10.0).shape
    (7, 2)
    """
    low, high = np.full(len(shape), -margin), np.asarray(shape) + margin
    candidates = rng.uniform(low, high, (6 * number, len(shape)))
    wavelength = diameter * between(rng, 4, 12)
    # The largest of (preference + Gumbel noise) are a weighted sample without replacement.
    score = clump * plane_waves(rng, candidates, wavelength) + rng.gumbel(size=len(candidates))
    return np.asarray(candidates[np.argsort(-score, kind="stable")[:number]])


def _forces(discs: Floats, radius: Floats) -> Floats:
    """How overlapping discs of unlike cells push each other: discs (N, K, D), radius (N,), to (N, K, D)."""
    points, owner = discs.reshape(-1, discs.shape[-1]), np.repeat(np.arange(len(discs)), discs.shape[1])
    first, second = cKDTree(points).query_pairs(2 * radius.max(), output_type="ndarray").T
    gap = points[first] - points[second]
    distance = np.maximum(np.linalg.norm(gap, axis=1), 1e-6)
    overlap = radius[owner[first]] + radius[owner[second]] - distance
    overlap[owner[first] == owner[second]] = 0
    push = (0.4 * np.maximum(overlap, 0) / distance)[:, None] * gap
    size = len(points)
    total = [np.bincount(first, one, size) - np.bincount(second, one, size) for one in push.T]
    return np.stack(total, axis=-1).reshape(discs.shape)


def relax(
    centre: Floats, angle: Floats | None, length: Floats, radius: Floats, bounds: Floats
) -> tuple[Floats, Floats]:
    """Push overlapping cells apart, each of them a row of discs along its axis.

    centre (N, D); angle (N,) or None for discs or balls; length (N,): half length of the row; radius (N,) of
    its discs; bounds (2, D): where centres stay. Returns the new centres (N, D) and angles (N,).

    >>> start, bounds = np.array([[5., 5], [5, 6]]), np.array([[0., 0], [9, 9]])
    >>> centres, _ = relax(start, None, np.zeros(2), np.full(2, 3.), bounds)
    >>> bool(np.linalg.norm(centres[0] - centres[1]) > 4)
    True
    """
    number = len(centre)
    turn = np.zeros(number) if angle is None else angle.copy()
    spot = centre.copy()
    if number < 2:
        return spot, turn
    discs = int(np.clip(np.ceil((1 + length / np.maximum(radius, 1e-9)).max()), 1, _MOST_DISCS))
    offset = np.linspace(-1, 1, discs)[None] * length[:, None] if discs > 1 else np.zeros((number, 1))
    inertia = np.maximum((offset**2).sum(1), 1e-9)
    for _ in range(_ROUNDS):
        axis = np.zeros((number, centre.shape[1]))
        axis[:, -2], axis[:, -1] = np.sin(turn), np.cos(turn)
        force = _forces(spot[:, None] + offset[:, :, None] * axis[:, None], radius)
        touched = np.count_nonzero(force.any(-1), axis=1)
        if not touched.any():
            break
        spot = np.clip(spot + force.sum(1) / np.maximum(touched, 1)[:, None], bounds[0], bounds[1])
        if angle is not None and discs > 1:
            torque = force[..., -2] * axis[:, None, -1] - force[..., -1] * axis[:, None, -2]
            turn = turn + np.clip((offset * torque).sum(1) / inertia, -0.3, 0.3)
    return spot, turn


def _half_axes(outline: Outline, area: Floats, aspect: Floats, power: Floats) -> tuple[Floats, Floats]:
    """Half length and half width of shapes of the given area in square pixels, (N,) each."""
    if outline == "capsule":
        width = np.sqrt(area / (4 * (aspect - 1) + np.pi))
    elif outline == "box":
        width = np.sqrt(area / (4 * aspect * gamma(1 + 1 / power) ** 2 / gamma(1 + 2 / power)))
    else:
        width = np.sqrt(area / (np.pi * aspect))
    return aspect * width, width


def _grow_branches(rng: Generator, cells: Cells, layout: Layout, diameter: float) -> list[list[Floats]]:
    """Random processes for every cell: bent lines that start inside the body and get thinner."""
    grown: list[list[Floats]] = []
    for k in range(len(cells)):
        number = round(between(rng, *layout.branches))
        first = cells.angle[k]
        lines = []
        for j in range(number):
            steps = 5
            direction = first + j * 2 * np.pi / number + rng.normal(0, 0.35)
            length = diameter * between(rng, *layout.branch_length)
            turns = direction + np.cumsum(rng.normal(0, 0.22, steps))
            start = 0.6 * cells.half_width[k]
            y = np.cumsum(np.r_[start * np.sin(direction), np.sin(turns) * length / steps])
            x = np.cumsum(np.r_[start * np.cos(direction), np.cos(turns) * length / steps])
            root = cells.half_width[k] * between(rng, 0.4, 0.75)
            tip = max(1.0, diameter * between(rng, 0.02, 0.05))
            width = tip + max(0.0, root - tip) * (1 - np.linspace(0, 1, steps + 1)) ** between(rng, 1.5, 4)
            lines.append(np.stack([cells.centre[k, 0] + y, cells.centre[k, 1] + x, width], axis=1))
        grown.append(lines)
    return grown


def sow(
    rng: Generator,
    shape: Sequence[int],
    layout: Layout,
    diameter: float,
    count: int | None,
    density: float | None,
) -> Cells:
    """Cells by `layout`, of median equivalent `diameter` (px), in and around an image of `shape` (Y, X).

    `count` is how many to expect in the image, `density` (0..1) which part of it to cover; with neither, the
    layout's own range decides. Raises ValueError for a count or density out of range.

    >>> len(sow(np.random.default_rng(0), (100, 100), Layout(), 20.0, 5, None))
    5
    """
    if density is not None and not 0 <= density <= 1:
        raise ValueError(f"density={density}: expected the part of the area to cover, 0 to 1")
    cover = between(rng, *layout.density) if density is None else density
    height, width = shape
    inner, one = 0.3 * diameter, np.pi / 4 * diameter**2
    area = (height + 2 * inner) * (width + 2 * inner)
    number = number_of_cells(area, diameter, count, cover)
    margin = 1.5 * diameter if number * one / area >= _PACKED else inner
    if margin > inner and number:
        number = round(number * (height + 2 * margin) * (width + 2 * margin) / area)
    spread, wobble, align = (between(rng, *r) for r in (layout.size_spread, layout.wobble, layout.align))
    centre = place(rng, shape, number, margin, between(rng, *layout.clump), diameter)
    # Sizes are stratified, so that a few cells have the median that was asked for, too.
    normal = np.sort(rng.standard_normal(number))
    normal -= np.median(normal) if number else 0.0
    size = diameter * np.exp(spread * np.clip(rng.permutation(normal), -2.2, 2.2))
    aspect, power = rng.uniform(*layout.aspect, number), rng.uniform(*layout.power, number)
    flow = np.pi * plane_waves(rng, centre, 8 * diameter) if number else np.zeros(0)
    turn = (1 - align) * np.pi * rng.uniform(-1, 1, number) + align * flow / 2
    long, short = _half_axes(layout.outline, np.pi / 4 * size**2, aspect, power)
    strength = wobble * rng.rayleigh(1, (number, _HARMONICS)) / np.arange(1, _HARMONICS + 1)
    waves = np.minimum(strength, 0.25) * np.exp(2j * np.pi * rng.random((number, _HARMONICS)))
    bounds = np.array([[-margin, -margin], [height + margin, width + margin]])
    disc = short * between(rng, *layout.tightness)
    centre, turn = relax(centre, turn, np.maximum(long - short, 0), disc, bounds)
    cells = Cells(centre, long, short, turn, power, waves, [[] for _ in range(number)])
    if layout.branches[1] > 0:
        cells = replace(cells, branches=_grow_branches(rng, cells, layout, diameter))
    return cells
