"""Numba kernels that diffuse heat inside single objects and turn it into flows.

An object lives in a flat copy of its bounding box (z, y, x) with a margin of one pixel along every axis, so that the
neighbour along axis k is `strides[k]` further on and a pixel at (z, y, x) of the box is `strides.sum()` plus
(z, y, x)·strides. A 2D image is a volume of one plane: its box has no margin along z, and its z stride is 0, so that every
difference along z is 0 too.
"""

from __future__ import annotations

import numba
import numpy as np

_FAINT = 1e-300  # heat below is too close to underflow to have a direction
_FLAT = 1e-7  # a gradient this small relative to the landscape is rounding, not direction
_TIE = 1e-9
_BLOCK = 1024  # pixels whose partial sums are kept in the first-level cache
_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def object_flows(volume, labels, boxes, counts, flow):  # type: ignore[no-untyped-def]
    """Write the flows of some labels of a volume (Z, Y, X) into `flow` (D, Z, Y, X) and return which labels lack one.

    `boxes` are inclusive (z0, y0, x0, z1, y1, x1), `counts` the labels' pixels. A label of several pieces is left out.
    """
    dims = flow.shape[0]
    extents = boxes[:, 3:] - boxes[:, :3] + 1
    largest = 0
    for k in range(labels.size):
        largest = max(largest, _size(extents[k], dims))
    inside = np.empty(largest, np.uint8)
    weight, heat, spare = np.empty(largest), np.empty(largest), np.empty(largest)
    queue = np.empty(counts.max(), np.int64)
    torn = np.zeros(labels.size, np.bool_)
    for k in range(labels.size):
        size, extent = _size(extents[k], dims), extents[k]
        row = extent[2] + 2
        strides = np.array([(extent[1] + 2) * row if dims == 3 else 0, row, 1])
        offsets, units = _neighbours(strides, dims)
        part = inside[:size]
        _copy(volume, labels[k], boxes[k], strides, part)
        torn[k] = _flood(part, strides.sum(), offsets, queue) < counts[k]
        if not torn[k]:
            fields = (weight[:size], heat[:size], spare[:size])
            _flow_of_object(part, extent, strides, (offsets, units), counts[k], fields, boxes[k], flow)
    return torn


@_jit
def _size(extent, dims):  # type: ignore[no-untyped-def]
    return (extent[0] + 2 * (dims - 2)) * (extent[1] + 2) * (extent[2] + 2)


@_jit
def _neighbours(strides, dims):  # type: ignore[no-untyped-def]
    """Return the flat offsets of the 3^D - 1 neighbours in scan order and the unit vectors that point to them."""
    offsets = np.zeros(3**dims - 1, np.int64)
    units = np.zeros((3**dims - 1, 3))
    n = 0
    for z in range(-1 if dims == 3 else 0, 2 if dims == 3 else 1):
        for y in range(-1, 2):
            for x in range(-1, 2):
                if z != 0 or y != 0 or x != 0:
                    offsets[n] = z * strides[0] + y * strides[1] + x
                    length = np.sqrt(float(z * z + y * y + x * x))
                    units[n, 0], units[n, 1], units[n, 2] = z / length, y / length, x / length
                    n += 1
    return offsets, units


@_jit
def _copy(volume, label, box, strides, inside):  # type: ignore[no-untyped-def]
    """Set `inside` to 1 where the label is and to 0 elsewhere."""
    inside[:] = 0
    for z in range(box[0], box[3] + 1):
        for y in range(box[1], box[4] + 1):
            start = strides.sum() + (z - box[0]) * strides[0] + (y - box[1]) * strides[1]
            source = volume[z, y, box[2] : box[5] + 1]
            target = inside[start : start + source.size]
            for x in range(source.size):
                target[x] = source[x] == label


@_jit
def _flood(inside, first, offsets, queue):  # type: ignore[no-untyped-def]
    """Set one connected piece of `inside` from 1 to 2 and return its pixels' number."""
    while inside[first] != 1:
        first += 1
    inside[first] = 2
    queue[0] = first
    head, length = 0, 1
    while head < length:
        i = queue[head]
        head += 1
        for offset in offsets:
            j = i + offset
            if inside[j] == 1:
                inside[j] = 2
                queue[length] = j
                length += 1
    return length


@_jit
def _flow_of_object(inside, extent, strides, neighbours, count, fields, box, flow):  # type: ignore[no-untyped-def]
    weight, heat, spare = fields
    dims = flow.shape[0]
    for i in range(inside.size):
        weight[i] = (inside[i] != 0) / 3.0**dims
        heat[i] = 0.0
        spare[i] = 0.0
    sources = _sources(inside, extent, strides, count)
    steps = 2 * extent[3 - dims :].sum()
    heat, spare = _diffuse(heat, spare, weight, strides, sources, steps)
    distance = np.zeros(1, np.int32)
    if _is_faint_somewhere(inside, heat):
        distance = _distances(inside, sources, neighbours[0], count)
        missing = max(distance.max() + 1 - steps, 0)
        heat, spare = _diffuse(heat, spare, weight, strides, sources, missing)
    for i in range(heat.size):
        spare[i] = np.log1p(heat[i]) if inside[i] else 0.0
    _write_directions(inside, spare, heat, distance, (extent, strides), neighbours, sources, box, flow)


# ---- the centre


@_jit
def _sources(inside, extent, strides, count):  # type: ignore[no-untyped-def]
    """Return the pixels nearest to the median.

    Equally near ones of the median's own grid cell share the source. Others lie apart (a ring's or a horseshoe's
    median is outside): two sources would tear the object, so the one nearest to the mean is taken, and of perfectly
    symmetric ones the first.
    """
    median, mean = _middle(inside, extent, strides, count)
    nearest = np.inf
    found = np.empty(8, np.int64)
    n, chosen, off_mean = 0, 0, np.inf
    for z in range(extent[0]):
        for y in range(extent[1]):
            row = strides.sum() + z * strides[0] + y * strides[1]
            away = (z - median[0]) ** 2 + (y - median[1]) ** 2
            if away > nearest:
                continue
            for x in range(extent[2]):
                distance = away + (x - median[2]) ** 2
                if inside[row + x] == 0 or distance > nearest:
                    continue
                if distance < nearest:
                    n, nearest, off_mean = 0, distance, np.inf
                if n < 8:
                    found[n] = row + x
                    n += 1
                other = (z - mean[0]) ** 2 + (y - mean[1]) ** 2 + (x - mean[2]) ** 2
                if other < off_mean - _TIE * (1 + other):
                    off_mean, chosen = other, row + x
    if nearest <= 0.75:
        return found[:n]
    found[0] = chosen
    return found[:1]


@_jit
def _middle(inside, extent, strides, count):  # type: ignore[no-untyped-def]
    """Return median and mean (z, y, x) of the object's pixels."""
    tallies = np.zeros((3, extent.max()), np.int64)
    for z in range(extent[0]):
        for y in range(extent[1]):
            start = strides.sum() + z * strides[0] + y * strides[1]
            here = inside[start : start + extent[2]]
            n = 0
            for x in range(here.size):
                one = here[x] != 0
                n += one
                tallies[2, x] += one
            tallies[1, y] += n
            tallies[0, z] += n
    median, mean = np.zeros(3), np.zeros(3)
    for axis in range(3):
        lower = upper = -1
        total = 0
        for position in range(extent[axis]):
            total += tallies[axis, position]
            mean[axis] += position * tallies[axis, position] / count
            if lower < 0 and 2 * total >= count:
                lower = position
            if upper < 0 and 2 * total > count:
                upper = position
        median[axis] = (lower + upper) / 2
    return median, mean


# ---- diffusion


@_jit
def _diffuse(heat, spare, weight, strides, sources, steps):  # type: ignore[no-untyped-def]
    """Run some steps of diffusion; returns the two buffers, the current heat first."""
    reach = strides.sum()
    share = 1.0 / sources.size
    block = np.empty(_BLOCK + 2)
    for _ in range(steps):
        for source in sources:
            heat[source] += share
        for start in range(reach, heat.size - reach, _BLOCK):
            stop = min(start + _BLOCK, heat.size - reach)
            n = stop - start
            _block_sums(heat, start - 1, stop + 1, strides, block[: n + 2])
            _weighted(block[:n], block[1 : n + 1], block[2 : n + 2], weight[start:stop], spare[start:stop])
        heat, spare = spare, heat
    return heat, spare


@_jit
def _block_sums(heat, start, stop, strides, out):  # type: ignore[no-untyped-def]
    """Sum pixels with their neighbours along all axes but the last."""
    row = strides[1]
    _sum(heat[start - row : stop - row], heat[start:stop], heat[start + row : stop + row], out)
    if strides[0] > 0:
        for plane in (-strides[0], strides[0]):
            low, high = start + plane, stop + plane
            _add(heat[low - row : high - row], heat[low:high], heat[low + row : high + row], out)


# Loops over views, each in a function of its own, are what the compiler turns into vector instructions (4 times faster).
# Opposite neighbours are added first, so that the sum of a mirrored object is the same to the last bit.


@_jit
def _sum(back, here, ahead, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = (back[i] + ahead[i]) + here[i]


@_jit
def _add(back, here, ahead, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] += (back[i] + ahead[i]) + here[i]


@_jit
def _weighted(back, here, ahead, weight, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = ((back[i] + ahead[i]) + here[i]) * weight[i]


@_jit
def _is_faint_somewhere(inside, heat):  # type: ignore[no-untyped-def]
    faint = False
    for i in range(heat.size):
        faint |= (inside[i] != 0) & (heat[i] < _FAINT)
    return faint


@_jit
def _distances(inside, sources, offsets, count):  # type: ignore[no-untyped-def]
    """Return the number of steps to the nearest source inside the object (-1 outside)."""
    distance = np.full(inside.size, -1, np.int32)
    queue = np.empty(count, np.int64)
    queue[: sources.size] = sources
    for source in sources:
        distance[source] = 0
    head, tail = 0, sources.size
    while head < tail:
        i = queue[head]
        head += 1
        for offset in offsets:
            j = i + offset
            if inside[j] and distance[j] < 0:
                distance[j] = distance[i] + 1
                queue[tail] = j
                tail += 1
    return distance


# ---- directions


@_jit
def _write_directions(  # type: ignore[no-untyped-def]
    inside, landscape, heat, distance, geometry, neighbours, sources, box, flow
):
    """Write every pixel's unit vector: the gradient, or where that does not lead uphill, the way to the best neighbour."""
    extent, strides = geometry
    dims, n = flow.shape[0], extent[2]
    vectors = np.zeros((3, n))
    vz, vy, vx = vectors[0], vectors[1], vectors[2]
    for z in range(extent[0]):
        for y in range(extent[1]):
            row = strides.sum() + z * strides[0] + y * strides[1]
            if dims == 3:
                _difference(landscape[row - strides[0] :], landscape[row + strides[0] :], vz)
            _difference(landscape[row - strides[1] :], landscape[row + strides[1] :], vy)
            _difference(landscape[row - 1 :], landscape[row + 1 :], vx)
            _normalise(landscape[row : row + n], vz, vy, vx)
            for x in range(n):
                i = row + x
                j = _target(i, vz[x], vy[x], vx[x], strides)
                leads_up = (inside[j] != 0) & (heat[j] > heat[i] * (1 + _TIE)) & (heat[i] >= _FAINT)
                if inside[i] and not leads_up:
                    if not np.any(sources == i):
                        vectors[:, x] = _to_best_neighbour(i, inside, heat, distance, strides, neighbours)
                    elif inside[j] == 0:
                        vectors[:, x] = 0
            here = inside[row : row + n]
            for axis in range(dims):
                target = flow[axis, z + box[0], y + box[1], box[2] : box[5] + 1]
                _write(vectors[3 - dims + axis], here, target)


@_jit
def _difference(back, ahead, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = ahead[i] - back[i]


@_jit
def _normalise(landscape, z, y, x):  # type: ignore[no-untyped-def]
    """Make vectors as long as 1, safely where they are tiny, or 0 where they are rounding noise."""
    for i in range(landscape.size):
        size = abs(z[i]) + abs(y[i]) + abs(x[i])
        known = size > max(_FLAT * landscape[i], _FAINT * _FLAT)
        scale = (1.0 if known else 0.0) / (size if known else 1.0)
        a, b, c = z[i] * scale, y[i] * scale, x[i] * scale
        scale = 1 / np.sqrt(a * a + b * b + c * c + (0.0 if known else 1.0))
        z[i], y[i], x[i] = a * scale, b * scale, c * scale


@_jit
def _write(values, inside, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        if inside[i]:
            out[i] = values[i]


@_jit
def _target(i, z, y, x, strides):  # type: ignore[no-untyped-def]
    """Return the pixel that a unit vector leads to from the middle of pixel i, as precise as flows are stored."""
    z, y, x = np.rint(np.float32(z)), np.rint(np.float32(y)), np.rint(np.float32(x))
    return i + strides[0] * int(z) + strides[1] * int(y) + int(x)


@_jit
def _height(j, heat, distance):  # type: ignore[no-untyped-def]
    return heat[j] if heat[j] >= _FAINT else -float(distance[j])


@_jit
def _to_best_neighbour(i, inside, heat, distance, strides, neighbours):  # type: ignore[no-untyped-def]
    """Return the way to the hottest neighbour (nearest to the source where heat is faint); between equals if that leads up."""
    offsets, units = neighbours
    best = here = _height(i, heat, distance)
    chosen = -1
    for k in range(offsets.size):
        j = i + offsets[k]
        if inside[j] and _height(j, heat, distance) > best:
            best, chosen = _height(j, heat, distance), k
    if chosen < 0:
        return np.zeros(3)
    z = y = x = 0.0
    for k in range(offsets.size):
        j = i + offsets[k]
        if inside[j] and _height(j, heat, distance) >= best - _TIE * abs(best):
            z, y, x = z + units[k, 0], y + units[k, 1], x + units[k, 2]
    length = np.sqrt(z * z + y * y + x * x)
    if length > _FLAT:
        j = _target(i, z / length, y / length, x / length, strides)
        if inside[j] and _height(j, heat, distance) > here:
            return np.array([z / length, y / length, x / length])
    return units[chosen].copy()
