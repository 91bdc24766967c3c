"""Rivals' training runs and pieces of images, and the figures: what stops goes on, and nothing is made up."""

import argparse
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "rivals")]

import figures  # noqa: E402
import images as rival_images  # noqa: E402
import results  # noqa: E402
import runs  # noqa: E402

from cellbasin.evaluation import Evaluation, score_labels  # noqa: E402


class Learner:
    """Counts its steps; every look at the clock is ten seconds later than the one before."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[int] = []
        self.kept = 0
        clock = itertools.count(step=10)
        monkeypatch.setattr(runs.time, "process_time", lambda: next(clock) * (os.cpu_count() or 1))
        self.wanted = argparse.Namespace(out=folder, minutes=2.0, every=0.5)

    def run(self, minutes: float) -> None:
        self.wanted.minutes = minutes
        runs.train(self.wanted, self.learn, self.keep, lambda: {"ap50": len(self.steps) / 100})

    def learn(self, step: int, progress: float) -> float:
        self.steps.append(step)
        assert 0 <= progress < 1
        return 1.0 / (step + 1)

    def keep(self) -> None:
        self.kept += 1


def test_a_run_stops_at_its_time_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    learner = Learner(tmp_path, monkeypatch)
    learner.run(2)
    assert learner.steps == list(range(12))
    assert learner.kept == 4
    learner.run(2)
    assert len(learner.steps) == 12
    learner.run(3)
    assert learner.steps == list(range(18))
    log = runs.read_log(tmp_path / "log.jsonl")
    assert [line["seconds"] for line in log] == [30, 60, 90, 120, 150, 180]
    assert "rose by 0.0600" in capsys.readouterr().out.splitlines()[-1]


def test_a_run_that_was_stopped_before_its_last_score_is_scored_when_it_goes_on(tmp_path, monkeypatch):
    learner = Learner(tmp_path, monkeypatch)
    learner.run(2)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    (tmp_path / "log.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    learner.run(2)
    log = runs.read_log(tmp_path / "log.jsonl")
    assert len(learner.steps) == 12 and (log[-1]["step"], log[-1]["seconds"]) == (12, 120)
    learner.run(2)
    assert len(runs.read_log(tmp_path / "log.jsonl")) == 4


def test_the_rise_over_the_last_quarter_decides():
    flat = [{"seconds": 100 * n, "step": n, "ap50": min(0.7, 0.1 * n)} for n in range(1, 13)]
    assert runs.last_rise(flat) == 0
    assert "converged and counts" in runs.verdict(flat)
    rising = [{"seconds": 100 * n, "step": n, "ap50": 0.01 * n} for n in range(1, 13)]
    assert runs.last_rise(rising) == pytest.approx(0.03)
    assert "not converged" in runs.verdict(rising)
    assert runs.last_rise(rising[:3]) == float("inf")


def test_learning_rate_rises_stays_and_falls():
    rates = [runs.rate(step, step / 10_000, 1.0) for step in range(10_000)]
    assert rates[0] < 0.01
    assert max(rates) == 1 == rates[5000]
    assert np.all(np.diff(rates[8000:]) < 0)
    assert rates[-1] < 0.001


def test_options_survive_the_way_to_another_process():
    parser = argparse.ArgumentParser(parents=[runs.options()])
    words = ["--out", "a b", "--minutes", "7.5", "--limit", "2", "--bright", "--precision", "float32"]
    words += ["--only", "dsb2018", "codex"]
    wanted = parser.parse_args(words)
    assert parser.parse_args(runs.handed_on(wanted)) == wanted


def disc(scale: float = 1.0) -> rival_images.Example:
    """One disc of radius 20 in the middle of 200 x 240 pixels, bright where it is labelled."""
    y, x = np.mgrid[:200, :240]
    labels = ((y - 100) ** 2 + (x - 120) ** 2 <= 400).astype(np.int32)
    return rival_images.Example("a", "b", np.stack([labels, 0 * labels]).astype(np.float16), labels, 40.0)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_pieces_are_turned_and_enlarged_with_their_labels(factor):
    example = disc()
    before = example.labels.copy()
    areas = []
    for seed in range(12):
        image, labels = rival_images.crop(example, np.random.default_rng(seed), 128, (factor, factor))
        assert image.shape == (2, 128, 128)
        assert image.dtype == np.float32
        known = labels != rival_images.IGNORE
        inside = (labels == 1) & known
        assert np.mean((image[0] > 0.5)[known] == inside[known]) > 0.98
        areas.append(inside.sum())
    assert np.median(areas) == pytest.approx(np.pi * 400 * factor**2, rel=0.1)
    assert np.array_equal(example.labels, before)


def test_beyond_the_image_nothing_is_known():
    example = rival_images.Example("a", "b", np.ones((2, 30, 30), np.float32), np.zeros((30, 30), np.int32), 0.0)
    _, labels = rival_images.crop(example, np.random.default_rng(0), 64, (1, 1))
    assert (labels == rival_images.IGNORE).sum() >= 64 * 64 - 31 * 31


def test_predictions_and_images_are_read_back(tmp_path):
    example = disc()
    path = rival_images.file_of(tmp_path, "test", "a", "b")
    path.parent.mkdir()
    np.savez(path, image=example.image, labels=example.labels, source="a", name="b", diameter=40.0)
    (again,) = rival_images.examples("test", folder=tmp_path)
    assert (again.source, again.name, again.diameter) == ("a", "b", 40.0)
    assert rival_images.has_bright_objects(again)
    assert not list(rival_images.examples("test", ["other"], folder=tmp_path))
    with pytest.raises(FileNotFoundError, match=r"run it first"):
        list(rival_images.examples("train", folder=tmp_path))


def test_scores_need_every_prediction(tmp_path):
    import score

    example = disc()
    path = rival_images.file_of(tmp_path, "test", "a", "b")
    path.parent.mkdir()
    np.savez(path, image=example.image, labels=example.labels, source="a", name="b", diameter=40.0)
    with pytest.raises(FileNotFoundError, match="expected one for every image"):
        score.score(tmp_path / "out", data=tmp_path)
    rival_images.save_prediction(tmp_path / "out", example, example.labels, 0.5, 31.0)
    about = {"title": "Rival", "training_hours": 2.0, "settings": {"steps": 3}}
    (tmp_path / "out" / "about.json").write_text(json.dumps(about))
    (only,) = score.score(tmp_path / "out", data=tmp_path).images
    assert (only.average_precision[-1], only.diameter, only.seconds) == (1.0, 31.0, 0.5)


def test_figures_are_drawn_from_saved_results_alone(tmp_path, monkeypatch):
    square = np.kron(np.eye(3, dtype=int), np.ones((8, 8), int))
    found = Evaluation(
        tuple(score_labels(square, square, source, str(n)) for n in range(5) for source in ("dsb2018", "a"))
    )
    results.MethodResult("one", "One", found).save(tmp_path)
    (tmp_path / "sizes-general.json").write_text(
        json.dumps([{"source": "a", "true": 10 + n, "single": 12 + n, "refined": 10 + n} for n in range(5)])
    )
    log = [{"seconds": 60 * n, "flow": 1 / (n + 1), "inside": 0.1} for n in range(9)]
    log.append({"seconds": 600, "validation_ap50": 0.5})
    (tmp_path / "run.jsonl").write_text("\n".join(map(json.dumps, log)))
    (tmp_path / "rivals").mkdir()
    (tmp_path / "rivals" / "other.jsonl").write_text('{"seconds": 3600, "ap50": 0.4}\n{"seconds": 7200, "ap50": 0.6}\n')
    words = ["figures", "--results", str(tmp_path), "--runs", str(tmp_path), "--out", str(tmp_path / "drawn")]
    monkeypatch.setattr(sys, "argv", words)
    assert figures.main() == 0  # styles are not there: passed over
    drawn = sorted(path.stem for path in (tmp_path / "drawn").iterdir())
    assert drawn == ["ap", "rivals", "sizes", "training"]
    curve = figures.rival_curves([tmp_path / "rivals" / "other.jsonl"]).axes[0].lines[0]
    assert curve.get_label() == "other" and curve.get_xydata().tolist() == [[1.0, 0.4], [2.0, 0.6]]
    monkeypatch.setattr(sys, "argv", [*words, "--only", "app"])
    assert figures.main() == 2
