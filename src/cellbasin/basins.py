"""Which pixels end at the same place when they follow the flow: the kernels behind `dynamics.py`."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from cellbasin.parallel import Tell, ignore_progress, parallel_map
from cellbasin.scratch import Allocate, in_memory

_DENSE = 3  # pixels that must end at a place for it to belong to a basin (paper)
_CERTAIN = 0.97**2  # squared length of a flow that is as good as a unit vector
_STAGE = 3.0  # steps that a pixel goes before it joins the way of the pixel that it has come to
_CHUNK = 1 << 16  # pixels
_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


def find_basins(
    flow: NDArray[np.float32],
    probability: NDArray[np.float32],
    threshold: float,
    step: float,
    steps: int,
    smallest: int,
    allocate: Allocate = in_memory,
    tell: Tell = ignore_progress,
) -> NDArray[np.int32]:
    """Label every pixel inside with the basin that it ends in (0: in none).

    flow (D, *spatial) and probability (*spatial) are contiguous. Basins of fewer than `smallest` pixels need not be
    found. allocate: makes an array of 4 (in 2D 3) numbers for every pixel. tell: called with the part of the ways
    that is done.
    Raises ValueError where a value is not finite.
    """
    dims, shape = probability.ndim, probability.shape
    shape3 = (1,) * (3 - dims) + shape
    margin = (0, 1, 1) if dims == 2 else (1, 1, 1)
    field = allocate((*(int(n) for n in np.add(shape3, margin)), dims + 1))
    flow3, probability3 = flow.reshape(dims, *shape3), probability.reshape(shape3)
    ends = np.empty(probability.size, np.int32 if probability.size < 2**31 else np.int64)
    rows = shape3[0] * shape3[1]
    size = max(1, _CHUNK // max(1, shape3[2]))
    chunks = [(first, min(first + size, rows)) for first in range(0, rows, size)]

    def collect(chunk: tuple[int, int]) -> bool:
        return bool(_collect(flow3, probability3, threshold, *chunk, field))

    if not all(parallel_map(collect, chunks)):
        raise ValueError("flow or probability holds values that are not finite (NaN or infinity)")
    parallel_map(lambda chunk: _advance(field, shape3, step, steps, *chunk, ends), chunks, tell)
    _resolve(ends)
    basins = _agglomerate(ends, shape3, max(1, min(smallest, _DENSE)))
    parallel_map(lambda chunk: _assign(ends[chunk[0] * shape3[2] : chunk[1] * shape3[2]], basins), chunks)
    return ends.astype(np.int32, copy=False).reshape(shape)


@_jit
def _collect(flow, probability, threshold, first, last, field):  # type: ignore[no-untyped-def]
    """Interleave the flow's components and 1 for pixels inside, 0 for others; tells whether all values are finite."""
    dims = flow.shape[0]
    finite = True
    for row in range(first, last):
        z, y = row // probability.shape[1], row % probability.shape[1]
        for x in range(probability.shape[2]):
            finite &= np.isfinite(probability[z, y, x])
            if probability[z, y, x] > threshold:
                field[z, y, x, dims] = 1
                for axis in range(dims):
                    finite &= np.isfinite(flow[axis, z, y, x])
                    field[z, y, x, axis] = flow[axis, z, y, x]
    return finite


# A path is followed in stages, from pixel to pixel, so that all pixels that come by share the rest of it. Where the
# flow is certain, as long as 1, a stage is the neighbour that it points to: that is exact, however thin the object.
# Elsewhere it is a few interpolated steps. A pixel whose path leaves the inside belongs to no object: true flows never
# do that, and most objects made of such pixels would be false.


@_jit
def _advance(field, shape, step, steps, first, last, following):  # type: ignore[no-untyped-def]
    """Write the flat index of the pixel where the next stage of each pixel of some rows leads, -1 outside."""
    dims = field.shape[3] - 1
    for row in range(first, last):
        z, y = row // shape[1], row % shape[1]
        for x in range(shape[2]):
            here = field[z, y, x]
            i = row * shape[2] + x
            following[i] = -1
            if here[dims] == 0:
                continue
            fz, fy, fx = (here[0] if dims == 3 else np.float32(0)), here[dims - 2], here[dims - 1]
            if fz * fz + fy * fy + fx * fx >= _CERTAIN:
                az, ay, ax = z + int(np.rint(fz)), y + int(np.rint(fy)), x + int(np.rint(fx))
                within = 0 <= az < shape[0] and 0 <= ay < shape[1] and 0 <= ax < shape[2]
                following[i] = (az * shape[1] + ay) * shape[2] + ax if within and field[az, ay, ax, dims] else i
            if following[i] < 0 or following[i] == i:
                following[i] = _walk(field, shape, step, steps, z, y, x)


@_jit
def _walk(field, shape, step, steps, z, y, x):  # type: ignore[no-untyped-def]
    """Take interpolated steps until the pixel has arrived or gone a stage; returns the flat index of its pixel."""
    dims = field.shape[3] - 1
    still, far = (step / steps) ** 2, (_STAGE * step) ** 2  # still: would not go a step's length in all its steps
    pz, py, px, length = float(z), float(y), float(x), step
    oz = oy = ox = 0.0
    for _ in range(steps):
        fz, fy, fx = _sample2(field, py, px) if dims == 2 else _sample3(field, pz, py, px)
        if fz * oz + fy * oy + fx * ox < 0:
            length *= 0.5
        if (fz * fz + fy * fy + fx * fx) * length * length < still:
            break
        oz, oy, ox = fz, fy, fx
        pz = min(max(pz + length * fz, 0.0), shape[0] - 1.0)
        py = min(max(py + length * fy, 0.0), shape[1] - 1.0)
        px = min(max(px + length * fx, 0.0), shape[2] - 1.0)
        if (pz - z) ** 2 + (py - y) ** 2 + (px - x) ** 2 >= far:
            break
    return (int(pz + 0.5) * shape[1] + int(py + 0.5)) * shape[2] + int(px + 0.5)


@_jit
def _resolve(following):  # type: ignore[no-untyped-def]
    """Replace every pixel's next stage by its last: a pixel that leads to itself, or the first pixel of a cycle."""
    known = np.zeros(following.size, np.uint8)
    for start in range(following.size):
        i = start
        while known[i] == 0 and following[i] >= 0:
            known[i] = 1
            i = following[i]
        end = following[i]
        if known[i] == 1:
            end, j = i, following[i]
            while j != i:
                end, j = min(end, j), following[j]
        i = start
        while known[i] == 1:
            known[i] = 2
            following[i], i = end, following[i]


@_jit
def _sample2(field, y, x):  # type: ignore[no-untyped-def]
    """Return the flow (0, y, x) between pixels: the mean of those inside, weighted by nearness."""
    iy, ix = int(y), int(x)
    y, x = y - iy, x - ix
    fy = fx = total = 0.0
    for dy in range(2):
        for dx in range(2):
            corner = field[0, iy + dy, ix + dx]
            weight = (y if dy else 1 - y) * (x if dx else 1 - x)
            fy += weight * corner[0]
            fx += weight * corner[1]
            total += weight * corner[2]
    scale = 1 / total if total > 0 else 0.0
    return 0.0, fy * scale, fx * scale


@_jit
def _sample3(field, z, y, x):  # type: ignore[no-untyped-def]
    iz, iy, ix = int(z), int(y), int(x)
    z, y, x = z - iz, y - iy, x - ix
    fz = fy = fx = total = 0.0
    for dz in range(2):
        for dy in range(2):
            for dx in range(2):
                corner = field[iz + dz, iy + dy, ix + dx]
                weight = (z if dz else 1 - z) * (y if dy else 1 - y) * (x if dx else 1 - x)
                fz += weight * corner[0]
                fy += weight * corner[1]
                fx += weight * corner[2]
                total += weight * corner[3]
    scale = 1 / total if total > 0 else 0.0
    return fz * scale, fy * scale, fx * scale


@_jit
def _agglomerate(ends, shape, dense):  # type: ignore[no-untyped-def]
    """Number the basins: neighbouring places where enough pixels end. Flat int32."""
    counts = np.zeros(ends.size, np.int32)
    for end in ends:
        if end >= 0:
            counts[end] += 1
    basins = np.zeros(ends.size, np.int32)
    queue = np.empty(ends.size // dense + 1, np.int64)
    n = 0
    for start in range(ends.size):
        if counts[start] < dense or basins[start] > 0:
            continue
        n += 1
        basins[start] = n
        queue[0] = start
        head, tail = 0, 1
        while head < tail:
            tail = _spread(queue[head], counts, shape, dense, basins, queue, tail)
            head += 1
    return _absorb(counts, basins, shape)


@_jit
def _absorb(counts, basins, shape):  # type: ignore[no-untyped-def]
    """Add the places with few end points to the basin of their densest neighbour, if it has one."""
    result = basins.copy()
    for i in range(counts.size):
        if counts[i] == 0 or basins[i] > 0:
            continue
        z, y, x = i // (shape[1] * shape[2]), i // shape[2] % shape[1], i % shape[2]
        best = 0
        for az in range(max(z - 1, 0), min(z + 2, shape[0])):
            for ay in range(max(y - 1, 0), min(y + 2, shape[1])):
                for ax in range(max(x - 1, 0), min(x + 2, shape[2])):
                    j = (az * shape[1] + ay) * shape[2] + ax
                    if basins[j] > 0 and counts[j] > best:
                        best = counts[j]
                        result[i] = basins[j]
    return result


@_jit
def _spread(i, counts, shape, dense, basins, queue, tail):  # type: ignore[no-untyped-def]
    """Add the neighbours of place i that belong to its basin to the queue and return the queue's new length."""
    z, y, x = i // (shape[1] * shape[2]), i // shape[2] % shape[1], i % shape[2]
    for az in range(max(z - 1, 0), min(z + 2, shape[0])):
        for ay in range(max(y - 1, 0), min(y + 2, shape[1])):
            for ax in range(max(x - 1, 0), min(x + 2, shape[2])):
                j = (az * shape[1] + ay) * shape[2] + ax
                if counts[j] < dense or basins[j] > 0:
                    continue
                basins[j] = basins[i]
                queue[tail] = j
                tail += 1
    return tail


@_jit
def _assign(ends, basins):  # type: ignore[no-untyped-def]
    """Replace every end by its basin."""
    for i in range(ends.size):
        ends[i] = basins[ends[i]] if ends[i] >= 0 else 0
