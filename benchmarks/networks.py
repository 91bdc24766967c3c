"""Train the networks that `general` is compared with, and score them: specialists, and those that lack a category.

    python benchmarks/networks.py list                      what there is, and how far it is
    python benchmarks/networks.py train --minutes 140       begin or go on, in their order, one network per core
    python benchmarks/networks.py train --only nuclei       some of them
    python benchmarks/networks.py score                     finished ones on the test images: docs/results/networks/
    python benchmarks/networks.py page                      docs/networks.md, from docs/results/ alone

Weights, checkpoints and logs are in output/networks/, which is not tracked. Every network's card lists the sources that
it and its ancestors have seen, and so do NAME.manifest.json beside it and the result that `score` keeps; `page`
refuses one that has seen what it is said to lack. A network that goes on from another has a copy of that beside it
(NAME.start.safetensors), so that a run in parts has one ancestor even where `general` is replaced in between.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from inputs import data_root
from looks import log_look
from networks_page import CATEGORIES, SPECIALITIES, write_page
from networks_page import FOLDER as RESULTS
from report import command_line, markdown, say
from results import load, of_model
from trust import evaluate_with_trust

from cellbasin.atomic import atomic
from cellbasin.io import read_index
from cellbasin.model import load_model
from cellbasin.weights import Weights, WeightsError, find_model, load_weights

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "output" / "networks"
LEAST = 5.0  # minutes of training that are worth beginning
FINISH = 30.0  # minutes of a session that are kept for what comes after training: it is made in one go, or anew


@dataclass(frozen=True)
class Plan:
    """minutes: of training on one core; words: of `cellbasin train`."""

    minutes: float
    words: tuple[str, ...]


PLANS = {
    "research": Plan(60, ("--recipe", "research", "--from", "general", "--learning-rate", "0.0005")),
    "nuclei": Plan(60, ("--recipe", "nuclei")),
    **{f"{one}-alone": Plan(60, ("--recipe", "general", "--only", one)) for one in SPECIALITIES},
    **{f"{one}-tuned": Plan(60, ("--recipe", "general", "--only", one, "--from", "general")) for one in SPECIALITIES},
    **{
        f"without-{name}": Plan(120, ("--recipe", "general", "--exclude", ",".join(sources)))
        for name, sources in CATEGORIES.items()
    },
    "general-2": Plan(180, ("--recipe", "general", "--seed", "7")),
}


def main() -> int:
    arguments = _arguments()
    names = arguments.only or list(PLANS)
    if arguments.what == "list":
        print(
            markdown(["network", "state", "cellbasin train"], [[n, state(n), " ".join(PLANS[n].words)] for n in names])
        )
    elif arguments.what == "train":
        train_all(names, arguments.minutes, arguments.jobs)
    elif arguments.what == "score":
        for name in names:
            score(name)
    elif any(RESULTS.glob("*.json")):
        say(f"written to {write_page()}")
    else:
        say(f"{RESULTS}: found no network; expected some: train and score them first")
    return 0


def finished(name: str) -> Weights | None:
    """The weights of a network that has been trained for the planned minutes and knows sizes."""
    try:
        weights = load_weights(OUTPUT / f"{name}.safetensors")
    except WeightsError:
        return None
    card = weights.card
    return weights if card.size_model and card.recipe["minutes"] >= PLANS[name].minutes else None


def state(name: str) -> str:
    """In words."""
    if finished(name):
        return "scored" if (RESULTS / f"{name}.json").exists() else "trained"
    return "begun" if (OUTPUT / f"{name}.checkpoint.pt").exists() else "not begun"


def train_all(names: Sequence[str], minutes: float, jobs: int) -> None:
    """Train what is not finished, `jobs` at a time, until the session's minutes are over."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda name: _train(name, end, threads), names))


def _train(name: str, end: float, threads: int) -> None:
    left = (end - time.monotonic()) / 60 - FINISH
    if finished(name) or left < LEAST:
        return
    say(f"{name}: {left:.0f} minutes of training left in this session")
    words = ["--out", str(OUTPUT / f"{name}.safetensors"), "--minutes", f"{PLANS[name].minutes:g}", *words_of(name)]
    words += ["--session-minutes", f"{left:.1f}", "--validate-every", "30"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (OUTPUT / f"{name}.out").open("a") as out:
        command = [sys.executable, "-m", "cellbasin", "train", str(data_root()), *words]
        done = subprocess.run(command, env=environment, stdout=out, stderr=out, check=False)
    say(f"{name}: {state(name) if not done.returncode else f'failed, see {out.name}'}")
    if weights := finished(name):
        write_manifest(weights, OUTPUT / f"{name}.manifest.json")


def words_of(name: str) -> list[str]:
    """The words of a plan; the network to go on from is copied when the run begins, and is that copy from then on."""
    words = list(PLANS[name].words)
    if "--from" in words:
        place, copy = words.index("--from") + 1, OUTPUT / f"{name}.start.safetensors"
        if not copy.exists():
            with atomic(copy) as temporary:
                shutil.copyfile(find_model(words[place]), temporary)
        words[place] = str(copy)
    return words


def write_manifest(weights: Weights, path: Path) -> None:
    """All that a network has learned from: its own sources and those of its ancestors, oldest first."""
    card = weights.card
    networks = [*card.ancestors, {"name": card.name, "sha256": weights.sha256, "sources": list(card.sources)}]
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({"seen": list(card.seen), "networks": networks}, indent=1) + "\n")


def score(name: str) -> None:
    """Score a finished network on the test images, unless these very weights have been."""
    weights, kept = finished(name), RESULTS / f"{name}.json"
    if weights is None:
        say(f"{name}: {state(name)}, not scored")
        return
    if kept.exists() and load(kept).settings["weights"] == weights.sha256:
        return
    say(name)
    model = load_model(OUTPUT / f"{name}.safetensors")
    found, trust, _ = evaluate_with_trust(model, read_index(data_root(), "test"))
    log_look(model, found, "auto")
    of_model(model, name, found, trust, hours=hours_of(weights)).save(RESULTS)


def hours_of(weights: Weights) -> float | None:
    """Of training with all ancestors, where the last of these is `general` as it was scored; else None: the cards tell.

    Not all ancestors of `general` say in their cards how long they were trained; its result does.
    """
    card, kept = weights.card, RESULTS.parent / "general.json"
    if not card.ancestors or not kept.exists():
        return None
    general = load(kept)
    same = general.settings["weights"] == card.ancestors[-1]["sha256"]
    return general.training_hours + card.recipe["hours"] if same else None


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("what", choices=("list", "train", "score", "page"))
    parser.add_argument("--only", nargs="+", default=[], choices=PLANS, metavar="NAME", help="these networks")
    parser.add_argument("--minutes", type=float, default=140, help="length of this session of training")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="networks trained at a time")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
