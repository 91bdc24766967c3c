"""Sections in which both programs are timed in turn: network, conversions between labels and flows, whole pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import inputs
import numpy as np
from bench import OURS, THEIRS, Bench, Row, agreement, paired, stage_ours, stage_theirs
from report import say
from workers import Worker, stage

from cellbasin.engines import find_hardware
from cellbasin.metrics import average_precision
from cellbasin.weights import PAPER

TILES = 8
_NUMBERS = count()
AGREE = 0.98


def network(bench: Bench) -> list[Row]:
    """Milliseconds per tile of 224², in batches of eight."""
    tiles = np.random.default_rng(0).random((TILES, 2, 224, 224), np.float32)
    path = stage(bench.folder, "tiles", tiles=tiles)
    contenders: dict[str, Callable[[], float]] = {}
    if bench.theirs:
        contenders[THEIRS] = _call(bench.theirs, "network", path, name="paper")
    networks = {"paper": bench.paper, "default": bench.default}
    for kind, weights in networks.items():
        for precision in _precisions(weights.can_int8):
            name = f"{kind} {precision}"
            bench.ours.call("load", name=name, model=weights.file, precision=precision)
            contenders[f"{OURS} {_title(bench, kind)} {precision}"] = _call(bench.ours, "network", path, name=name)
    for warm_up in contenders.values():
        warm_up()
    seconds = paired(contenders, 3 if bench.quick else 7, 60)
    return [Row("network", "one tile of 224²", seconds, "ms", TILES)]


def _precisions(can_int8: bool) -> list[str]:
    return ["float32", *(["bf16"] if find_hardware().has_bf16 else []), *(["int8"] if can_int8 else [])]


def _title(bench: Bench, kind: str) -> str:
    if kind == "paper":
        return "paper"
    return "default (paper's)" if bench.default.architecture == PAPER else "default (half-resolution)"


def conversions(bench: Bench) -> list[Row]:
    """Flows → labels with quality control, labels → flows, and labels → outlines."""
    _warm_up(bench)
    rows = []
    for field in _fields((512,) if bench.quick else (512, 1024, 2048)):
        say(f"  {field}")
        mine, other = _stage_both(bench, field.labels)
        rows.append(_timed(bench, f"flows → labels: {field}", "flows_to_labels", mine, other, field.labels))
        labels = stage(bench.folder, f"labels-{next(_NUMBERS)}", labels=field.labels)
        rows.append(_timed(bench, f"labels → flows: {field}", "labels_to_flows", labels, labels))
        rows.append(_timed(bench, f"labels → outlines: {field}", "labels_to_outlines", labels, labels))
    field = inputs.generated(512 if bench.quick else 1024)
    mine, other = _stage_both(bench, field.labels, inputs.predicted_like)
    case = f"blurred, noisy flows → labels: {field}"
    rows.append(_timed(bench, case, "flows_to_labels", mine, other, field.labels))
    return rows


def _warm_up(bench: Bench) -> None:
    """Compile what is compiled at first use."""
    field = inputs.generated(128)
    mine, other = _stage_both(bench, field.labels)
    labels = stage(bench.folder, "warm-up-labels", labels=field.labels)
    for worker, maps in ((bench.ours, mine), (bench.theirs, other)):
        if worker:
            worker.call("flows_to_labels", maps)
            worker.call("labels_to_flows", labels)
            worker.call("labels_to_outlines", labels)


def _stage_both(
    bench: Bench, labels: np.ndarray, maps: Callable[..., Any] = inputs.true_maps, **more: np.ndarray
) -> tuple[Path, Path]:
    flow, probability = maps(labels)
    name = f"maps-{next(_NUMBERS)}"
    return (
        stage_ours(bench.folder, name, flow, probability, **more),
        stage_theirs(bench.folder, name, flow, probability, **more),
    )


def _fields(sizes: tuple[int, ...]) -> list[inputs.Field]:
    found = [inputs.generated(size) for size in sizes]
    for size in sizes:
        field = inputs.real(size)
        if field is None:
            say(f"  real image of {size}²: skipped, no data set in {inputs.data_root()} (set CELLBASIN_DATA)")
        else:
            found.append(field)
    return found


def _timed(bench: Bench, case: str, op: str, mine: Path, other: Path, truth: np.ndarray | None = None) -> Row:
    kept: dict[str, np.ndarray] = {}
    calls = {OURS: _keeping(kept, OURS, bench.ours, op, mine)}
    if bench.theirs:
        calls[THEIRS] = _keeping(kept, THEIRS, bench.theirs, op, other)
    seconds = paired(calls, 3 if bench.quick else 5, 12)
    note = ""
    if truth is not None:
        note = "; ".join(f"{name} {agreement(truth, labels)}" for name, labels in kept.items())
        note = f"AP@0.5 / 0.9 against the truth: {note}"
    return Row("conversions", case, seconds, note=note)


def pipeline(bench: Bench) -> list[Row]:
    """Image → labels: our default model, and the paper's network with one file of weights on both sides."""
    contenders = _load_models(bench)
    trained = all(network.trained for network in (bench.paper, bench.default))
    if not trained:
        say(
            "  same weights on both sides, and automatic diameter: skipped, they need a trained default model "
            "and --paper-weights FILE; labels are made from the true flows instead of the networks'"
        )
    elif not bench.paper.sized:
        say("  automatic diameter: skipped, the paper's weights have no size model")
    cases, small = _pipeline_cases(bench, trained), inputs.generated(128)
    for dtype in {field.image.dtype for field, _ in cases}:  # compiles what is compiled at first use
        alike = replace(small, image=small.image.astype(dtype))
        _pipeline_row(bench, contenders, alike, small.diameter, trained)
    rows = []
    for field, diameter in cases:
        rows.append(_pipeline_row(bench, contenders, field, diameter, trained))
        say(f"  {rows[-1].case}")
    return rows


def _load_models(bench: Bench) -> dict[str, tuple[Worker, str]]:
    """Contender → (program, name under which its model is loaded)."""
    found = {}
    for name, weights, precision in (
        ("default", bench.default, "auto"),
        ("paper", bench.paper, "auto"),
        ("paper float32", bench.paper, "float32"),
    ):
        answer = bench.ours.call("load", keep=True, name=name, model=weights.file, precision=precision)
        used = str(answer.arrays["precision"])
        if name == "paper" and used == "float32":
            continue
        title = name if name.endswith(used) else f"{name} {used}"
        found[f"{OURS} {title}"] = (bench.ours, name)
    if bench.theirs:
        found[THEIRS] = (bench.theirs, "paper")
    return found


def _pipeline_cases(bench: Bench, trained: bool) -> list[tuple[inputs.Field, float | None]]:
    """Fields and diameters; 2048² with a given diameter is in the section on memory."""
    images: list[inputs.Field | None] = [inputs.generated(512)]
    if not bench.quick:
        images += [inputs.generated(1024), inputs.real(512), inputs.real(1024)]
    fields = [field for field in images if field is not None]
    cases: list[tuple[inputs.Field, float | None]] = [(field, field.diameter) for field in fields]
    if trained and bench.paper.sized:
        more = [] if bench.quick else [inputs.generated(2048)]
        cases += [(field, None) for field in [*fields, *more]]
    return cases


def _pipeline_row(
    bench: Bench,
    models: dict[str, tuple[Worker, str]],
    field: inputs.Field,
    diameter: float | None,
    trained: bool,
) -> Row:
    mine, other = _stage_both(bench, field.labels, image=field.image)
    op = "segment" if trained else "stand_in"
    kept: dict[str, np.ndarray] = {}
    calls = {}
    for title, (worker, name) in models.items():
        if diameter is None and name == "paper float32":
            continue  # slow, and its time with a given diameter says enough
        path = other if worker is bench.theirs else mine
        calls[title] = _keeping(kept, title, worker, op, path, name=name, diameter=diameter)
    seconds = paired(calls, 1 if bench.quick else 3, 20)
    how = "automatic diameter" if diameter is None else "given diameter"
    note = _same_weights_note(kept) if trained else "untrained networks, labels made from true flows"
    return Row("pipeline", f"{field}, {how}", seconds, note=note)


def _same_weights_note(kept: dict[str, np.ndarray]) -> str:
    """How well the programs' masks agree where they use the same weights."""
    if THEIRS not in kept:
        return ""
    notes = []
    for title, labels in kept.items():
        if title.startswith(f"{OURS} paper"):
            found = float(average_precision(kept[THEIRS], labels, (0.5,))[0])
            verdict = "" if found >= AGREE else f", below {AGREE}: NOT a valid comparison"
            notes.append(f"masks of {title} and {THEIRS} agree at AP@0.5 {found:.3f}{verdict}")
    return "; ".join(notes)


def _call(worker: Worker, op: str, path: Path, **args: Any) -> Callable[[], float]:
    return lambda: worker.call(op, path, **args).seconds


def _keeping(
    kept: dict[str, np.ndarray], title: str, worker: Worker, op: str, path: Path, **args: Any
) -> Callable[[], float]:
    """As `_call`, and the labels, if there are any, are kept under the title."""

    def run() -> float:
        answer = worker.call(op, path, keep=True, **args)
        if "labels" in answer.arrays:
            kept[title] = answer.arrays["labels"]
        return answer.seconds

    return run
