"""Cells to label images: every cell is drawn in its own window, so that time grows with pixels alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from cellbasin.generator.layout import Cells, Layout, Outline, sow
from cellbasin.generator.noise import Field, between, smooth_noise
from cellbasin.labels import areas, fill_small_holes, keep_largest_piece, select

Labels = NDArray[np.int32]
SMALLEST = 15  # pixels; smaller pieces are no cells
_OUTSIDE = np.float32(9.0)


@dataclass(frozen=True, eq=False)
class Scene:
    """What is drawn before it is given a look.

    labels: int32 (Y, X) · depth: float32, 0 at a cell's centre, 1 at its edge, 9 outside · wall: float32,
    px from the line where two cells meet (large elsewhere) · cells: what was placed; label k is cell
    `of[k - 1]` · diameter: px asked for.
    """

    labels: Labels
    depth: Field
    wall: Field
    cells: Cells
    of: NDArray[np.intp]
    diameter: float

    def spread(self, values: NDArray, background: float = 0.0) -> Field:
        """One value per label, (number of labels,), to every pixel of that cell: float32 (Y, X)."""
        return np.r_[np.float32(background), values.astype(np.float32)][self.labels]

    @property
    def compact(self) -> NDArray[np.bool_]:
        """Which labels are of round cells without processes: (number of labels,)."""
        plain = np.array([not lines for lines in self.cells.branches], bool)
        return (plain & (self.cells.half_length < 1.6 * self.cells.half_width))[self.of]

    @property
    def number(self) -> int:
        """How many labels there are."""
        return len(self.of)


def tidy(labels: NDArray[np.integer], smallest: int = SMALLEST) -> tuple[Labels, NDArray[np.intp]]:
    """Keep the largest piece of every label, drop those under `smallest` px, fill pinholes, renumber.

    labels: (Y, X) or (Z, Y, X). Returns int32 labels and, per new label, the old one. Pieces are 8- or
    26-connected.

    >>> tidy(np.array([[7, 7, 0, 7]]), smallest=2)[0]
    array([[1, 1, 0, 0]], dtype=int32)
    """
    whole = keep_largest_piece(labels)
    wanted = areas(whole) >= max(smallest, 1)
    return fill_small_holes(select(whole, wanted), smallest), np.flatnonzero(wanted) + 1


def _body_depth(outline: Outline, cells: Cells, k: int, y: Field, x: Field) -> Field:
    """Depth (0 centre, 1 edge) of cell k at pixels with offsets y, x from its centre."""
    cos, sin = np.float32(np.cos(cells.angle[k])), np.float32(np.sin(cells.angle[k]))
    along, across = cos * x + sin * y, cos * y - sin * x
    a, b = np.float32(cells.half_length[k]), np.float32(cells.half_width[k])
    if outline == "capsule":
        along = np.sign(along) * np.maximum(np.abs(along) - (a - b), 0)
        return np.asarray(np.hypot(along, across) / b, np.float32)
    if outline == "box":
        p = np.float32(cells.power[k])
        depth = ((np.abs(along) / a) ** p + (np.abs(across) / b) ** p) ** (1 / p)
    else:
        depth = np.hypot(along / a, across / b)
    turn = (along / a + 1j * (across / b)) / np.maximum(depth, 1e-3)
    radius, power = np.ones_like(depth), turn
    for wave in cells.waves[k].astype(np.complex64):
        power = power * turn
        radius += (wave * power).real
    return np.asarray(depth / np.maximum(radius, 0.3), np.float32)


class _Canvas:
    """The arrays that cells are drawn into: nearest cell, its depth, and the second nearest depth."""

    def __init__(self, rng: Generator, shape: Sequence[int], layout: Layout, diameter: float) -> None:
        self.labels: Labels = np.zeros(tuple(shape), np.int32)
        self.depth: Field = np.full(self.labels.shape, _OUTSIDE, np.float32)
        self.second = self.depth.copy()
        self.layout = layout
        warp = between(rng, *layout.warp) * diameter
        scale = max(6.0, diameter * between(rng, 0.4, 1.2))
        self.bend = np.stack([np.float32(warp) * smooth_noise(rng, shape, scale) for _ in range(2)])
        self.slack = 3 * warp + 2

    def window(self, y: float, x: float, extent: float) -> tuple[slice, slice] | None:
        """The part of the image within `extent` px of (y, x); None if there is nothing."""
        height, width = self.labels.shape
        low_y, high_y = max(0, int(y - extent)), min(height, int(y + extent) + 2)
        low_x, high_x = max(0, int(x - extent)), min(width, int(x + extent) + 2)
        if low_y >= high_y or low_x >= high_x:
            return None
        return slice(low_y, high_y), slice(low_x, high_x)

    def offsets(self, window: tuple[slice, slice], y: float, x: float) -> tuple[Field, Field]:
        """Bent offsets (dy, dx) of the window's pixels from (y, x)."""
        rows = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] - np.float32(y)
        columns = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None] - np.float32(x)
        return self.bend[0][window] + rows, self.bend[1][window] + columns

    def draw(self, window: tuple[slice, slice], depth: Field, label: int) -> None:
        """Give the pixels within reach to `label`: where no other is nearer, or, in a stack, all of them."""
        best, second = self.depth[window], self.second[window]
        nearer = depth < (self.layout.reach if self.layout.overlap == "stack" else best)
        nearer &= depth < self.layout.reach
        np.copyto(second, np.where(nearer, best, np.minimum(second, depth)))
        best[nearer] = depth[nearer]
        self.labels[window][nearer] = label

    def body(self, cells: Cells, k: int) -> None:
        """Draw cell k without its processes."""
        y, x = cells.centre[k]
        swell = 1 + np.abs(cells.waves[k]).sum()
        extent = cells.half_length[k] * swell * self.layout.reach * 2 ** max(0.0, 0.5 - 1 / cells.power[k])
        window = self.window(y, x, extent + self.slack)
        if window is not None:
            self.draw(window, _body_depth(self.layout.outline, cells, k, *self.offsets(window, y, x)), k + 1)

    def branch(self, line: NDArray[np.float64], label: int) -> None:
        """Draw one process; it gives way to the inner part of every cell body."""
        for (y, x, start), (y2, x2, end) in pairwise(line):
            step = np.array([y2 - y, x2 - x])
            extent = np.abs(step).max() / 2 + max(start, end) + self.slack
            window = self.window((y + y2) / 2, (x + x2) / 2, extent)
            if window is None:
                continue
            dy, dx = self.offsets(window, y, x)
            t = np.clip((dy * step[0] + dx * step[1]) / max(float(step @ step), 1e-6), 0, 1).astype(np.float32)
            distance = np.hypot(dy - t * np.float32(step[0]), dx - t * np.float32(step[1]))
            depth = distance / (np.float32(start) + t * np.float32(end - start))
            self.draw(window, np.where(depth < 1, 0.6 + 0.4 * depth, _OUTSIDE).astype(np.float32), label)


def draw_scene(
    rng: Generator,
    shape: Sequence[int],
    layout: Layout,
    diameter: float,
    count: int | None,
    density: float | None,
) -> Scene:
    """Draw cells by `layout` on (Y, X) = `shape`. Raises ValueError for a count or density out of range.

    >>> draw_scene(np.random.default_rng(0), (64, 64), Layout(), 16.0, 4, None).number > 0
    True
    """
    core = between(rng, *layout.core)
    cells = sow(rng, shape, layout, diameter / core, count, density)
    canvas = _Canvas(rng, shape, layout, diameter)
    for k in range(len(cells)):
        canvas.body(cells, k)
    for k, lines in enumerate(cells.branches):
        for line in lines:
            canvas.branch(line, k + 1)
    labels, old = tidy(np.where(canvas.depth < core, canvas.labels, 0) if core < 1 else canvas.labels)
    depth = canvas.depth if core < 1 else np.where(labels > 0, canvas.depth, _OUTSIDE)
    wall = np.maximum(canvas.second - canvas.depth, 0) * np.float32(diameter / 4)
    return Scene(labels, depth, wall, cells, old - 1, diameter)


def inner_depth(rng: Generator, scene: Scene, ratio: float, roundness: float = 0.6) -> Field:
    """Depth (0 centre, 1 edge, 9 outside) of one nucleus per cell: an ellipse of `ratio` times its size.

    roundness: 1 for discs, 0 for the cell's own proportions.

    >>> scene = draw_scene(np.random.default_rng(0), (64, 64), Layout(), 16.0, 4, None)
    >>> inner_depth(np.random.default_rng(0), scene, 0.5).shape
    (64, 64)
    """
    field = np.full(scene.labels.shape, _OUTSIDE, np.float32)
    cells = scene.cells
    for label, (k, window) in enumerate(zip(scene.of, ndimage.find_objects(scene.labels), strict=True), start=1):
        a, b = cells.half_length[k], cells.half_width[k]
        size = ratio * np.sqrt(a * b) * rng.uniform(0.8, 1.2)
        stretch = np.clip((a / b) ** ((1 - roundness) / 2), 1, 2) * rng.uniform(1, 1.2)
        y, x = cells.centre[k] + rng.normal(0, 0.12 * b, 2)
        rows = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] - np.float32(y)
        columns = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None] - np.float32(x)
        cos, sin = np.float32(np.cos(cells.angle[k])), np.float32(np.sin(cells.angle[k]))
        along, across = (
            (cos * columns + sin * rows) / (size * stretch),
            (cos * rows - sin * columns) * (stretch / size),
        )
        depth = np.hypot(along, across).astype(np.float32)
        mask = scene.labels[window] == label
        field[window][mask] = depth[mask]
    return field
