"""Numba kernels that diffuse heat inside single objects; their directions make it flows.

An object lives in a flat copy of its bounding box with a margin of one pixel along every axis: pixel (z, y, x) of the
box is at `origin(strides)` + z·strides[0] + y·strides[1] + x. A 2D image is a volume of one plane: its box has no
margin along z, and its z stride is 0, so that every difference along z is 0 too.
"""

from __future__ import annotations

import numpy as np

from cellbasin.directions import FAINT, TIE, jit, origin, write_directions

_BLOCK = 1024  # pixels whose partial sums are kept in the first-level cache


@jit
def object_flows(volume, labels, boxes, counts, flow):  # type: ignore[no-untyped-def]
    """Write the flows of some labels of a volume (Z, Y, X) into `flow` (D, Z, Y, X) and return which labels lack one.

    `boxes` are inclusive (z0, y0, x0, z1, y1, x1), `counts` the labels' pixels. A label of several pieces is left out.
    """
    dims = flow.shape[0]
    largest, longest, pixels = 0, 0, 0
    for k in range(labels.size):
        extent, strides, size = geometry(boxes[k], dims)
        largest, longest, pixels = max(largest, size), max(longest, max(extent)), max(pixels, counts[k])
    inside = np.empty(largest, np.uint8)
    weight, heat, spare = np.empty(largest), np.empty(largest), np.empty(largest)
    queue, tallies, vectors = np.empty(pixels, np.int64), np.empty((3, longest), np.int64), np.zeros((3, longest))
    torn = np.zeros(labels.size, np.bool_)
    for k in range(labels.size):
        extent, strides, size = geometry(boxes[k], dims)
        neighbours = _neighbours(strides, dims)
        part = inside[:size]
        copy_object(volume, labels[k], boxes[k], strides, part)
        torn[k] = _flood(part, origin(strides), neighbours[0], queue) < counts[k]
        if not torn[k]:
            buffers = (weight[:size], heat[:size], spare[:size], tallies, vectors)
            _flow_of_object(part, extent, strides, neighbours, counts[k], buffers, boxes[k], flow)
    return torn


@jit
def geometry(box, dims):  # type: ignore[no-untyped-def]
    """Return the extent (z, y, x) of a box, the strides (z, y) of its copy and the size of the copy."""
    extent = (box[3] - box[0] + 1, box[4] - box[1] + 1, box[5] - box[2] + 1)
    row = extent[2] + 2
    plane = row * (extent[1] + 2)
    if dims == 3:
        return extent, (plane, row), plane * (extent[0] + 2)
    return extent, (0, row), plane


@jit
def _neighbours(strides, dims):  # type: ignore[no-untyped-def]
    """Return the flat offsets of the 3^D - 1 neighbours in scan order and the unit vectors that point to them."""
    offsets = np.zeros(3**dims - 1, np.int64)
    units = np.zeros((3**dims - 1, 3))
    n = 0
    for z in range(2 - dims, dims - 1):
        for y in range(-1, 2):
            for x in range(-1, 2):
                if z != 0 or y != 0 or x != 0:
                    offsets[n] = z * strides[0] + y * strides[1] + x
                    length = np.sqrt(float(z * z + y * y + x * x))
                    units[n, 0], units[n, 1], units[n, 2] = z / length, y / length, x / length
                    n += 1
    return offsets, units


@jit
def copy_object(volume, label, box, strides, inside):  # type: ignore[no-untyped-def]
    """Set `inside` to 1 where the label is and to 0 elsewhere."""
    for i in range(inside.size):
        inside[i] = 0
    for z in range(box[0], box[3] + 1):
        for y in range(box[1], box[4] + 1):
            start = origin(strides) + (z - box[0]) * strides[0] + (y - box[1]) * strides[1]
            source = volume[z, y, box[2] : box[5] + 1]
            target = inside[start : start + source.size]
            for x in range(source.size):
                target[x] = source[x] == label


@jit
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


@jit
def _flow_of_object(inside, extent, strides, neighbours, count, buffers, box, flow):  # type: ignore[no-untyped-def]
    weight, heat, spare, tallies, vectors = buffers
    dims = flow.shape[0]
    for i in range(inside.size):
        weight[i] = (inside[i] != 0) / 3.0**dims
        heat[i] = 0.0
        spare[i] = 0.0
    sources = _sources(inside, extent, strides, count, tallies)
    steps = 2 * (extent[1] + extent[2] + (extent[0] if dims == 3 else 0))
    heat, spare = diffuse(heat, spare, weight, strides, sources, steps)
    distance = np.zeros(1, np.int32)
    if _is_faint_somewhere(inside, heat):
        distance, farthest = _distances(inside, sources, neighbours[0], count)
        heat, spare = diffuse(heat, spare, weight, strides, sources, farthest + 1 - steps)
    for i in range(heat.size):
        spare[i] = np.log1p(heat[i]) if inside[i] else 0.0
    for source in sources:  # as it is before it spreads: a source in a neck may be colder than what lies beside it
        heat[source] += 1.0 / sources.size
    ways = (inside, heat, distance, strides, neighbours, sources)
    write_directions(ways, spare, extent, vectors, box, flow)


# ---- the centre


@jit
def _sources(inside, extent, strides, count, tallies):  # type: ignore[no-untyped-def]
    """Return the pixels nearest to the median.

    Equally near ones of the median's own grid cell share the source. Others lie apart (a ring's or a horseshoe's
    median is outside): two sources would tear the object, so the one nearest to the mean is taken, and of perfectly
    symmetric ones the first.
    """
    _tally(inside, extent, strides, tallies)
    mz, cz = _middle(tallies[0], extent[0], count)
    my, cy = _middle(tallies[1], extent[1], count)
    mx, cx = _middle(tallies[2], extent[2], count)
    nearest, off_mean = np.inf, np.inf
    found = np.empty(8, np.int64)
    n, chosen = 0, 0
    for z in range(extent[0]):
        for y in range(extent[1]):
            row = origin(strides) + z * strides[0] + y * strides[1]
            away = (z - mz) ** 2 + (y - my) ** 2
            if away > nearest:
                continue
            for x in range(extent[2]):
                distance = away + (x - mx) ** 2
                if inside[row + x] == 0 or distance > nearest:
                    continue
                if distance < nearest:
                    n, nearest, off_mean = 0, distance, np.inf
                if n < 8:
                    found[n] = row + x
                    n += 1
                other = (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2
                if other < off_mean - TIE * (1 + other):
                    off_mean, chosen = other, row + x
    if nearest <= 0.75:
        return found[:n]
    found[0] = chosen
    return found[:1]


@jit
def _tally(inside, extent, strides, tallies):  # type: ignore[no-untyped-def]
    """Count the object's pixels at every coordinate along every axis."""
    for axis in range(3):
        for i in range(tallies.shape[1]):
            tallies[axis, i] = 0
    for z in range(extent[0]):
        for y in range(extent[1]):
            start = origin(strides) + z * strides[0] + y * strides[1]
            here = inside[start : start + extent[2]]
            n = 0
            for x in range(here.size):
                one = int(here[x] != 0)
                n += one
                tallies[2, x] += one
            tallies[1, y] += n
            tallies[0, z] += n


@jit
def _middle(tally, length, count):  # type: ignore[no-untyped-def]
    """Return median and mean of the coordinates counted in a tally."""
    lower, upper, total, mean = -1, -1, 0, 0.0
    for position in range(length):
        total += tally[position]
        mean += position * tally[position] / count
        if lower < 0 and 2 * total >= count:
            lower = position
        if upper < 0 and 2 * total > count:
            upper = position
    return (lower + upper) / 2, mean


# ---- diffusion


@jit
def diffuse(heat, spare, weight, strides, sources, steps):  # type: ignore[no-untyped-def]
    """Run some steps of diffusion; returns the two buffers, the current heat first."""
    reach = origin(strides)
    share = 1.0 / sources.size
    block = np.empty(_BLOCK + 2)
    starts, length = _blocks_in_use(weight, reach)
    for _ in range(steps):
        for source in sources:
            heat[source] += share
        for start in starts:
            stop = min(start + length, heat.size - reach)
            n = stop - start
            _block_sums(heat, start - 1, stop + 1, strides, block[: n + 2])
            _weighted(block[:n], block[1 : n + 1], block[2 : n + 2], weight[start:stop], spare[start:stop])
        heat, spare = spare, heat
    return heat, spare


@jit
def _blocks_in_use(weight, reach):  # type: ignore[no-untyped-def]
    """Return the starts of the blocks that hold pixels of the object, and their length: small where it fills little."""
    filled = 0
    for i in range(weight.size):
        filled += weight[i] > 0
    length = _BLOCK if 8 * filled > weight.size else _BLOCK // 8
    starts = np.empty(weight.size // length + 1, np.int64)
    n = 0
    for start in range(reach, weight.size - reach, length):
        used = False
        for i in range(start, min(start + length, weight.size - reach)):
            used |= weight[i] > 0
        if used:
            starts[n] = start
            n += 1
    return starts[:n], length


@jit
def _block_sums(heat, start, stop, strides, out):  # type: ignore[no-untyped-def]
    """Sum pixels with their neighbours along all axes but the last."""
    row = strides[1]
    _sum(heat[start - row : stop - row], heat[start:stop], heat[start + row : stop + row], out)
    if strides[0] > 0:
        for plane in (-strides[0], strides[0]):
            low, high = start + plane, stop + plane
            _add(heat[low - row : high - row], heat[low:high], heat[low + row : high + row], out)


# Loops over views, each in a function of its own, are what the compiler turns into vector code (4 times faster).
# Opposite neighbours are added first, so that the sum of a mirrored object is the same to the last bit.


@jit
def _sum(back, here, ahead, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = (back[i] + ahead[i]) + here[i]


@jit
def _add(back, here, ahead, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] += (back[i] + ahead[i]) + here[i]


@jit
def _weighted(back, here, ahead, weight, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = ((back[i] + ahead[i]) + here[i]) * weight[i]


@jit
def _is_faint_somewhere(inside, heat):  # type: ignore[no-untyped-def]
    faint = False
    for i in range(heat.size):
        faint |= (inside[i] != 0) & (heat[i] < FAINT)
    return faint


@jit
def _distances(inside, sources, offsets, count):  # type: ignore[no-untyped-def]
    """Return the number of steps to the nearest source inside the object (-1 outside) and the largest."""
    distance = np.empty(inside.size, np.int32)
    for i in range(distance.size):
        distance[i] = -1
    queue = np.empty(count, np.int64)
    tail = 0
    for source in sources:
        distance[source] = 0
        queue[tail] = source
        tail += 1
    head, farthest = 0, 0
    while head < tail:
        i = queue[head]
        head += 1
        farthest = distance[i]
        for offset in offsets:
            j = i + offset
            if inside[j] and distance[j] < 0:
                distance[j] = farthest + 1
                queue[tail] = j
                tail += 1
    return distance, farthest
