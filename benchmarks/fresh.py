"""Sections in which every figure comes from a fresh process: peak memory, start-up, growth with the image."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import inputs
import numpy as np
import tifffile
from bench import OURS, THEIRS, Bench, Row, paired, stage_ours, stage_theirs
from report import markdown, say
from workers import Worker

MIB = 2**20


def memory(bench: Bench) -> list[list[str]]:
    """Time and peak memory of the whole pipeline with a given diameter, one image in a fresh process."""
    lines = []
    for size in (512,) if bench.quick else (512, 1024, 2048):
        field = inputs.generated(size)
        maps = (bench.folder, "memory", *inputs.true_maps(field.labels))
        mine, other = stage_ours(*maps, image=field.image), stage_theirs(*maps, image=field.image)
        op = "segment" if bench.default.trained and bench.paper.trained else "stand_in"
        own = _peak(bench.start_fresh(), bench.default.file, op, mine, field.diameter)
        cells = [str(field), f"{own[0]:.2f}", f"{own[1] / MIB:.0f}"]
        worker = bench.start_rival()
        if worker:
            theirs = _peak(worker, str(bench.folder / "paper"), op, other, field.diameter)
            cells += [f"{theirs[0]:.2f}", f"{theirs[1] / MIB:.0f}"]
            cells += [f"{theirs[0] / own[0]:.1f}×", f"{theirs[1] / own[1]:.2f}×"]
        lines.append(cells)
        say(f"  {' · '.join(cells)}")
    return lines


def _peak(worker: Worker, model: str, op: str, path: Path, diameter: float) -> tuple[float, int]:
    """Seconds and bytes; compiled code comes from its cache, the model is loaded before."""
    with worker:
        worker.call("load", name="model", model=model)
        seconds = worker.call(op, path, name="model", diameter=diameter).seconds
        return seconds, int(worker.call("peak", keep=True).arrays["bytes"])


def startup(bench: Bench) -> list[Row]:
    """`import`, and the command line from its start to the written mask of one image of 512²."""
    image = bench.folder / "start" / "cells.tif"
    image.parent.mkdir(exist_ok=True)
    tifffile.imwrite(image, inputs.generated(512).image[0])
    repeats = 2 if bench.quick else 3
    cache = bench.folder / "compiled"
    ours = [sys.executable, "-m", "cellbasin", "segment", str(image), "--model", bench.default.file]
    ours += ["--out", str(bench.folder), "--diameter", "30", "--quiet"]
    cached = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    imports = {OURS: lambda: _seconds([sys.executable, "-c", "import cellbasin"], cached)}
    bare = {OURS: lambda: _seconds([sys.executable, "-c", ""], cached)}
    first = _seconds(ours, cached)
    again = {OURS: lambda: _seconds(ours, cached)}
    estimated = [part if part != "30" else "auto" for part in ours]
    automatic = {OURS: lambda: _seconds(estimated, cached)}
    if bench.rival_python:
        python = str(bench.rival_python)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        theirs = [python, "-m", "cellpose", "--image_path", str(image), "--pretrained_model"]
        theirs += [str(bench.folder / "paper.pth"), "--diameter", "30", "--chan", "0", "--save_tif", "--no_npy"]
        imports[THEIRS] = lambda: _seconds([python, "-c", "import cellpose.models"], clean)
        again[THEIRS] = lambda: _seconds(theirs, clean)
    untrained = "" if bench.default.trained else "untrained network"
    return [
        Row("start-up", "Python alone, for comparison", paired(bare, repeats)),
        Row("start-up", "import (with Python itself)", paired(imports, repeats)),
        Row("start-up", "first mask ever, nothing compiled yet", {OURS: [first]}, note=untrained),
        Row("start-up", "first mask, given diameter", paired(again, repeats), note=untrained),
        Row("start-up", "first mask, automatic diameter", paired(automatic, repeats), note=untrained),
    ]


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return time.perf_counter() - started


def scaling(bench: Bench) -> list[list[str]]:
    """Our time and memory by size, and by number of objects at one size."""
    lines = []
    for size in (512, 1024) if bench.quick else (512, 1024, 2048, 4096, 8192):
        lines.append(_scale_line(bench, inputs.tiled(size)))
    for diameter in (60.0, 15.0, 7.5):
        lines.append(_scale_line(bench, inputs.tiled(512 if bench.quick else 2048, diameter)))
    empty = inputs.tiled(512 if bench.quick else 2048)
    nothing = inputs.Field("empty", np.zeros_like(empty.image), np.zeros_like(empty.labels), inputs.DIAMETER)
    lines.append(_scale_line(bench, nothing))
    return lines


def _scale_line(bench: Bench, field: inputs.Field) -> list[str]:
    """Dynamics on true flows; then the pipeline at the diameter of the model, so that every size has as many tiles."""
    mine = stage_ours(bench.folder, "scale", *inputs.true_maps(field.labels), image=field.image)
    warm = inputs.generated(256)
    small = stage_ours(bench.folder, "scale-warm-up", *inputs.true_maps(warm.labels), image=warm.image)
    megapixels = field.labels.size / 1e6
    cells = [str(field), f"{megapixels:.2f}"]
    for op in ("flows_to_labels", "segment" if bench.default.trained else "stand_in"):
        with bench.start_fresh() as worker:
            arguments: dict[str, Any] = (
                {} if op == "flows_to_labels" else {"name": "model", "diameter": inputs.DIAMETER}
            )
            if op != "flows_to_labels":
                worker.call("load", name="model", model=bench.default.file)
            worker.call(op, small, **arguments)
            base = int(worker.call("peak", keep=True).arrays["bytes"])
            seconds = worker.call(op, mine, **arguments).seconds
            peak = int(worker.call("peak", keep=True).arrays["bytes"]) - base
        cells += [
            f"{seconds:.3f}",
            f"{seconds / megapixels:.3f}",
            f"{peak / MIB:.0f}",
            f"{peak / MIB / megapixels:.0f}",
        ]
    say(f"  {' · '.join(cells)}")
    return cells


def memory_table(lines: list[list[str]]) -> str:
    """Markdown."""
    columns = [f"{OURS} s", f"{OURS} MiB", f"{THEIRS} s", f"{THEIRS} MiB", "time: rival / ours", "memory: rival / ours"]
    return markdown(["whole pipeline, given diameter", *columns[: len(lines[0]) - 1]], lines)


def scaling_table(lines: list[list[str]]) -> str:
    """Markdown."""
    one = ["s", "s/Mpx", "more MiB", "MiB/Mpx"]
    header = ["field", "Mpx", *(f"flows → labels {unit}" for unit in one), *(f"pipeline {unit}" for unit in one)]
    return markdown(header, lines)
