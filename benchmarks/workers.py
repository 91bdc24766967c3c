"""Two programs side by side: each runs in a process of its own, does one thing at a time and is asked by JSON lines.

Arrays go through npz files. The child times the operation alone, without reading and writing these files. Both
programs are asked in the same way, so that their times and their peak memory can be compared.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self

import numpy as np

Arrays = dict[str, np.ndarray]
Operation = Callable[..., Mapping[str, Any] | None]


def serve(operations: Mapping[str, Operation]) -> None:
    """The child: read requests from stdin until it closes; whatever else is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    known: dict[str, Operation] = {
        "peak": lambda: {"bytes": peak_memory()},
        "processor_time": lambda: {"seconds": time.process_time()},
        **operations,
    }
    loaded: dict[tuple[str, str], np.ndarray] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _answer(known[request["op"]], request, loaded)
        except Exception:  # noqa: BLE001  the parent raises it
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(operation: Operation, request: dict[str, Any], loaded: dict[tuple[str, str], np.ndarray]) -> dict[str, Any]:
    arrays = _arguments(operation, request["arrays"], loaded) if request["arrays"] else {}
    started = time.perf_counter()
    result = operation(**arrays, **request["args"]) or {}
    seconds = time.perf_counter() - started
    if request["keep"]:
        np.savez(request["keep"], **{name: np.asarray(value) for name, value in result.items()})  # type: ignore[arg-type]
    return {"seconds": seconds}


def _arguments(operation: Operation, path: str, loaded: dict[tuple[str, str], np.ndarray]) -> Arrays:
    """Those arrays of the file that the operation takes; kept until another file is asked for."""
    for key in [key for key in loaded if key[0] != path]:
        del loaded[key]
    arrays = {}
    with np.load(path) as file:
        for name in file.files:
            if name in inspect.signature(operation).parameters:
                if (path, name) not in loaded:
                    loaded[path, name] = file[name]
                arrays[name] = loaded[path, name]
    return arrays


def peak_memory() -> int:
    """Most bytes of memory that this process has held at once.

    Linux keeps VmHWM for each program; getrusage's figure would count the parent's pages too.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class Answer:
    """seconds: of the operation alone. arrays: what it returned, where that was asked for."""

    seconds: float
    arrays: Arrays


class Worker:
    """A child process that runs `serve`; `folder` holds the files of arrays."""

    def __init__(
        self, command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._numbers = count()
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=None if environment is None else dict(environment),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; it may be called twice."""
        if self._process.stdin:
            self._process.stdin.close()
        if self._process.stdout:
            self._process.stdout.close()
        self._process.wait()

    def call(self, op: str, arrays: Path | None = None, *, keep: bool = False, **args: Any) -> Answer:
        """Run one operation on the arrays of a file that `stage` wrote; RuntimeError tells what went wrong in it."""
        kept = self.folder / f"answer-{self._process.pid}-{next(self._numbers)}.npz" if keep else None
        request = {"op": op, "arrays": arrays and str(arrays), "args": args, "keep": kept and str(kept)}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process for {op!r} has ended (exit status {self._process.wait()})")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{op!r} failed:\n{answer['error']}")
        return Answer(answer["seconds"], _take(kept) if kept else {})


def _take(path: Path) -> Arrays:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    path.unlink()
    return arrays


def stage(folder: Path, name: str, **arrays: np.ndarray) -> Path:
    """Write arrays for workers and return the file."""
    path = folder / f"{name}.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path
