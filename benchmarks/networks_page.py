"""docs/networks.md: specialists against the generalist, and what networks do with kinds of images they never saw.

From docs/results/general.json and docs/results/networks/ alone; networks that are not there yet are left out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from report import markdown
from results import RESULTS, MethodResult, load

from cellbasin.evaluation import SHOWN, Evaluation

PAGE = Path(__file__).parent.parent / "docs" / "networks.md"
FOLDER = RESULTS / "networks"
# Sources by what they show; networks `without-NAME` have never seen them.
CATEGORIES = {
    "nuclei": ("dsb2018", "isbi2009"),
    "cells": ("neuroblastoma", "bbbc030", "usiigaci", "codex", "junctions", "endothelium"),
    "other-microscopy": ("axons", "nanocubes", "powder", "spheroidite"),
    "non-microscopy": ("granulates", "mushrooms", "pebbles"),
}
# Networks SOURCE-alone and SOURCE-tuned have learned from that source at last.
SPECIALITIES = ("neuroblastoma", "usiigaci")
FEW = 4  # sources that a table has room for
HEAD = """# Generalist and specialists

Written by `python benchmarks/networks.py page` from [results/](results/); `benchmarks/networks.py` trains and scores
the networks. All are tested on the same images as [the methods](comparison.md), with automatic diameter; average
precision as mean over images with 95 % bootstrap intervals. Hours are of the clock and include those of ancestors;
those of `general` are partly of two cores, all others of one. Processors differ sixfold in what they do in an hour, so
that crops (of 160², at the end 224² pixels) tell more.
"""


def write_page(results: Path = RESULTS, page: Path = PAGE) -> Path:
    """Write the page and return it.

    Raises ValueError for a network that has seen what it must lack.
    """
    general = load(results / "general.json")
    networks = {path.stem: load(path) for path in sorted((results / "networks").glob("*.json"))}
    parts = [HEAD, runs(networks), *(specialists(source, general, networks) for source in SPECIALITIES)]
    parts += [nuclei(general, networks, CATEGORIES["nuclei"]), research(general, networks)]
    parts.append(left_out(general, networks))
    page.write_text("\n".join(part for part in parts if part))
    return page


def runs(networks: Mapping[str, MethodResult]) -> str:
    """What each network's own run was, without those of its ancestors."""
    rows = []
    for name, result in networks.items():
        run, ancestors = result.settings["run"], result.settings["ancestors"]
        own = sorted(result.settings["sources"])
        listed = ", ".join(own) if len(own) < FEW else f"{len(own)} sources"
        crops = "-" if run["crops"] is None else f"{run['crops']:,}"
        rows.append([name, listed, "general" if ancestors else "nothing", crops, f"{run['hours'] or math.nan:.2f}"])
    header = ["network", "learned from", "begins with", "crops", "hours"]
    return f"## Runs\n\n{markdown(header, rows)}\n"


def part_of(result: MethodResult, sources: Collection[str]) -> Evaluation:
    """The images of some sources."""
    found = result.evaluation
    return replace(found, images=tuple(image for image in found.images if image.source in sources))


def at(found: Evaluation) -> list[str]:
    """Mean over images at the thresholds that are shown."""
    return [str(found.at(threshold)[0]) for threshold in SHOWN]


def specialists(source: str, general: MethodResult, networks: Mapping[str, MethodResult]) -> str:
    """A network of one source, from nothing and fine-tuned, on its own images and on all (paper, figure 3)."""
    names = [name for name in (f"{source}-alone", f"{source}-tuned") if name in networks]
    if not names:
        return ""
    rows = [
        [name, _hours(result), *at(part_of(result, (source,))), *at(result.evaluation)[:2]]
        for name, result in [("general", general), *((name, networks[name]) for name in names)]
    ]
    header = ["network", "hours", *(f"own: AP@{t}" for t in SHOWN), *(f"all: AP@{t}" for t in SHOWN[:2])]
    return f"## {source}\n\n{markdown(header, rows)}\n"


def nuclei(general: MethodResult, networks: Mapping[str, MethodResult], sources: Collection[str]) -> str:
    """A network of nuclei against the generalist (paper, figure S6)."""
    if "nuclei" not in networks:
        return ""
    pair = {"general": general, "nuclei": networks["nuclei"]}
    rows = [
        [name, _hours(result), str(len(part_of(result, sources).images)), *at(part_of(result, sources))]
        for name, result in pair.items()
    ]
    header = ["network", "hours", "images", *(f"AP@{t}" for t in SHOWN)]
    return f"## Nuclei ({', '.join(sources)})\n\n{markdown(header, rows)}\n"


def research(general: MethodResult, networks: Mapping[str, MethodResult]) -> str:
    """What the source that `general` leaves out for its terms is worth."""
    if "research" not in networks:
        return ""
    more = sorted(set(networks["research"].settings["seen"]) - set(general.settings["seen"]))
    rows = []
    for name, result in (("general", general), ("research", networks["research"])):
        others = part_of(result, set(result.evaluation.sources) - set(more))
        shown = (result.evaluation, others, part_of(result, more))
        rows.append([name, _hours(result), *(value for one in shown for value in at(one)[:2])])
    parts = ("all images", f"without {', '.join(more)}", ", ".join(more))
    header = ["network", "hours", *(f"{part}: AP@{t}" for part in parts for t in SHOWN[:2])]
    return f"## All sources\n\n{markdown(header, rows)}\n"


def left_out(general: MethodResult, networks: Mapping[str, MethodResult]) -> str:
    """Networks none of whose ancestors saw a category, tested on it."""
    rows = []
    for category, sources in CATEGORIES.items():
        result = networks.get(f"without-{category}")
        if result is None:
            continue
        check_unseen(result, sources)
        own = part_of(result, sources)
        trust = result.trust
        error = trust.of(sources).calibration_error if trust else math.nan
        area = trust.novelty_area(sources, result.settings["seen"]) if trust else math.nan
        compared = at(part_of(general, sources))[:2]
        rows.append([category, str(len(own.images)), *at(own)[:2], *compared, f"{error:.3f}", f"{area:.2f}"])
    if not rows:
        return ""
    header = [
        "category",
        "images",
        *(f"never seen: AP@{t}" for t in SHOWN[:2]),
        *(f"general: AP@{t}" for t in SHOWN[:2]),
    ]
    header += ["calibration error", "area under ROC of novelty"]
    listed = "; ".join(f"{name}: {', '.join(sources)}" for name, sources in CATEGORIES.items())
    text = (
        f"{listed}. Images drawn by the generator, nuclei and cells among them, are in every network's training. "
        "Calibration error: of the confidence that objects of the category get, fitted without it. "
        "Novelty: how well the distance of an image's style from those of the training tells the category from "
        "the test images of the sources that the network has learned from ([curves](figures/unseen.png))."
    )
    return f"## Categories never seen\n\n{text}\n\n{markdown(header, rows)}\n"


def check_unseen(result: MethodResult, sources: Collection[str]) -> None:
    """Raise ValueError where a network or an ancestor of it has learned from one of the sources."""
    learned = {*result.settings["seen"], *(s for one in result.settings["ancestors"] for s in one["sources"])}
    seen = sorted(learned & set(sources))
    if seen:
        raise ValueError(
            f"{result.method}: found that it has seen {', '.join(seen)}; expected none of {', '.join(sources)}"
        )


def _hours(result: MethodResult) -> str:
    return "-" if math.isnan(result.training_hours) else f"{result.training_hours:.1f}"
