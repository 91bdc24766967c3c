"""The engine for graphics processors (CUDA, MPS), and for comparison on the CPU: torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from cellbasin.engines.protocol import check_tiles
from cellbasin.network import build
from cellbasin.weights import Weights

PIXELS_AT_ONCE = {"cpu": 8 * 224**2, "cuda": 64 * 224**2, "mps": 16 * 224**2}


class TorchEngine:
    """The network of `cellbasin.network` on a device; bf16 through autocast, maps in channels-last order.

    device: "cpu", "cuda" or "mps"; precision: "float32" or "bf16"; see `Engine`.
    """

    name = "torch"

    def __init__(self, weights: Weights, device: str = "cpu", precision: str = "float32", reason: str = "") -> None:
        self.precision, self.device, self.reason = precision, device, reason
        self.architecture = weights.card.architecture
        self._network = build(weights).to(device, memory_format=torch.channels_last)
        self._process = os.getpid()
        self._lock = threading.Lock()  # one batch on the device at a time bounds its memory

    def run(self, tiles: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        maps = np.empty((len(tiles), self.architecture.outputs, *tiles.shape[2:]), np.float32)
        style = np.empty((len(tiles), self.architecture.channels[-1]), np.float32)
        for chosen, (maps_there, style_there) in self._batches(self._network, tiles):
            maps[chosen], style[chosen] = maps_there, style_there
        return maps, style

    def styles(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine.styles`."""
        style = np.empty((len(tiles), self.architecture.channels[-1]), np.float32)
        for chosen, (style_there,) in self._batches(lambda batch: (self._network.encode(batch)[1],), tiles):
            style[chosen] = style_there
        return style

    def _batches(
        self, run: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], tiles: NDArray[np.float32]
    ) -> Iterator[tuple[slice, list[NDArray[np.float32]]]]:
        """What `run` gives for tiles, as many at once as the device's memory holds."""
        check_tiles(tiles, self.architecture)
        if self._process != os.getpid():  # a forked process, which would wait for threads that it does not have
            torch.set_num_threads(1)
        step = max(1, PIXELS_AT_ONCE[self.device] // (tiles.shape[2] * tiles.shape[3]))
        bf16 = self.precision == "bf16"
        for start in range(0, len(tiles), step):
            chosen = slice(start, start + step)
            batch = torch.from_numpy(np.ascontiguousarray(tiles[chosen]))
            with self._lock, torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=bf16):
                found = run(batch.to(self.device, memory_format=torch.channels_last))
                answers = [answer.float().cpu().numpy() for answer in found]
            yield chosen, answers
