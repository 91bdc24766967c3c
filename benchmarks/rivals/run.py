"""Train a rival, let it segment the test images, and score it: one command, again after every stop.

    python benchmarks/rivals/run.py stardist --minutes 180      sets up its environment, goes on or begins
    python benchmarks/rivals/run.py stardist --minutes 60 --only dsb2018 --bright --out output/rivals/stardist-dsb2018
    python benchmarks/rivals/run.py stardist --diameter true --stages predict,score
    python benchmarks/rivals/run.py cellpose3 --minutes 5 --limit 2 --out output/rivals/try

A run that was stopped goes on from its last checkpoint when the same command is given again; more --minutes make it
longer. The result goes to docs/results/METHOD.json and the log to docs/runs/rivals/, or, of a part of the data (--only,
--limit), the result to OUT alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from data import export_all
from images import FOLDER, ROOT
from report import say
from results import RESULTS
from runs import handed_on, options, predictions
from score import keep, print_means
from upstream import DEFAULT_ENVIRONMENT, PACKAGES, set_up

from cellbasin.engines.hardware import find_hardware

HERE = Path(__file__).parent
LOGS = ROOT / "docs" / "runs" / "rivals"
STAGES = ("data", "train", "predict", "score")


@dataclass(frozen=True)
class Rival:
    """script: in this folder; environment: folder beside the project's files; packages: what pip installs there."""

    script: str
    environment: str
    packages: tuple[str, ...]


RIVALS = {
    "stardist": Rival(
        "stardist2d.py",
        ".venv-stardist",
        ("tensorflow-cpu==2.15.1", "stardist==0.9.2", "csbdeep==0.8.2", "numpy==1.26.4"),
    ),
    "cellpose3": Rival("cellpose3.py", DEFAULT_ENVIRONMENT.name, PACKAGES),
    "maskrcnn": Rival(
        "maskrcnn.py", ".venv-maskrcnn", ("torch==2.14.1", "torchvision==0.29.1", "numba==0.68.1", "scipy==1.17.1")
    ),
}


def main() -> int:
    wanted = _arguments()
    rival = RIVALS[wanted.rival]
    wanted.out = wanted.out or ROOT / "output" / "rivals" / wanted.rival
    wanted.precision = wanted.precision or ("bf16" if find_hardware().has_bf16 else "float32")
    stages = wanted.stages.split(",")
    unknown = sorted(set(stages) - set(STAGES))
    if unknown:
        say(f"found stage {', '.join(unknown)}; expected some of {', '.join(STAGES)}")
        return 2
    if "data" in stages:
        export_all(FOLDER)
    if {"train", "predict"} & set(stages):
        python = set_up(ROOT / rival.environment, rival.packages)
        for stage in ("train", "predict"):
            if stage in stages:
                _run(python, rival, [stage, *handed_on(wanted)])
    if "score" in stages:
        told = "-true-diameter" if wanted.diameter == "true" else ""
        part = bool(wanted.only or wanted.limit or wanted.bright)
        result = keep(wanted.rival + told, predictions(wanted), wanted.out if part else RESULTS, everything=not part)
        if not part:
            shutil.copyfile(wanted.out / "log.jsonl", LOGS / f"{wanted.rival}.jsonl")
        print_means(result)
    return 0


def _run(python: Path, rival: Rival, arguments: list[str]) -> None:
    """Run a rival's script in its environment, with this project's source and a cache of compiled code of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["PYTHONPATH"] = str(ROOT / "src")
    environment["NUMBA_CACHE_DIR"] = str(ROOT / rival.environment / "numba-cache")
    done = subprocess.run([python, HERE / rival.script, *arguments], env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[options()]
    )
    parser.add_argument("rival", choices=sorted(RIVALS))
    parser.add_argument("--stages", default=",".join(STAGES), help="some of data,train,predict,score")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
