"""benchmarks: what a model says of its results is counted right, and the page of networks shows what was measured."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import compare
import failures
import figures
import networks
import networks_page
import results
import trust
from hypothesis import given
from hypothesis import strategies as st

from cellbasin.confidence import calibration_error
from cellbasin.evaluation import Evaluation, are_right, score_labels
from cellbasin.weights import load_weights, save_weights

SOURCES = ("dsb2018", "neuroblastoma", "sartorius")


@pytest.fixture
def told(monkeypatch):
    """Trust in 30 images of 25 squares each, of two sources; the confidences and the truth beside it."""
    rng = np.random.default_rng(1)
    found, confidence, right = trust.Trust(), [], []
    for number in range(30):
        truth = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((6, 6), int))
        labels = np.where(np.isin(truth, rng.choice(25, 9) + 1), 0, truth) + 0
        labels[:3] = np.where(labels[:3] > 0, 30, 0)  # one that is right nowhere
        counted, good = are_right(truth, labels)
        values = rng.uniform(0.4, 1, labels.max())
        monkeypatch.setattr(trust, "read_pair", lambda record, truth=truth: (None, truth))
        segmentation = SimpleNamespace(
            labels=labels,
            objects={"confidence": values},
            provenance={"novelty": {"limit": 0.3, "distance": 0.1 + 0.1 * (number % 2)}},
        )
        found.add(SimpleNamespace(source="ab"[number % 2]), segmentation)
        confidence.append(values[counted - 1])
        right.append(good)
    return found, np.concatenate(confidence), np.concatenate(right)


def test_reliability_is_that_of_the_objects_themselves(told):
    found, confidence, right = told
    whole = found.of()
    assert whole.objects.sum() == len(right) == found.of(["a"]).objects.sum() + found.of(["b"]).objects.sum()
    assert whole.calibration_error == pytest.approx(calibration_error(confidence, right), abs=1e-9)
    for part, least, precision in whole.coverage():
        kept = confidence >= least
        assert part == pytest.approx(kept.mean(), abs=1e-9)
        assert precision == pytest.approx(right[kept].mean(), abs=1e-9)
    assert found.novelty_area(["b"], ["a"]) == 1.0
    assert np.isnan(found.novelty_area([], ["a"])) and np.isnan(found.novelty_area(["b"], ["other"]))
    assert found.novelty_curve([], ["a"])[0].size == 0


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_the_area_is_the_chance_that_what_is_unlike_is_farther(near, far):
    found = trust.Trust(distances={"near": [n / 10 for n in near], "far": [f / 10 for f in far], "other": [0.0, 2.0]})
    chance = np.mean([(f > n) + 0.5 * (f == n) for f in far for n in near])
    assert found.novelty_area(["far"], ["near"]) == pytest.approx(chance)
    wrong, right = found.novelty_curve(["far"], ["near"])
    assert (wrong[0], right[0], wrong[-1], right[-1]) == (0, 0, 1, 1)
    assert (np.diff(wrong) >= 0).all() and (np.diff(right) >= 0).all()


def test_trust_is_kept_with_the_scores(told, tmp_path):
    found = told[0]
    again = results.load(results.MethodResult("a", "A", scores(0.2), trust=found).save(tmp_path)).trust
    assert again.of(["a"]).calibration_error == pytest.approx(found.of(["a"]).calibration_error, abs=1e-4)
    assert again.distances == found.distances
    assert again.limit == 0.3
    assert results.load(results.MethodResult("b", "B", scores(0.2)).save(tmp_path)).trust is None


def scores(wrong: float) -> Evaluation:
    """Six images of each source, of whose squares about a part is missed."""
    rng = np.random.default_rng(0)
    truth = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((4, 4), int))
    return Evaluation(
        tuple(
            score_labels(truth, truth * (np.kron(rng.random((5, 5)), np.ones((4, 4))) > wrong), source, str(n))
            for source in SOURCES
            for n in range(6)
        )
    )


@pytest.fixture
def folder(tmp_path):
    """Results of `general` and of one network of each kind."""
    seen = {"general": SOURCES[:2], "nuclei": ("dsb2018",), "research": SOURCES, "without-nuclei": ("neuroblastoma",)}
    for number, (name, sources) in enumerate(seen.items()):
        settings = {"seen": list(sources), "sources": list(sources), "ancestors": []}
        settings["run"] = {"crops": 12_000 + number, "hours": 0.5}
        result = results.MethodResult(name, name, scores(0.1 * (number + 1)), 1.0, settings)
        result.save(tmp_path if name == "general" else tmp_path / "networks")
    return tmp_path


def test_the_page_shows_each_network_on_its_own_images(folder):
    page = networks_page.write_page(folder, folder / "page.md").read_text()
    own = networks_page.part_of(results.load(folder / "networks" / "nuclei.json"), ("dsb2018",))
    assert f"| nuclei | 1.0 | 6 | {own.at(0.5)[0]} |" in page
    assert "| sartorius: AP@0.5 |" in page
    assert "| nuclei | dsb2018 | nothing | 12,001 | 0.50 |" in page
    assert "## neuroblastoma" not in page  # not trained yet
    assert len([line for line in page.splitlines() if line.startswith("| nuclei | 6 |")]) == 1


def test_a_network_that_has_seen_what_it_must_lack_is_refused(folder):
    path = folder / "networks" / "without-nuclei.json"
    result = results.load(path)
    ancestor = {"sha256": "0", "sources": ["isbi2009"]}
    for settings in (
        {"seen": ["neuroblastoma", "isbi2009"], "ancestors": []},
        {"seen": ["neuroblastoma"], "ancestors": [ancestor]},
    ):
        replace(result, settings={**result.settings, **settings}).save(path.parent)
        with pytest.raises(ValueError, match="has seen isbi2009; expected none of dsb2018, isbi2009"):
            networks_page.write_page(folder, folder / "page.md")


def test_every_network_that_was_scored_lacks_what_it_is_said_to_lack():
    kept = {path.stem: json.loads(path.read_text()) for path in results.RESULTS.glob("networks/*.json")}
    for category, sources in networks_page.CATEGORIES.items():
        if (stored := kept.get(f"without-{category}")) is not None:
            settings = stored["settings"]
            learned = {*settings["seen"], *(s for one in settings["ancestors"] for s in one["sources"])}
            assert learned and not learned & set(sources)


def test_plans_leave_out_and_single_out_what_their_names_say():
    index = {source for sources in networks_page.CATEGORIES.values() for source in sources}
    for name, plan in networks.PLANS.items():
        words = dict(zip(plan.words[::2], plan.words[1::2], strict=True))
        if name.startswith("without-"):
            assert "--from" not in words  # an ancestor may have seen the category
            assert set(words["--exclude"].split(",")) < index
        if name.endswith("-alone"):
            assert "--from" not in words
    assert len(index) == sum(map(len, networks_page.CATEGORIES.values())) == 15


def test_networks_and_confidence_are_drawn_from_saved_results_alone(folder, told):
    assert figures.reliability(folder) is None  # nothing was said
    general = results.load(folder / "general.json")
    replace(general, trust=told[0]).save(folder)
    left, right = figures.reliability(folder).axes
    assert "calibration error" in left.get_legend().get_texts()[0].get_text()
    assert right.lines[0].get_xdata()[-1] == 1
    curves = {axis.get_title(): axis.lines for axis in figures.network_curves(folder).axes}
    assert list(curves) == ["nuclei", "nuclei, never seen"]
    assert figures.trust_unseen(folder) is None  # nothing was said
    other = results.load(folder / "networks" / "without-nuclei.json")
    renamed = trust.Trust({"dsb2018": told[0].objects["a"]}, {"dsb2018": [0.3, 0.4], "neuroblastoma": [0.1, 0.3]})
    replace(other, trust=renamed).save(folder / "networks")
    left, right = figures.trust_unseen(folder).axes
    assert "nuclei: calibration error" in left.get_legend().get_texts()[0].get_text()
    assert right.get_legend().get_texts()[0].get_text() == "nuclei: area 0.88"
    assert "| 0.88 |" in networks_page.write_page(folder, folder / "page.md").read_text()
    own = networks_page.part_of(general, networks_page.CATEGORIES["nuclei"]).at(0.5)[0]
    assert curves["nuclei"][0].get_ydata()[0] == pytest.approx(own.mean)


def test_only_what_is_not_finished_is_trained_and_never_beyond_the_session(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(networks, "OUTPUT", tmp_path)
    monkeypatch.setattr(networks, "finished", lambda name: name == "nuclei")
    monkeypatch.setattr(
        networks.subprocess,
        "run",
        lambda command, **how: started.append((command, how["env"])) or SimpleNamespace(returncode=0),
    )
    networks.train_all(["nuclei", "research"], 30 + networks.FINISH, jobs=2)
    ((command, environment),) = started
    assert str(tmp_path / "research.safetensors") in command
    assert float(command[command.index("--session-minutes") + 1]) == pytest.approx(30, abs=0.2)
    assert int(environment["OMP_NUM_THREADS"]) >= 1
    networks.train_all(["research"], networks.LEAST / 2 + networks.FINISH, jobs=1)
    assert len(started) == 1


def test_a_run_in_parts_has_one_ancestor_and_longer_plans_are_gone_on_with(tmp_path, monkeypatch):
    ancestor = load_weights("general")
    monkeypatch.setattr(networks, "OUTPUT", tmp_path)
    monkeypatch.setattr(networks, "find_model", lambda name: tmp_path / f"{name}.first")
    (tmp_path / "general.first").write_bytes(b"first")
    words = networks.words_of("research")
    (tmp_path / "general.first").write_bytes(b"replaced in between")
    assert networks.words_of("research") == words
    assert Path(words[words.index("--from") + 1]).read_bytes() == b"first"
    assert "--from" not in networks.words_of("without-nuclei")
    minutes = networks.PLANS["research"].minutes
    card = replace(ancestor.card, name="research", recipe={"minutes": minutes}, ancestors=ancestor.lineage)
    save_weights(tmp_path / "research.safetensors", card, ancestor.tensors)
    found = networks.finished("research")
    assert found is not None
    networks.write_manifest(found, tmp_path / "manifest.json")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["seen"] == list(card.seen) and manifest["networks"][-1]["sha256"] == found.sha256
    assert manifest["networks"][-2]["sha256"] == ancestor.sha256
    save_weights(tmp_path / "research.safetensors", replace(card, recipe={"minutes": minutes - 1}), ancestor.tensors)
    assert networks.finished("research") is None


def test_hours_of_a_network_are_those_of_general_and_its_own():
    general = load_weights("general")
    kept = results.load(results.RESULTS / "general.json")
    scored = {"sha256": kept.settings["weights"], "sources": []}
    card = replace(general.card, recipe={"hours": 1.5}, ancestors=(scored,))
    assert networks.hours_of(replace(general, card=card)) == pytest.approx(kept.training_hours + 1.5)
    assert networks.hours_of(replace(general, card=replace(card, ancestors=()))) is None


def test_failures_are_outlines(tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "OUT", tmp_path / "failures.npz")
    assert figures.outlines(failures.OUT) is None
    worst = scores(0.3).images[:7]
    edges = np.eye(9, 12, dtype=bool)
    failures.write(worst, [(edges, edges[::-1])] * 7, 0)
    axes = figures.outlines(failures.OUT).axes
    assert len(axes) == 10 and axes[0].get_title().startswith("dsb2018/0\nAP@0.5 0.")
    picture = axes[6].images[0].get_array()
    assert picture[0, 0].tolist() == [0, 0, 0] and picture[8, 0].tolist() == list(figures.RED)
    assert set(map(tuple, picture.reshape(-1, 3).tolist())) == {(0, 0, 0), figures.RED, (255, 255, 255)}


def test_general_is_compared_with_the_others_even_where_one_is_better(tmp_path):
    told = results.MethodResult("stardist-true-diameter", "told", scores(0.1))
    general = results.MethodResult("general", "cellbasin general", scores(0.4))
    text = compare.difference_table([told, general])
    assert text.startswith("## cellbasin general is ahead by") and "| told | nuclei (6) | -" in text
