"""Numba kernels that diffuse heat inside single objects and turn it into flows.

An object lives in a flat copy of its bounding box with a margin of one pixel along every axis, so that the neighbour along
axis k is `strides[k]` further on and no kernel needs to know how many axes there are. A 2D image is a volume of one plane
whose box has no margin along z.
"""

from __future__ import annotations

import numba
import numpy as np

_FAINT = 1e-300  # heat below is too close to underflow to have a direction
_FLAT = 1e-7  # a gradient this small relative to the landscape is rounding, not direction
_TIE = 1e-9
_BLOCK = 1024  # pixels whose partial sums are kept in the first-level cache
_jit = numba.njit(nogil=True, cache=True)


@_jit
def object_flows(volume, labels, boxes, counts, flow):  # type: ignore[no-untyped-def]
    """Write the flows of some objects into `flow` (D, Z, Y, X); boxes are inclusive, D = 2 for a volume of one plane."""
    dims = flow.shape[0]
    margin = np.array([1 if dims == 3 else 0, 1, 1])
    largest = 0
    for k in range(labels.size):
        size = 1
        for axis in range(3):
            size *= boxes[k, 3 + axis] - boxes[k, axis] + 1 + 2 * margin[axis]
        largest = max(largest, size)
    inside = np.empty(largest, np.uint8)
    queue = np.empty(largest, np.int64)
    weight = np.empty(largest, np.float64)
    heat = np.empty(largest, np.float64)
    spare = np.empty(largest, np.float64)
    for k in range(labels.size):
        _flow_of_label(volume, labels[k], boxes[k], counts[k], margin, (inside, queue, weight, heat, spare), flow)


@_jit
def _flow_of_label(volume, label, box, count, margin, buffers, flow):  # type: ignore[no-untyped-def]
    dims = flow.shape[0]
    inside, queue, weight, heat, spare = buffers
    shape = box[3:] - box[:3] + 1 + 2 * margin
    strides = np.array([shape[1] * shape[2], shape[2], 1])[3 - dims :]
    size = shape[0] * shape[1] * shape[2]
    inside, weight, heat, spare = inside[:size], weight[:size], heat[:size], spare[:size]
    inside[:] = 0
    weight[:] = 0
    first = 0
    for z in range(box[0], box[3] + 1):
        for y in range(box[1], box[4] + 1):
            row = ((z - box[0] + margin[0]) * shape[1] + y - box[1] + 1) * shape[2] + 1 - box[2]
            for x in range(box[2], box[5] + 1):
                inside[row + x] = volume[z, y, x] == label
    offsets = neighbour_offsets(strides)
    while count > 0:
        while inside[first] != 1:
            first += 1
        length = _flood(inside, first, offsets, queue)
        count -= length
        piece = queue[:length]
        for i in piece:
            weight[i] = 1.0 / 3.0**dims
        _flow_of_piece(inside, piece, (weight, heat, spare), box, shape, margin, strides, offsets, flow)
        for i in piece:
            inside[i] = 0
            weight[i] = 0


@_jit
def neighbour_offsets(strides):  # type: ignore[no-untyped-def]
    """Return the flat offsets of the 3^D - 1 neighbours in scan order."""
    dims = strides.size
    offsets = np.zeros(3**dims - 1, np.int64)
    n = 0
    for code in range(3**dims):
        rest, offset = code, 0
        for axis in range(dims - 1, -1, -1):
            offset += (rest % 3 - 1) * strides[axis]
            rest //= 3
        if code != 3**dims // 2:
            offsets[n] = offset
            n += 1
    return offsets


@_jit
def _flood(inside, first, offsets, queue):  # type: ignore[no-untyped-def]
    """Mark the piece that holds `first` with 2, list its pixels in `queue` and return how many they are."""
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
def _flow_of_piece(inside, piece, fields, box, shape, margin, strides, offsets, flow):  # type: ignore[no-untyped-def]
    weight, heat, spare = fields
    low, high = _extent(piece, shape)
    sources = _sources(piece, shape, low, high)
    steps = 2 * (high - low + 1).sum() - (2 if strides.size == 2 else 0)
    heat[:] = 0
    spare[:] = 0
    heat, spare = _diffuse(heat, spare, weight, strides, sources, steps)
    faint = False
    for i in piece:
        faint |= heat[i] < _FAINT
    distance = np.zeros(1, np.int32)
    if faint:
        distance = _distances(inside, sources, offsets, piece.size)
        more = distance.max() + 1 - steps
        heat, spare = _diffuse(heat, spare, weight, strides, sources, max(more, 0))
    for i in piece:
        spare[i] = np.log1p(heat[i])
    is_source = np.zeros(1, np.bool_)
    vector = np.zeros(strides.size)
    plane = shape[1] * shape[2]
    for i in piece:
        is_source[0] = False
        for source in sources:
            is_source[0] |= source == i
        _direction(i, inside, spare, heat, distance, strides, offsets, is_source[0], vector)
        z = i // plane
        y = (i - z * plane) // shape[2]
        x = i - z * plane - y * shape[2]
        for axis in range(strides.size):
            flow[axis, z - margin[0] + box[0], y - 1 + box[1], x - 1 + box[2]] = vector[axis]


@_jit
def _extent(piece, shape):  # type: ignore[no-untyped-def]
    low = shape.copy()
    high = np.zeros(3, np.int64)
    plane = shape[1] * shape[2]
    for i in piece:
        z = i // plane
        y = (i - z * plane) // shape[2]
        x = i - z * plane - y * shape[2]
        low[0], high[0] = min(low[0], z), max(high[0], z)
        low[1], high[1] = min(low[1], y), max(high[1], y)
        low[2], high[2] = min(low[2], x), max(high[2], x)
    return low, high


@_jit
def _median2(piece, divisor, length):  # type: ignore[no-untyped-def]
    """Return twice the median of the pixels' coordinate `i // divisor % length`."""
    histogram = np.zeros(length, np.int64)
    for i in piece:
        histogram[i // divisor % length] += 1
    total, position = 0, 0
    while 2 * (total + histogram[position]) < piece.size:
        total += histogram[position]
        position += 1
    total += histogram[position]
    after = position
    if 2 * total == piece.size:
        after += 1
        while histogram[after] == 0:
            after += 1
    return position + after


@_jit
def _sources(piece, shape, low, high):  # type: ignore[no-untyped-def]
    """Return the pixels nearest to the median.

    Equally near ones of the median's own grid cell share the source. Others lie apart (a ring's or a horseshoe's
    median is outside): two sources would tear the object, so the one nearest to the mean is taken, and of
    perfectly symmetric ones the first.
    """
    plane = shape[1] * shape[2]
    middle = (_median2(piece, plane, shape[0]), _median2(piece, shape[2], shape[1]), _median2(piece, 1, shape[2]))
    total = np.zeros(3, np.int64)
    best = np.int64(1) << 60
    found = np.empty(piece.size, np.int64)
    n = 0
    for i in piece:
        z = i // plane
        y = (i - z * plane) // shape[2]
        x = i - z * plane - y * shape[2]
        total[0] += z
        total[1] += y
        total[2] += x
        away = (2 * z - middle[0]) ** 2 + (2 * y - middle[1]) ** 2 + (2 * x - middle[2]) ** 2
        if away < best:
            best, n = away, 0
        if away == best:
            found[n] = i
            n += 1
    if n == 1 or best <= 3:
        return found[:n].copy()
    nearest, chosen = np.inf, 0
    for k in range(n):
        z, y, x = found[k] // plane, found[k] // shape[2] % shape[1], found[k] % shape[2]
        away = (z - total[0] / piece.size) ** 2 + (y - total[1] / piece.size) ** 2 + (x - total[2] / piece.size) ** 2
        if away < nearest - _TIE * (1 + away):
            nearest, chosen = away, k
    return found[chosen : chosen + 1].copy()


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
            n = min(_BLOCK, heat.size - reach - start)
            _block_sums(heat, start - 1, n + 2, strides, block)
            left, middle, right = block[:n], block[1 : n + 1], block[2 : n + 2]
            factor, out = weight[start : start + n], spare[start : start + n]
            for i in range(n):
                out[i] = ((left[i] + right[i]) + middle[i]) * factor[i]
        heat, spare = spare, heat
    return heat, spare


@_jit
def _block_sums(heat, start, n, strides, block):  # type: ignore[no-untyped-def]
    """Sum n pixels with their neighbours along all axes but the last; opposite ones first, so that a mirrored sum is the same."""
    step = strides[strides.size - 2]
    here, back, ahead = heat[start : start + n], heat[start - step : start - step + n], heat[start + step : start + step + n]
    for i in range(n):
        block[i] = (back[i] + ahead[i]) + here[i]
    if strides.size == 3:
        for side in (-strides[0], strides[0]):
            base = start + side
            here, back, ahead = heat[base : base + n], heat[base - step : base - step + n], heat[base + step : base + step + n]
            for i in range(n):
                block[i] += (back[i] + ahead[i]) + here[i]


@_jit
def _distances(inside, sources, offsets, length):  # type: ignore[no-untyped-def]
    """Return the number of steps to the nearest source inside the object (0 outside)."""
    distance = np.full(inside.size, -1, np.int32)
    queue = np.empty(length, np.int64)
    queue[: sources.size] = sources
    for source in sources:
        distance[source] = 0
    head, tail = 0, sources.size
    while head < tail:
        i = queue[head]
        head += 1
        for offset in offsets:
            j = i + offset
            if inside[j] == 2 and distance[j] < 0:
                distance[j] = distance[i] + 1
                queue[tail] = j
                tail += 1
    return distance


@_jit
def _direction(i, inside, landscape, heat, distance, strides, offsets, is_source, vector):  # type: ignore[no-untyped-def]
    """Set `vector` to the normalised gradient of the landscape or, where that does not lead uphill, to the best neighbour's."""
    largest = 0.0
    for axis in range(strides.size):
        vector[axis] = landscape[i + strides[axis]] - landscape[i - strides[axis]]
        largest = max(largest, abs(vector[axis]))
    if heat[i] >= _FAINT and largest > _FLAT * landscape[i]:
        step = _normalise(vector, largest, strides)
        if is_source or (inside[i + step] == 2 and heat[i + step] > heat[i] * (1 + _TIE)):
            return
    vector[:] = 0
    if not is_source:
        _to_best_neighbour(i, inside, heat, distance, strides, offsets, vector)


@_jit
def _normalise(vector, largest, strides):  # type: ignore[no-untyped-def]
    """Make a unit vector (safe from underflow) and return the flat offset of the pixel it leads to."""
    square = 0.0
    for axis in range(strides.size):
        vector[axis] /= largest
        square += vector[axis] ** 2
    length = np.sqrt(square)
    step = 0
    for axis in range(strides.size):
        vector[axis] /= length
        step += strides[axis] * ((vector[axis] > 0.5) - (vector[axis] < -0.5))
    return step


@_jit
def _height(j, heat, distance):  # type: ignore[no-untyped-def]
    return heat[j] if heat[j] >= _FAINT else -float(distance[j])


@_jit
def _to_best_neighbour(i, inside, heat, distance, strides, offsets, vector):  # type: ignore[no-untyped-def]
    """Point to the hottest neighbour (nearest to the source where heat is too faint); between equals if that leads uphill."""
    best = _height(i, heat, distance)
    chosen = -1
    for code in range(offsets.size):
        j = i + offsets[code]
        if inside[j] == 2 and _height(j, heat, distance) > best:
            best, chosen = _height(j, heat, distance), code
    if chosen < 0:
        return
    for code in range(offsets.size):
        j = i + offsets[code]
        if inside[j] == 2 and _height(j, heat, distance) >= best - _TIE * abs(best):
            _add_unit(vector, code + (code >= offsets.size // 2))
    largest = np.abs(vector).max()
    if largest > _FLAT:
        j = i + _normalise(vector, largest, strides)
        if inside[j] == 2 and _height(j, heat, distance) > _height(i, heat, distance):
            return
    vector[:] = 0
    _add_unit(vector, chosen + (chosen >= offsets.size // 2))


@_jit
def _add_unit(vector, code):  # type: ignore[no-untyped-def]
    """Add the unit vector towards the neighbour with a number in base 3, one digit an axis."""
    rest, square = code, 0
    for _ in range(vector.size):
        square += (rest % 3 - 1) ** 2
        rest //= 3
    for axis in range(vector.size - 1, -1, -1):
        vector[axis] += (code % 3 - 1) / np.sqrt(square)
        code //= 3
