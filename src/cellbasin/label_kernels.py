"""Compiled loops behind `labels.py`: serial, without the interpreter lock, over (Z, Y, X) int32 volumes."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Labels = NDArray[np.int32]


@njit(nogil=True, cache=True)
def count_labels(flat: Labels, largest: int) -> NDArray[np.int64]:
    """Pixels of every value 0..largest, (largest + 1,)."""
    count = np.zeros(largest + 1, np.int64)
    for value in flat:
        count[value] += 1
    return count


@njit(nogil=True, cache=True)
def map_labels(flat: NDArray, lut: Labels) -> Labels:
    """lut[flat], without numpy's copy of the indices."""
    out = np.empty(flat.size, np.int32)
    for i in range(flat.size):
        out[i] = lut[flat[i]]
    return out


@njit(nogil=True, cache=True)
def find_root(parent: NDArray, i: int) -> int:
    """The first pixel of the piece that pixel i belongs to; shortens the way there."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def find_pieces(volume: Labels, steps: NDArray[np.int64], background: int, out: NDArray) -> int:
    """Union-find: `out` holds the index of an earlier pixel of the piece, in the end the piece's number.

    `steps` lead to the earlier neighbours: the faces (2 or 3 steps), or all (4 or 13). The first is the face
    along the first axis: if all neighbours count, every other earlier one touches it and is joined already.
    """
    nz, ny, nx = volume.shape
    i = -1
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                i += 1
                value = volume[z, y, x]
                if (value == 0) != (background == 1):
                    out[i] = -1
                    continue
                out[i] = i
                root = i
                for k in range(steps.shape[0]):
                    a, b, c = z + steps[k, 0], y + steps[k, 1], x + steps[k, 2]
                    if a < 0 or b < 0 or c < 0 or b >= ny or c >= nx or volume[a, b, c] != value:
                        continue
                    other = find_root(out, (a * ny + b) * nx + c)
                    out[max(root, other)] = min(root, other)
                    root = min(root, other)
                    if k == 0 and steps.shape[0] > 3:
                        break
    return number_roots(out)


@njit(nogil=True, cache=True)
def number_roots(out: NDArray) -> int:
    """Replace parents by numbers 1..N in place: a parent comes first, so it has its number already."""
    count = 0
    for i in range(out.size):
        if out[i] < 0:
            out[i] = 0
        elif out[i] == i:
            count += 1
            out[i] = count
        else:
            out[i] = out[out[i]]
    return count


@njit(nogil=True, cache=True)
def piece_table(volume: Labels, pieces: NDArray, count: int) -> tuple[Labels, NDArray[np.int64]]:
    """Label and pixels of every piece, (count + 1,) each."""
    owner = np.zeros(count + 1, np.int32)
    size = np.zeros(count + 1, np.int64)
    labels, numbers = volume.reshape(-1), pieces.reshape(-1)
    for i in range(labels.size):
        if numbers[i] > 0:
            owner[numbers[i]] = labels[i]
            size[numbers[i]] += 1
    return owner, size


@njit(nogil=True, cache=True)
def keep_largest(owner: Labels, size: NDArray[np.int64], largest: int) -> Labels:
    """Table from piece to label, 0 for all but the largest piece of each label."""
    best = np.zeros(largest + 1, np.int64)
    for piece in range(1, owner.size):
        if size[piece] > size[best[owner[piece]]]:
            best[owner[piece]] = piece
    lut = np.zeros(owner.size, np.int32)
    for label in range(1, largest + 1):
        if best[label] > 0:
            lut[best[label]] = label
    return lut


@njit(nogil=True, cache=True)
def join_owner(volume: Labels, z: int, y: int, x: int, first_axis: int, owner: int) -> int:
    """`owner` (0: none yet) joined with the labels at a pixel's faces; -1 where they differ."""
    for axis in range(first_axis, 3):
        for step in (-1, 1):
            value = volume[z + step * (axis == 0), y + step * (axis == 1), x + step * (axis == 2)]
            if value != 0 and owner == 0:
                owner = value
            elif value != 0 and owner != value:
                return -1
    return owner


@njit(nogil=True, cache=True)
def hole_table(volume: Labels, pieces: NDArray, count: int, ndim: int) -> tuple[Labels, NDArray[np.int64]]:
    """The one label around each piece of background (-1: several, or the image's border), and its pixels."""
    nz, ny, nx = volume.shape
    owner = np.zeros(count + 1, np.int32)
    size = np.zeros(count + 1, np.int64)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                piece = pieces[z, y, x]
                if piece == 0:
                    continue
                size[piece] += 1
                if y == 0 or x == 0 or y == ny - 1 or x == nx - 1 or (ndim == 3 and (z == 0 or z == nz - 1)):
                    owner[piece] = -1
                if owner[piece] < 0:
                    continue
                owner[piece] = join_owner(volume, z, y, x, 3 - ndim, owner[piece])
    return owner, size


@njit(nogil=True, cache=True)
def fill_pieces(volume: Labels, pieces: NDArray, lut: Labels) -> Labels:
    """The labels with every numbered piece set to lut[number]."""
    out = volume.copy()
    flat, numbers = out.reshape(-1), pieces.reshape(-1)
    for i in range(flat.size):
        if numbers[i] > 0:
            flat[i] = lut[numbers[i]]
    return out


@njit(nogil=True, cache=True)
def find_boxes(volume: Labels, largest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Inclusive box (z0, y0, x0, z1, y1, x1) and pixels of every label, (largest + 1, 6) and (largest + 1,).

    The box of a label that does not occur is undefined.
    """
    boxes = np.empty((largest + 1, 6), np.int64)
    counts = np.zeros(largest + 1, np.int64)
    depth, height, width = volume.shape
    for z in range(depth):
        for y in range(height):
            x = 0
            while x < width:
                label = volume[z, y, x]
                start = x
                x += 1
                while x < width and volume[z, y, x] == label:
                    x += 1
                if label > 0:
                    box = boxes[label]
                    if counts[label] == 0:
                        box[0], box[1], box[2], box[3], box[4], box[5] = z, y, start, z, y, x - 1
                    counts[label] += x - start
                    box[1], box[4] = min(box[1], y), max(box[4], y)
                    box[2], box[5] = min(box[2], start), max(box[5], x - 1)
                    box[3] = z
    return boxes, counts


@njit(nogil=True, cache=True)
def position_sums(volume: Labels, largest: int) -> NDArray[np.float64]:
    """Sums of z, y and x over the pixels of every label, (largest + 1, 3); background is not counted."""
    sums = np.zeros((largest + 1, 3))
    for z in range(volume.shape[0]):
        for y in range(volume.shape[1]):
            for x in range(volume.shape[2]):
                label = volume[z, y, x]
                if label > 0:
                    sums[label, 0] += z
                    sums[label, 1] += y
                    sums[label, 2] += x
    return sums


@njit(nogil=True, cache=True)
def value_sums(labels: Labels, values: NDArray, largest: int) -> NDArray[np.float64]:
    """Sums of values (N,) over the pixels of every label (N,), (largest + 1,)."""
    sums = np.zeros(largest + 1)
    for place in range(len(labels)):
        sums[labels[place]] += values[place]
    return sums


@njit(nogil=True, cache=True)
def find_boundaries(volume: Labels) -> NDArray[np.bool_]:
    """Object pixels with a face neighbour of another value, bool (Z, Y, X)."""
    nz, ny, nx = volume.shape
    found = np.zeros(volume.shape, np.bool_)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                v = volume[z, y, x]
                if v == 0:
                    continue
                found[z, y, x] = (
                    (z > 0 and volume[z - 1, y, x] != v)
                    or (z < nz - 1 and volume[z + 1, y, x] != v)
                    or (y > 0 and volume[z, y - 1, x] != v)
                    or (y < ny - 1 and volume[z, y + 1, x] != v)
                    or (x > 0 and volume[z, y, x - 1] != v)
                    or (x < nx - 1 and volume[z, y, x + 1] != v)
                )
    return found
