"""The CPU engine: OpenVINO runs the graph that `graph.py` builds from the weights file."""

from __future__ import annotations

import ctypes
import os
import queue
import threading
import weakref

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from cellbasin.engines.graph import build_graph, style_graph
from cellbasin.engines.protocol import check_tiles
from cellbasin.parallel import parallel_map, thread_count
from cellbasin.weights import Weights

# OpenVINO's name of the type that everything not quantised is computed in.
HINTS = {"float32": "f32", "bf16": "bf16", "int8": "f32"}

# Kernels made for a tile's shape are kept for the next tile of that shape; without a bound, many small images of
# different sizes would cost 3 MB each.
KERNELS_KEPT = 300

_GRAPHS = {"maps": build_graph, "style": style_graph}
_ENGINES: weakref.WeakSet[OpenVINOEngine] = weakref.WeakSet()


class CompiledGraph:
    """A graph made ready for the processor, with one request a thread."""

    def __init__(self, graph: ov.Model, precision: str) -> None:
        core, threads, hint = ov.Core(), thread_count(), HINTS[precision]
        if precision == "int8" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            hint = "bf16"
        self.model = core.compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": hint,
                "NUM_STREAMS": threads,
                "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False,
                "CPU_RUNTIME_CACHE_CAPACITY": KERNELS_KEPT,
            },
        )
        self._requests: queue.SimpleQueue[ov.InferRequest] = queue.SimpleQueue()
        for _ in range(threads):
            self._requests.put(self.model.create_infer_request())

    def run(self, tiles: NDArray[np.float32], *answers: NDArray[np.float32]) -> None:
        """Fill arrays (N, ...), one an output of the graph, with what it gives for tiles (N, inputs, Y, X)."""

        def run_tile(n: int) -> None:
            request = self._requests.get()
            try:
                request.infer({0: np.ascontiguousarray(tiles[n : n + 1])}, share_inputs=True)
                for output, answer in enumerate(answers):
                    answer[n] = request.get_output_tensor(output).data[0]
            finally:
                self._requests.put(request)

        parallel_map(run_tile, range(len(tiles)))


class OpenVINOEngine:
    """One tile per request and one request per thread: a tile's maps stay near the processor, and its result
    depends neither on the number of threads nor on the other tiles. A forked process, which has none of the threads
    that OpenVINO waits for, builds the network anew.

    precision: "float32", "bf16" or "int8" (needs `weights.card.ranges`); see `Engine`.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, weights: Weights, precision: str = "float32", reason: str = "") -> None:
        self.precision, self.reason = precision, reason
        self.architecture = weights.card.architecture
        self._weights, self._building = weights, threading.Lock()
        self._compiled: dict[str, CompiledGraph] = {}
        self.compiled("maps")
        _ENGINES.add(self)

    def compiled(self, answer: str) -> CompiledGraph:
        """The network that gives "maps" and the style, or "style" alone; made when it is first wanted."""
        with self._building:
            if answer not in self._compiled:
                ranges = self._weights.card.ranges if self.precision == "int8" else None
                self._compiled[answer] = CompiledGraph(_GRAPHS[answer](self._weights, ranges), self.precision)
            return self._compiled[answer]

    def run(self, tiles: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        check_tiles(tiles, self.architecture)
        maps = np.empty((len(tiles), self.architecture.outputs, *tiles.shape[2:]), np.float32)
        style = np.empty((len(tiles), self.architecture.channels[-1]), np.float32)
        self.compiled("maps").run(tiles, maps, style)
        return maps, style

    def styles(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine.styles`."""
        check_tiles(tiles, self.architecture)
        style = np.empty((len(tiles), self.architecture.channels[-1]), np.float32)
        self.compiled("style").run(tiles, style)
        return style

    def forget(self) -> None:
        """Let go of the network without taking it down, for which OpenVINO needs the threads that it was built with."""
        for graph in self._compiled.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(graph))  # never freed
        self._compiled, self._building = {}, threading.Lock()


def _forget_networks() -> None:
    """A forked process has none of its parent's threads: it would hang or be aborted with what its parent has built."""
    for engine in list(_ENGINES):
        engine.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_networks)
