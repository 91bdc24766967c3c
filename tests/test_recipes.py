"""benchmarks/recipes.py: changes are settings that exist, and a change counts only beyond the baseline's spread."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import recipes

from cellbasin.training.recipe import RECIPES


def line(name: str, value: float) -> dict:
    scores = {f"ap{t}": [value, value - 0.1] for t in (50, 75, 90)}
    return {"name": name, "steps": 800, "crops": 9, "core_hours": 0.3, **scores}


def test_every_change_differs_from_the_baseline_in_what_the_recipe_has():
    base = RECIPES["general"]
    for name, change in recipes.CHANGES.items():
        changed = replace(base, **change.settings)  # raises for a setting that does not exist
        assert name == "baseline-0" or changed != base or change.architecture != recipes.HALF


def test_a_change_counts_beyond_twice_the_spread():
    lines = [line(f"baseline-{k}", value) for k, value in enumerate((0.50, 0.51, 0.52))]
    text = recipes.table([*lines, line("contacts-4", 0.529), line("planes-0", 0.532)])
    assert "0.510 ± 0.010" in text
    assert "| contacts-4 | 800 | 9 | 0.30 | 0.529 | 0.429 |" in text
    assert "| planes-0 | 800 | 9 | 0.30 | **0.532** | **0.432** |" in text
    alone = recipes.table([lines[0], line("contacts-4", 0.9)])
    assert "**0.9" not in alone  # one run has no spread


def test_runs_that_were_made_are_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "LINES", tmp_path / "lines.jsonl")
    (tmp_path / "lines.jsonl").write_text(f"{recipes.json.dumps(line('baseline-0', 0.5))}\n")
    started = []
    monkeypatch.setattr(recipes.subprocess, "run", lambda command, **_: started.append(command[4]))
    wanted = SimpleNamespace(minutes=60, jobs=2, steps=800)
    recipes.run_all(["baseline-0", "contacts-4"], wanted)
    assert started == ["contacts-4"]
    recipes.run_all(["contacts-4"], SimpleNamespace(minutes=recipes.LEAST / 2, jobs=2, steps=800))
    assert len(started) == 1
