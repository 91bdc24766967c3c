"""Numba kernel for the flows by which Cellpose 3 judges found objects: heat from the pixel nearest to the centroid.

Ours (`heat.py`) come from the paper's median, of the logarithm of the heat, and lead around every corner; near a limit
of flow errors the two judge one object in ten differently.
"""

from __future__ import annotations

import numpy as np

from cellbasin.directions import jit, origin
from cellbasin.heat import copy_object, diffuse, geometry


@jit
def centroid_flows(volume, labels, boxes, counts, flow):  # type: ignore[no-untyped-def]
    """Write the flows of some labels of an image (1, Y, X) into `flow` (2, 1, Y, X); arguments as of `object_flows`.

    Returns bool (N,): which labels lack one; none does.
    """
    for k in range(labels.size):
        extent, strides, size = geometry(boxes[k], 2)
        inside = np.empty(size, np.uint8)
        copy_object(volume, labels[k], boxes[k], strides, inside)
        source = np.array([_nearest_to_centroid(inside, strides, counts[k])])
        weight, steps = (inside != 0) / 9.0, 2 * (extent[1] + extent[2] + 4)
        heat, _ = diffuse(np.zeros(size), np.zeros(size), weight, strides, source, steps)
        for y in range(extent[1]):
            for x in range(extent[2]):
                i = origin(strides) + y * strides[1] + x
                if inside[i]:
                    dy, dx = heat[i + strides[1]] - heat[i - strides[1]], heat[i + 1] - heat[i - 1]
                    length = 1e-60 + np.sqrt(dy * dy + dx * dx)
                    flow[0, 0, boxes[k, 1] + y, boxes[k, 2] + x] = dy / length
                    flow[1, 0, boxes[k, 1] + y, boxes[k, 2] + x] = dx / length
    return np.zeros(labels.size, np.bool_)


@jit
def _nearest_to_centroid(inside, strides, count):  # type: ignore[no-untyped-def]
    """Flat index of the object's pixel that is nearest to the mean of all; of equally near ones the first."""
    row = strides[1]
    my, mx = 0.0, 0.0
    for i in range(inside.size):
        if inside[i]:
            my += i // row
            mx += i % row
    my, mx = my / count, mx / count
    best, nearest = np.inf, 0
    for i in range(inside.size):
        if inside[i]:
            distance = (i % row - mx) ** 2 + (i // row - my) ** 2
            if distance < best:
                best, nearest = distance, i
    return nearest
