"""Segmentations as layers of napari: labels with a table of features, coloured flows, probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from cellbasin.io import flow_colours
from cellbasin.novelty import UNLIKE
from cellbasin.results import Segmentation

from .source import Source

LayerData = tuple[Any, dict[str, Any], str]
MAPS = ("flows", "probability")
MADE = "cellbasin"  # key of the metadata of layers that are results


@dataclass(eq=False)
class Collected:
    """What is kept of the segmentations of a source's frames, added in their order.

    maps: which of `MAPS` are wanted as layers. Labels go on counting from frame to frame, so that each has its own row
    in the table of features.
    """

    source: Source
    maps: tuple[str, ...] = ()
    count: int = 0
    labels: list[np.ndarray] = field(default_factory=list)
    flows: list[np.ndarray] = field(default_factory=list)
    probability: list[np.ndarray] = field(default_factory=list)
    tables: list[Mapping[str, np.ndarray]] = field(default_factory=list)
    facts: list[Mapping[str, Any]] = field(default_factory=list)
    last: Segmentation | None = None

    def add(self, result: Segmentation) -> None:
        """Take what is wanted of the next frame."""
        numbers = np.concatenate([[0], np.arange(1, len(result) + 1) + self.count]).astype(np.int32)
        self.labels.append(numbers[result.labels] if self.count else result.labels)
        if "flows" in self.maps:
            self.flows.append(flow_colours(result.flow[-2:]))
        if "probability" in self.maps:
            self.probability.append(result.probability)
        self.tables.append({**result.objects, "label": numbers[1:]})
        self.facts.append(result.provenance)
        self.count += len(result)
        self.last = result

    def layers(self) -> list[LayerData]:
        """Layer data tuples: the maps that are wanted, then the labels on top of them."""
        name, here = self.source.name, self.source.geometry
        made: list[LayerData] = []
        if self.flows:
            made.append(flow_layer(name, self.source.as_in_layer(self.flows), here))
        if self.probability:
            made.append(probability_layer(name, self.source.as_in_layer(self.probability), here))
        told = {**here, "name": f"{name} cells", "features": self._features(), "metadata": {MADE: self._kept()}}
        return [*made, (self.source.as_in_layer(self.labels), told, "labels")]

    def _features(self) -> dict[str, np.ndarray]:
        """Columns for all objects; `index` tells napari which label a row is about."""
        tables = self.tables
        columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        frame = {}
        if "T" in self.source.axes and not self.source.at:
            frame = {"frame": np.repeat(np.arange(len(tables)), [len(table["label"]) for table in tables])}
        return {"index": columns.pop("label"), **frame, **columns}

    def _kept(self) -> dict[str, Any]:
        """Of a single image also the maps, which `_seg.npy` files hold."""
        if self.last is None or len(self.labels) > 1:
            return {}
        last = self.last
        maps = {"flow": last.flow, "probability": last.probability, "diameter": last.diameter}
        return {**maps, "provenance": last.provenance}

    def summary(self) -> str:
        """One line for people."""
        made = f"in {len(self.facts)} frames, " if len(self.facts) > 1 else ""
        sizes = sorted(fact["diameter"] for fact in self.facts)
        size = " to ".join(dict.fromkeys(f"{one:.1f}" for one in (sizes[0], sizes[-1])))
        seconds, fact = sum(fact["seconds"] for fact in self.facts), self.facts[0]
        text = f"{self.count} objects, {made}diameter {size} px ({fact['diameter_source']})"
        if "anisotropy" in fact:
            text += f", anisotropy {fact['anisotropy']:.4g} ({fact['anisotropy_source']})"
        text += f", {seconds:.1f} s"
        if any(fact.get("novelty", {}).get("unlike") for fact in self.facts):
            text += f"; {UNLIKE}"
        return text


def flow_layer(name: str, picture: np.ndarray, here: Mapping[str, Any] = MappingProxyType({})) -> LayerData:
    """Coloured flows (..., Y, X, 3) as a layer that waits to be shown; here: where it lies."""
    return picture, {**here, "name": f"{name} flows", "rgb": True, "visible": False, "metadata": {MADE: {}}}, "image"


def probability_layer(name: str, array: np.ndarray, here: Mapping[str, Any] = MappingProxyType({})) -> LayerData:
    """Probability (..., Y, X) as a layer that waits to be shown; here: where it lies."""
    shown = {"contrast_limits": (0, 1), "colormap": "viridis", "visible": False, "metadata": {MADE: {}}}
    return array, {**here, "name": f"{name} probability", **shown}, "image"
