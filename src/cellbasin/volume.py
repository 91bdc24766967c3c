"""One volume on its way from voxels to labels, by the network for 2D images (paper, "3D segmentation")."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cellbasin import size
from cellbasin.composed import not_small, segment_composed, smooth_maps
from cellbasin.dynamics import FlowSegmentation, keep
from cellbasin.image import Image
from cellbasin.labels import diameters, keep_largest_piece
from cellbasin.options import Options
from cellbasin.parallel import parallel_map, thread_count
from cellbasin.plane import Found, segment_plane
from cellbasin.prediction import Maps, Predictor, Progress, as_stage, part_of, tell, unit_length
from cellbasin.resize import nearest_taps, resize
from cellbasin.scratch import Allocate, allocator
from cellbasin.slices import PIXEL_BYTES, cube_shape, group_size, predict_volume, weights_in_use
from cellbasin.stitch import stitch_planes

_LOOKS = 5  # planes in which objects are measured
_PART = 6  # diameters that the part of a volume is wide in which they are measured then
_NEAR = 0.1  # natural logarithm of a ratio of diameters: nearer than this is near enough
_SECTION = 0.938  # diameter of the section that half of a sphere's volume lies in smaller ones of, by its diameter

# Bytes at most at once, and of these what can be kept on disk.
_PER_CUBE = (56, 44)  # flows: maps 16; then their interleaved copy 16 and ends of ways 20, or composed flows 12
_PER_VOXEL = (28, 16)  # stitch: maps 16; labels of planes, of the volume, of its pieces 12
_PER_PLANE_VOXEL = 28  # flows, where voxels are no cubes: maps 16 and labels of the stored planes, of pieces 12


def anisotropy_of(image: Image, options: Options) -> tuple[float, str]:
    """Distance of two planes in px of y and x, and where it is known from.

    Raises ValueError for a stack whose last axis is more likely to be colours than columns, and for voxels whose planes
    lie less than 0.01 or more than 100 px apart.

    >>> anisotropy_of(Image(np.zeros((5, 40, 40)), "ZYX", voxel_size=(1.0, 0.4, 0.4)), Options())
    (2.5, 'voxel size')
    """
    planes, height, width = image.spatial_shape
    if min(height, width) <= 4 < planes:
        raise ValueError(
            f"found a volume of {planes} planes of {height} x {width} pixels, which looks like a colour picture; "
            "expected axes in the order that they are stored in: for an RGB picture axes YXS"
        )
    if options.anisotropy is not None:
        return options.anisotropy, "given"
    if image.voxel_size is not None:
        z, y, x = image.voxel_size
        found = round(z / np.sqrt(y * x), 6)
        if not 0.01 <= found <= 100:
            raise ValueError(
                f"found voxels of {z:g} x {y:g} x {x:g} µm (z, y, x), planes {found:g} pixels apart; expected 0.01 to "
                "100: give the right one as the option anisotropy"
            )
        return float(found), "voxel size"
    return 1.0, "assumed"


def segment_volume(
    model: Predictor, pixels: np.ndarray, anisotropy: float, options: Options, progress: Progress | None = None
) -> Found:
    """The objects of a volume; what is only one plane goes the way of planes.

    pixels: normalised, float32 (2, Z, Y, X); anisotropy: distance of its planes in px of y and x.
    """
    if pixels.shape[1] == 1:
        return _as_volume(segment_plane(model, pixels[:, 0], options, progress))
    volume = _Volume(model, pixels, anisotropy, options, progress)
    volume.allocator(options.diameter or model.card.diameter)  # what does not fit is refused before any work
    return volume.at(options.diameter) if options.diameter else volume.at_estimated_diameter()


@dataclass(frozen=True, slots=True, eq=False)
class _Volume:
    """A volume of several planes and how to segment it."""

    model: Predictor
    pixels: np.ndarray
    anisotropy: float
    options: Options
    progress: Progress | None

    def at(self, diameter: float) -> Found:
        """Objects of this diameter."""
        return self._by_flows(diameter) if self.options.volume_mode == "flows" else self._by_stitching(diameter)

    def at_estimated_diameter(self) -> Found:
        """From the objects in some planes, then from the objects that a part of the volume has at that size."""
        estimate = self._diameter_in_planes()
        part = self.pixels[_part_of_most_contrast(self.pixels, estimate, self.anisotropy)]
        options = replace(self.options, diameter=estimate, volume_mode="flows")
        try:
            replace(self, pixels=part, options=options).allocator(estimate)
        except ValueError:  # no room for more than the planes
            return self.at(estimate)
        found = segment_volume(self.model, part, self.anisotropy, options, as_stage(self.progress, "diameter"))
        measured = _measured(found.objects.labels, self.anisotropy)
        if measured is None or not size.plausible(estimate, measured):
            measured = estimate
        whole = part.shape == self.pixels.shape and self.options.volume_mode == "flows"
        if whole and abs(np.log(measured / estimate)) < _NEAR:
            return found
        del found  # its maps are as large as those to come
        return self.at(measured)

    def plane(self, z: int, diameter: float | None) -> Found:
        """What one plane shows, as an image."""
        return segment_plane(self.model, self.pixels[:, z], replace(self.options, diameter=diameter))

    def _by_flows(self, diameter: float) -> Found:
        options, shape, allocate = self.options, self.pixels.shape[1:], self.allocator(diameter)
        tell_part = part_of(self.progress, "network")
        maps = predict_volume(self.model, self.pixels, diameter, self.anisotropy, options, tell_part, allocate)
        tell(self.progress, "labels", 0.0)
        sigma = diameter / self.model.card.diameter if options.smoothing is None else options.smoothing
        smooth_maps(maps.flow, maps.probability, sigma)
        step, leniency = self.model.step_length(diameter), self.model.conventions.border_leniency
        depth = maps.probability.shape[0] * self.model.card.diameter / diameter
        weights = weights_in_use(options, depth).tolist()
        tell_part = part_of(self.progress, "labels")
        objects = segment_composed(maps.flow, maps.probability, step, options, leniency, allocate, weights, tell_part)
        if maps.probability.shape == shape:
            return Found(objects, maps, diameter)
        stored = Maps(_planes(maps.flow, shape[0]), _planes(maps.probability, shape[0]), maps.style)
        return Found(_stored_planes(objects, shape[0], options), stored, diameter)

    def allocator(self, diameter: float) -> Allocate:
        """Arrays in memory or, where that is too small, on disk; raises ValueError where both are."""
        flows, shape = self.options.volume_mode == "flows", self.pixels.shape[1:]
        voxels, cubes = int(np.prod(shape)), cube_shape(shape, self.anisotropy)
        if not flows:
            needed, on_disk_then = (voxels * each for each in _PER_VOXEL)
        else:
            needed, on_disk_then = (int(np.prod(cubes)) * each for each in _PER_CUBE)
            needed += _PER_PLANE_VOXEL * voxels * (cubes != shape) + self._group_bytes(cubes, diameter)
        return allocator(needed + self.pixels.nbytes, on_disk_then, self.options.memory)

    def _group_bytes(self, cubes: tuple[int, int, int], diameter: float) -> int:
        """Of the largest group of slices, resized, with its maps as they were and as large as the volume's planes."""
        scale = self.model.card.diameter / diameter
        height, width = sorted(cubes)[1:]
        size = group_size((round(height * scale), round(width * scale)))
        return round(size * height * width * (PIXEL_BYTES * scale**2 + 12))

    def _by_stitching(self, diameter: float) -> Found:
        """Every plane like an image, its objects linked through z; the flow has no z component."""
        options, shape, allocate = self.options, self.pixels.shape[1:], self.allocator(diameter)
        flow, probability = allocate((3, *shape)), allocate(shape)
        planes, styles = list[FlowSegmentation](), list[np.ndarray]()

        def segment(z: int) -> tuple[FlowSegmentation, np.ndarray]:
            found = self.plane(z, diameter)
            flow[1:, z], probability[z] = found.maps.flow, found.maps.probability
            return found.objects, found.maps.style

        depth, group = shape[0], 4 * thread_count()
        for first in range(0, depth, group):
            tell(self.progress, "network", first / depth)
            for objects, style in parallel_map(segment, range(first, min(first + group, depth))):
                planes.append(objects)
                styles.append(style)
        tell(self.progress, "labels", 0.0)
        labels = stitch_planes([objects.labels for objects in planes], options.stitch_threshold)
        maps = Maps(flow, probability, unit_length(np.mean(styles, axis=0)))
        errors = _errors_of_stitched(labels, planes)
        planes.clear()  # as large as the labels of the volume
        return Found(_without_small(FlowSegmentation(labels, errors), options), maps, diameter)

    def _diameter_in_planes(self) -> float:
        """From the sections of objects in the planes that show most, each measured like an image."""
        tell(self.progress, "diameter", 0.0)
        sections = []
        planes = _planes_by_contrast(self.pixels, _LOOKS)
        for n, plane in enumerate(planes):
            tell(self.progress, "diameter", n / len(planes))
            sections.append(diameters(self.plane(plane, None).objects.labels))
        return _diameter_of_sections(np.concatenate(sections), self.model.card.diameter)


def _as_volume(found: Found) -> Found:
    """An image as a volume of one plane; the flow has no z component."""
    maps, objects = found.maps, found.objects
    flow = np.concatenate([np.zeros_like(maps.flow[:1]), maps.flow])[:, None]
    stacked = FlowSegmentation(objects.labels[None], objects.flow_errors)
    return replace(found, objects=stacked, maps=Maps(flow, maps.probability[None], maps.style))


def _planes_by_contrast(pixels: np.ndarray, number: int) -> list[int]:
    """Planes spread over the volume, the denser the more there is to see."""
    contrast = np.cumsum(pixels.std(axis=(0, 2, 3)).astype(np.float64))
    if contrast[-1] == 0:
        return [len(contrast) // 2]
    wanted = (np.arange(number) + 0.5) / number * contrast[-1]
    return sorted({int(np.searchsorted(contrast, w)) for w in wanted})


def _part_of_most_contrast(pixels: np.ndarray, diameter: float, anisotropy: float) -> tuple[slice, ...]:
    """The part of a volume (2, Z, Y, X) in which there is most contrast, some diameters wide along every axis."""
    wanted = (_PART * diameter / anisotropy, _PART * diameter, _PART * diameter)
    ranges = []
    for length, side in zip(pixels.shape[1:], wanted, strict=True):
        width = min(length, max(1, round(side)))
        width = length if width > 0.7 * length else width
        starts = np.linspace(0, length - width, -(-2 * (length - width) // width) + 1).round().astype(int)
        ranges.append([slice(int(start), int(start) + width) for start in starts])
    places = [(slice(None), z, y, x) for z in ranges[0] for y in ranges[1] for x in ranges[2]]
    contrast = parallel_map(lambda place: float(pixels[place][:, ::2, ::2, ::2].std()), places)
    return places[int(np.argmax(contrast))]


def _measured(labels: np.ndarray, anisotropy: float) -> float | None:
    """Median diameter in px of y and x of the objects, where there are enough."""
    found = diameters(labels) * np.cbrt(anisotropy)
    return size.bounded(np.median(found)) if found.size >= size.FEW else None


def _diameter_of_sections(sections: np.ndarray, unknown: float) -> float:
    """Diameter of the spheres that have these sections: of every size, the large ones being most of the area.

    >>> round(_diameter_of_sections(30 * np.sqrt(1 - np.linspace(-1, 1, 1001)[1:-1] ** 2), 17.0), 1)
    30.0
    """
    if not sections.size:
        return unknown
    ordered = np.sort(sections)
    area = np.cumsum(ordered**2)
    median = ordered[np.searchsorted(area, area[-1] / 2)]
    return size.bounded(median / _SECTION)


def _planes(array: np.ndarray, number: int) -> np.ndarray:
    """The stored planes of an array of cubes (..., Z, Y, X), between cubes interpolated."""
    *leading, depth, height, width = array.shape
    resized = resize(array.reshape(*leading, depth, height * width), (number, height * width))
    return resized.reshape(*leading, number, height, width)


def _stored_planes(found: FlowSegmentation, number: int, options: Options) -> FlowSegmentation:
    """Labels of the stored planes out of those of cubes; what falls between two planes is lost."""
    nearest = nearest_taps(found.labels.shape[0], number)
    return _without_small(FlowSegmentation(found.labels[nearest], found.flow_errors), options)


def _without_small(found: FlowSegmentation, options: Options) -> FlowSegmentation:
    """Each object's largest piece, those left out that are small for a pixel count or beside the others."""
    labels = keep_largest_piece(found.labels)
    wanted = not_small(labels, options)
    return keep(FlowSegmentation(labels, found.flow_errors[: len(wanted)]), wanted)


def _errors_of_stitched(labels: np.ndarray, planes: list[FlowSegmentation]) -> np.ndarray:
    """Flow error (N,) of objects made of those of planes: the mean over their pixels, but interpolated ones."""
    total, pixels = np.zeros(labels.max() + 1), np.zeros(labels.max() + 1)
    for joint, found in zip(labels, planes, strict=True):
        error = np.concatenate([[0.0], found.flow_errors])[found.labels]
        own = found.labels > 0
        total += np.bincount(joint[own], error[own], len(total))
        pixels += np.bincount(joint[own], minlength=len(pixels))
    return (total / np.maximum(pixels, 1))[1:]
