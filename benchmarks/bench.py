"""What every section of the speed benchmark shares: the two programs, paired timing, rows and tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from report import markdown, say
from upstream import export, start_ours, start_theirs
from workers import Worker, stage

from cellbasin.metrics import average_precision
from cellbasin.network_outputs import FLOW_SCALE, logit_of
from cellbasin.weights import HALF, PAPER, Architecture, WeightsError, load_weights

THEIRS = "cellpose"
OURS = "cellbasin"


@dataclass(frozen=True)
class Network:
    """A weights file of ours.

    trained: what it finds means something, so that whole pipelines can be compared. sized: it has a size model.
    """

    file: str
    trained: bool
    sized: bool
    architecture: Architecture
    can_int8: bool


@dataclass
class Bench:
    """One run: both programs (`theirs` is None without a rival), files, and how much to do.

    quick: small sizes and few repeats.
    """

    folder: Path
    rival_python: Path | None
    quick: bool
    default_model: str
    paper_file: Path | None
    ours: Worker = field(init=False)
    theirs: Worker | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.ours = start_ours(self.folder)
        self.theirs = self.start_rival()
        self.default = self._network("half", self.default_model)
        self.paper = self._network("paper", self.paper_file)
        if self.theirs:
            export(self.paper.file, self.folder / "paper")
            self.theirs.call("load", name="paper", model=str(self.folder / "paper"))

    def start_rival(self) -> Worker | None:
        """A fresh process of the rival, where there is one."""
        return start_theirs(self.rival_python, self.folder) if self.rival_python else None

    def start_fresh(self) -> Worker:
        """A fresh process of this package."""
        return start_ours(self.folder)

    def close(self) -> None:
        """End both programs."""
        self.ours.close()
        if self.theirs:
            self.theirs.close()

    def _network(self, kind: str, wanted: str | Path | None) -> Network:
        try:
            weights = load_weights(wanted) if wanted else None
        except WeightsError as error:
            if wanted != "general":
                raise
            say(f"note: {error}")
            weights = None
        if weights is not None:
            card = weights.card
            return Network(str(wanted), True, bool(card.size_model), card.architecture, bool(card.ranges))
        file = self.folder / f"random-{kind}.safetensors"
        with self.start_fresh() as worker:
            worker.call("random_weights", path=str(file), network=kind, seed=1)
        say(f"note: no trained weights for the {kind} network: random ones are timed, what they find means nothing")
        return Network(str(file), False, False, PAPER if kind == "paper" else HALF, True)


def stage_ours(folder: Path, name: str, flow: np.ndarray, probability: np.ndarray, **more: np.ndarray) -> Path:
    """A file with maps as ours takes them: unit flow and probability."""
    return stage(folder, f"{name}-ours", flow=flow, probability=probability, **more)


def stage_theirs(folder: Path, name: str, flow: np.ndarray, probability: np.ndarray, **more: np.ndarray) -> Path:
    """A file with maps as theirs takes them: 5 x flow and logit."""
    logit = logit_of(probability).astype(np.float32)
    return stage(folder, f"{name}-theirs", maps=FLOW_SCALE * flow, logit=logit, **more)


@dataclass
class Row:
    """One line of the report.

    seconds: all measured times by contender. unit, per: how times are shown, and how many things were done in one.
    note: what else is known, such as how well the results agree.
    """

    section: str
    case: str
    seconds: dict[str, list[float]]
    unit: str = "s"
    per: int = 1
    note: str = ""

    def ratio(self, name: str) -> float | None:
        """Median of the rival's time over this contender's in the same round."""
        theirs = self.seconds.get(THEIRS)
        if not theirs or name == THEIRS:
            return None
        return median(other / own for other, own in zip(theirs, self.seconds[name], strict=True))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        ratios = {name: self.ratio(name) for name in self.seconds if name != THEIRS}
        return {**asdict(self), "median": {k: median(v) for k, v in self.seconds.items()}, "ratio": ratios}

    def lines(self) -> list[list[str]]:
        """Lines of the Markdown table, one for each contender; the note stands in the first."""
        scale = {"s": 1.0, "ms": 1e3}[self.unit] / self.per
        lines: list[list[str]] = []
        for name, values in self.seconds.items():
            ratio = self.ratio(name)
            shown = f"{scale * median(values):.3g} {self.unit}"
            note = "" if lines else self.note
            lines.append([self.case, name, shown, f"{ratio:.1f}×" if ratio else "", str(len(values)), note])
        return lines


def paired(contenders: Mapping[str, Callable[[], float]], repeats: int, budget: float = 25.0) -> dict[str, list[float]]:
    """Time contenders in turn, so that whatever else the machine does meets them all.

    Each returns its seconds. Every round begins with another one, the first with the rival. What is much faster than
    the slowest runs up to five times in a round, for a tenth of the slowest's time at most, and the median counts.
    Stops after `repeats` rounds or, once there is one, when the next would exceed the budget in seconds.
    """
    names = sorted(contenders, key=lambda name: name != THEIRS)
    found: dict[str, list[float]] = {name: [] for name in names}
    slowest = 0.0
    started = time.perf_counter()
    for number in range(repeats):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times = [contenders[name]()]
            while len(times) < 5 and sum(times) + times[-1] < 0.1 * slowest:
                times.append(contenders[name]())
            found[name].append(median(times))
            slowest = max(slowest, times[0])
        spent = time.perf_counter() - started
        if spent * (number + 2) / (number + 1) > budget:
            break
    return found


def agreement(truth: np.ndarray, predicted: np.ndarray) -> str:
    """AP at 0.5 and 0.9 as text."""
    found = average_precision(truth, predicted, (0.5, 0.9))
    return f"{found[0]:.3f} / {found[1]:.3f}"


def row_table(rows: Sequence[Row]) -> str:
    """The rows of one section."""
    lines = [line for row in rows for line in row.lines()]
    return markdown(["case", "program", "median", "rival / ours", "repeats", "note"], lines)
