"""benchmarks/recipes.py: changes are settings that exist, and a change counts only beyond the baseline's spread."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import pytest
import recipes
import short_runs

from cellbasin.training.recipe import RECIPES


def line(name: str, value: float, equal: str = "crops", core_hours: float = 0.3) -> dict:
    scores = {f"ap{t}": [value, value - 0.1] for t in (50, 75, 90)}
    cost = {"crops": 900, "core_hours": core_hours, "minutes": 40.0}
    return {"name": name, "equal": equal, "budget": 800, **cost, **scores}


def test_every_change_differs_from_the_baseline_in_what_the_recipe_has():
    base = RECIPES["general"]
    for name, change in recipes.CHANGES.items():
        changed = replace(base, **change.settings)  # raises for a setting that does not exist
        assert name == "baseline-0" or changed != base or change.architecture != recipes.HALF or change.without
        assert set(change.without) < set(recipes.KINDS)


@pytest.mark.parametrize("name", ["baseline-0", "crops-224"])
def test_every_run_sees_as_many_crops_whatever_its_batches(name):
    recipe = replace(RECIPES["general"], **recipes.CHANGES[name].settings)
    for images in (900, 1500):
        steps = round(recipes.passes(recipe, images, 10_000) * (images // recipe.schedule[-1][2]))
        ends = [*(begin for begin, _, _ in recipe.schedule[1:]), 1.0]
        seen = 0
        for step in range(steps):
            seen += next(count for end, (_, _, count) in zip(ends, recipe.schedule, strict=True) if step / steps < end)
        assert abs(seen - 10_000) < 30


def test_a_change_counts_beyond_twice_the_spread():
    lines = [line(f"baseline-{k}", value) for k, value in enumerate((0.50, 0.51, 0.52))]
    text = recipes.table([*lines, line("contacts-4", 0.529), line("planes-0", 0.532)])
    assert "0.510 ± 0.010" in text
    assert "| contacts-4 | crops | 900 | 0.30 | 0.529 | 0.429 |" in text
    assert "| planes-0 | crops | 900 | 0.30 | **0.532** | **0.432** |" in text
    alone = recipes.table([lines[0], line("contacts-4", 0.9)])
    assert "**0.9" not in alone  # one run has no spread


def test_runs_that_were_made_are_not_made_again_and_one_that_fails_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "LINES", tmp_path / "lines.jsonl")
    (tmp_path / "lines.jsonl").write_text(f"{json.dumps(line('baseline-0', 0.5))}\n")
    started = []
    monkeypatch.setattr(
        short_runs.subprocess,
        "run",
        lambda command, **_: started.append(command[4]) or SimpleNamespace(returncode=command[4] == "contacts-4"),
    )
    wanted = SimpleNamespace(minutes=60, jobs=1, crops=800, equal="crops")
    recipes.run_all(["baseline-0", "contacts-4", "planes-0"], wanted)
    assert started == ["contacts-4", "planes-0"]
    recipes.run_all(["contacts-4"], SimpleNamespace(**{**vars(wanted), "minutes": 39}))  # the baseline took 40
    assert len(started) == 2


def test_at_equal_hours_only_what_costs_more_or_less_is_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "LINES", tmp_path / "lines.jsonl")
    lines = [line("baseline-0", 0.5), line("stem-1", 0.5, core_hours=0.9), line("planes-0", 0.5, core_hours=0.31)]
    assert recipes.cost("stem-1", lines) == pytest.approx(3)
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    started = []
    monkeypatch.setattr(
        short_runs.subprocess, "run", lambda command, **_: started.append(command) or SimpleNamespace(returncode=0)
    )
    wanted = SimpleNamespace(minutes=60, jobs=1, crops=800, equal="hours")
    recipes.run_all(["baseline-0", "stem-1", "planes-0", "refine-0"], wanted)
    assert [command[4] for command in started] == ["stem-1"]
    assert started[0][-2:] == ["--equal", "hours"]
