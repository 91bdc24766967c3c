"""One 2D image on its way from pixels to labels, finding the diameter where none is given."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cellbasin import size
from cellbasin.confidence import Calibration, object_features
from cellbasin.dynamics import FlowSegmentation, flows_fit, judge, keep, segment_flows
from cellbasin.labels import diameters
from cellbasin.options import FLOW_THRESHOLD, Options
from cellbasin.parallel import Tell
from cellbasin.prediction import Maps, Predictor, Progress, as_stage, part_of, tell

_LARGE = 1 << 21  # pixels after resizing; of a larger image a window is enough to measure objects in


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was found in an image (Y, X) or a volume (Z, Y, X).

    maps: those that the objects were made of, as large as the image. diameter: the one used, pixels of y and x.
    confidence: float64 (N,), the probability that each object is right; None where the model, or one network of an
    ensemble, was not calibrated for these options, and of volumes of several planes.
    """

    objects: FlowSegmentation
    maps: Maps
    diameter: float
    confidence: np.ndarray | None = None


def segment_plane(model: Predictor, pixels: np.ndarray, options: Options, progress: Progress | None = None) -> Found:
    """Objects of the diameter that the options give, or of the one that is found, that are good enough.

    pixels: normalised, float32 (2, Y, X).
    """
    plane = _Plane(model, pixels, options, progress)
    return plane.likely(plane.at(options.diameter) if options.diameter else plane.at_estimated_diameter())


@dataclass(frozen=True, slots=True, eq=False)
class _Plane:
    """An image and how to segment it."""

    model: Predictor
    pixels: np.ndarray
    options: Options
    progress: Progress | None

    def at(self, diameter: float) -> Found:
        """All objects, whatever their quality, of this diameter."""
        maps = self.model.predict(self.pixels, diameter, self.options, self.progress)
        tell(self.progress, "labels", 0.0)
        return Found(self._labels(maps, diameter, part_of(self.progress, "labels")), maps, diameter)

    def at_estimated_diameter(self) -> Found:
        """Paper, "Test time resizing": from the style, then from the objects found at that size."""
        tell(self.progress, "diameter", 0.0)
        estimate = self._from_style()
        window = self._window(estimate, _LARGE)
        whole = window.shape == self.pixels.shape
        first = self.at(estimate) if whole else self._look(window, estimate)
        fitting = self._drop_unfit(first.objects)
        count, measured = len(fitting.flow_errors), _measured(fitting.labels)
        if measured is None or count < size.FEW or not size.plausible(estimate, measured):
            measured = self._best_candidate(estimate)
        if whole and size.fits(estimate, measured):
            return first
        del first, fitting  # as large as what comes
        return self.at(measured)

    def _best_candidate(self, estimate: float) -> float:
        """Where the style has misled: the diameter at which the objects found are best and have that diameter."""
        best, best_score = estimate, size.CONVINCING
        for diameter in sorted({*size.CANDIDATES, estimate}):
            window = self._window(diameter, _LARGE // 4)
            found = self._look(window, diameter)
            fitting = self._drop_unfit(found.objects)
            measured = _measured(fitting.labels)
            if measured is None:
                continue
            score = size.trust(diameter, measured, len(fitting.flow_errors)) * _quality(fitting, found.maps)
            if score > best_score:
                best, best_score = measured, score
        return best

    def _from_style(self) -> float:
        model = self.model
        regression = size.SizeModel.from_card(model.card.size_model, model.card.architecture.channels[-1])
        if regression is None:
            return model.card.typical_diameter or model.card.diameter
        return size.diameter_from_style(regression, lambda diameter: model.style(self.pixels, diameter, self.options))

    def _window(self, diameter: float, largest: int) -> np.ndarray:
        """The image, or the middle of one that would have many more than `largest` pixels when resized."""
        scale = self.model.card.diameter / diameter
        height, width = self.pixels.shape[1:]
        part = np.sqrt(largest / (height * width * scale**2))
        if part >= 0.75:
            return self.pixels
        wanted = (max(1, int(height * part)), max(1, int(width * part)))
        top, left = (height - wanted[0]) // 2, (width - wanted[1]) // 2
        return self.pixels[:, top : top + wanted[0], left : left + wanted[1]]

    def _look(self, window: np.ndarray, diameter: float) -> Found:
        """All objects in a window, to measure them."""
        maps = self.model.predict(window, diameter, self.options, as_stage(self.progress, "diameter"))
        return Found(self._labels(maps, diameter, part_of(self.progress, "diameter")), maps, diameter)

    def _labels(self, maps: Maps, diameter: float, tell_part: Tell) -> FlowSegmentation:
        """All objects, whatever their quality."""
        return segment_flows(
            maps.flow,
            maps.probability,
            probability_threshold=self.options.probability_threshold,
            flow_threshold=None,
            min_size=self.options.min_size,
            step=self.model.step_length(diameter),
            own_flows=self.model.conventions.own_flows,
            tell=tell_part,
        )

    def _drop_unfit(self, found: FlowSegmentation) -> FlowSegmentation:
        """The objects to measure a size by, for which flow errors do: what is no object has flows that fit nothing."""
        return judge(found, FLOW_THRESHOLD, self.model.conventions.border_leniency)

    def likely(self, found: Found) -> Found:
        """The objects that the options let pass, with their confidence, the mean over networks, where all have one."""
        options, leniency = self.options, self.model.conventions.border_leniency
        mode = "augment" if options.augment else "plain"
        each = [Calibration.from_card(weights.card.confidence.get(mode, {})) for weights in self.model.weights]
        calibrations = [calibration for calibration in each if calibration is not None]
        objects, maps = found.objects, found.maps
        if len(calibrations) < len(each):
            return replace(found, objects=judge(objects, options.largest_flow_error(), leniency))
        features = object_features(objects.labels, maps.flow, maps.probability, objects.flow_errors, found.diameter)
        confidence = np.mean([calibration.confidence(features) for calibration in calibrations], axis=0)
        wanted = confidence >= options.min_confidence
        wanted &= flows_fit(objects, options.largest_flow_error(np.inf), leniency)
        return replace(found, objects=keep(objects, wanted), confidence=confidence[wanted])


def _quality(found: FlowSegmentation, maps: Maps) -> float:
    """Part of the pixels that are surely inside objects whose flows fit."""
    fit = 1 - found.flow_errors / FLOW_THRESHOLD
    weight = np.concatenate([[0.0], np.clip(fit, 0, 1)]).astype(np.float32)
    return float((weight[found.labels] * (2 * maps.probability - 1)).mean())


def _measured(labels: np.ndarray) -> float | None:
    """Median diameter of the objects, where there are any."""
    found = diameters(labels)
    return size.bounded(np.median(found)) if found.size else None
