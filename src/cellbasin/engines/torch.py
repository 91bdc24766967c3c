"""The engine for graphics processors (CUDA, MPS), and for comparison on the CPU: torch."""

from __future__ import annotations

import os
import threading

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
        check_tiles(tiles, self.architecture)
        if self._process != os.getpid():  # a forked process, which would wait for threads that it does not have
            torch.set_num_threads(1)
        maps = np.empty((len(tiles), self.architecture.outputs, *tiles.shape[2:]), np.float32)
        style = np.empty((len(tiles), self.architecture.channels[-1]), np.float32)
        step = max(1, PIXELS_AT_ONCE[self.device] // (tiles.shape[2] * tiles.shape[3]))
        for start in range(0, len(tiles), step):
            chosen = slice(start, start + step)
            with self._lock:
                maps[chosen], style[chosen] = self._batch(tiles[chosen])
        return maps, style

    def _batch(self, tiles: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        batch = torch.from_numpy(np.ascontiguousarray(tiles)).to(self.device, memory_format=torch.channels_last)
        with (
            torch.inference_mode(),
            torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            maps, style = self._network(batch)
        return maps.float().cpu().numpy(), style.float().cpu().numpy()
