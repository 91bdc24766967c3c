"""Numba kernels that find every pixel's way uphill in the heat of its object, stored as `heat.py` says."""

from __future__ import annotations

import numba
import numpy as np

FAINT = 1e-300  # heat below is too close to underflow to have a direction
TIE = 1e-9  # relative difference that is rounding
_FLAT = 1e-7  # a gradient this small relative to the landscape is rounding, not direction
jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@jit
def origin(strides):  # type: ignore[no-untyped-def]
    """Return the flat index of the box's first pixel behind the margins."""
    return strides[0] + strides[1] + 1


@jit
def write_directions(ways, landscape, extent, vectors, box, flow):  # type: ignore[no-untyped-def]
    """Write unit vectors: the gradient or, where that does not lead uphill, the way to the best neighbour."""
    inside, heat, strides = ways[0], ways[1], ways[3]
    dims, n = flow.shape[0], extent[2]
    vz, vy, vx = vectors[0, :n], vectors[1, :n], vectors[2, :n]
    for z in range(extent[0]):
        for y in range(extent[1]):
            row = origin(strides) + z * strides[0] + y * strides[1]
            if dims == 3:
                _difference(landscape[row - strides[0] :], landscape[row + strides[0] :], vz)
            _difference(landscape[row - strides[1] :], landscape[row + strides[1] :], vy)
            _difference(landscape[row - 1 :], landscape[row + 1 :], vx)
            _normalise(landscape[row : row + n], vz, vy, vx)
            for x in range(n):
                i = row + x
                j = _target(i, vz[x], vy[x], vx[x], strides)
                leads_up = (inside[j] != 0) & (heat[j] > heat[i] * (1 + TIE)) & (heat[i] >= FAINT)
                if inside[i] and not leads_up:
                    vz[x], vy[x], vx[x] = _repaired(i, j, (vz[x], vy[x], vx[x]), ways)
            here = inside[row : row + n]
            for axis in range(dims):
                target = flow[axis, z + box[0], y + box[1], box[2] : box[5] + 1]
                _write(vectors[3 - dims + axis], here, target)


@jit
def _difference(back, ahead, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = ahead[i] - back[i]


@jit
def _normalise(landscape, z, y, x):  # type: ignore[no-untyped-def]
    """Make vectors as long as 1, safely where they are tiny, or 0 where they are rounding noise."""
    for i in range(landscape.size):
        size = abs(z[i]) + abs(y[i]) + abs(x[i])
        known = size > max(_FLAT * landscape[i], FAINT * _FLAT)
        scale = (1.0 if known else 0.0) / (size if known else 1.0)
        a, b, c = z[i] * scale, y[i] * scale, x[i] * scale
        scale = 1 / np.sqrt(a * a + b * b + c * c + (0.0 if known else 1.0))
        z[i], y[i], x[i] = a * scale, b * scale, c * scale


@jit
def _write(values, inside, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        if inside[i]:
            out[i] = values[i]


@jit
def _repaired(i, j, vector, ways):  # type: ignore[no-untyped-def]
    """Return another direction for pixel i whose own leads to pixel j, which is outside or no hotter."""
    inside, sources = ways[0], ways[5]
    if not _is_in(i, sources):
        return _to_best_neighbour(i, ways)
    if inside[j] == 0 or (sources.size > 1 and not _is_in(j, sources)):
        return _to_other_sources(i, ways)
    return vector


@jit
def _target(i, z, y, x, strides):  # type: ignore[no-untyped-def]
    """Return the pixel that a unit vector leads to from the middle of pixel i, as precise as flows are stored."""
    z, y, x = np.rint(np.float32(z)), np.rint(np.float32(y)), np.rint(np.float32(x))
    return i + strides[0] * int(z) + strides[1] * int(y) + int(x)


@jit
def _is_in(i, sources):  # type: ignore[no-untyped-def]
    for source in sources:
        if source == i:
            return True
    return False


@jit
def _to_other_sources(i, ways):  # type: ignore[no-untyped-def]
    """Return the way to the other pixels of the centre; 0 if there are none or they lie around this one."""
    _, _, _, strides, (offsets, units), sources = ways
    z = y = x = 0.0
    for k in range(offsets.size):
        if _is_in(i + offsets[k], sources):
            z, y, x = z + units[k, 0], y + units[k, 1], x + units[k, 2]
    length = np.sqrt(z * z + y * y + x * x)
    if length > _FLAT and _is_in(_target(i, z / length, y / length, x / length, strides), sources):
        return z / length, y / length, x / length
    return 0.0, 0.0, 0.0


@jit
def _height(j, heat, distance):  # type: ignore[no-untyped-def]
    return heat[j] if heat[j] >= FAINT else -float(distance[j])


@jit
def _to_best_neighbour(i, ways):  # type: ignore[no-untyped-def]
    """Return the way to the hottest neighbour, where heat is faint to the one nearest to the source; between equals."""
    inside, heat, distance, strides, (offsets, units), _ = ways
    best = here = _height(i, heat, distance)
    chosen = -1
    for k in range(offsets.size):
        j = i + offsets[k]
        if inside[j] and _height(j, heat, distance) > best:
            best, chosen = _height(j, heat, distance), k
    if chosen < 0:
        return 0.0, 0.0, 0.0
    z = y = x = 0.0
    for k in range(offsets.size):
        j = i + offsets[k]
        if inside[j] and _height(j, heat, distance) >= best - TIE * abs(best):
            z, y, x = z + units[k, 0], y + units[k, 1], x + units[k, 2]
    length = np.sqrt(z * z + y * y + x * x)
    if length > _FLAT:
        j = _target(i, z / length, y / length, x / length, strides)
        if inside[j] and _height(j, heat, distance) > here:
            return z / length, y / length, x / length
    return units[chosen, 0], units[chosen, 1], units[chosen, 2]
