"""benchmarks: results, comparison, the rivals' bookkeeping: files are read back as written, tables tell the truth."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "rivals")]

import compare  # noqa: E402
import images as rival_images  # noqa: E402
import results  # noqa: E402

from cellbasin.evaluation import Evaluation, score_labels  # noqa: E402


def evaluation(seed: int, wrong: float) -> Evaluation:
    """Scores of random squares, a part of them shifted."""
    rng = np.random.default_rng(seed)
    scored = []
    for number in range(12):
        truth = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((8, 8), int)) * (rng.random((24, 24)) > 0.1)
        found = np.where(rng.random((24, 24)) < wrong, 0, truth)
        scored.append(score_labels(truth, found, "dsb2018" if number % 2 else "axons", f"n{number}"))
    return Evaluation(tuple(scored))


def test_saved_results_are_read_back(tmp_path):
    first = results.MethodResult("a", "Method A", evaluation(1, 0.2), 1.5, {"threshold": 0.4})
    (tmp_path / "sizes-general.json").write_text("[]")
    again = results.load(first.save(tmp_path))
    assert (again.title, again.training_hours, again.settings, again.date) == (
        *(first.title, 1.5, {"threshold": 0.4}),
        first.date,
    )
    for mine, kept in zip(first.evaluation.images, again.evaluation.images, strict=True):
        assert (mine.source, mine.name, mine.tp, mine.fp, mine.fn) == (
            *(kept.source, kept.name, kept.tp),
            *(kept.fp, kept.fn),
        )
        assert mine.average_precision == pytest.approx(kept.average_precision, abs=1e-12)
        assert mine.true_diameter == pytest.approx(kept.true_diameter, abs=0.006)
        assert math.isnan(kept.seconds)
    assert [result.method for result in results.load_all(tmp_path)] == ["a"]


def test_images_without_objects_keep_their_score(tmp_path):
    nothing = np.zeros((4, 4), int)
    one = Evaluation((score_labels(nothing, nothing), score_labels(nothing, nothing + 1)))
    again = results.load(results.MethodResult("empty", "Empty", one).save(tmp_path)).evaluation
    assert [image.average_precision[0] for image in again.images] == [1.0, 0.0]


def test_a_file_of_another_form_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"method": "a"}))
    with pytest.raises(ValueError, match="expected what results"):
        results.load(path)


def test_comparison_has_the_best_method_first_and_its_lead(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare", "--results", str(tmp_path), "--out", str(tmp_path / "table.md")])
    assert compare.main() == 2
    for name, wrong in (("weak", 0.45), ("strong", 0.1)):
        results.MethodResult(name, name, evaluation(2, wrong)).save(tmp_path)
    assert compare.main() == 0
    text = (tmp_path / "table.md").read_text()
    assert "## strong is ahead by" in text
    assert "| source (images) | strong | weak |" in text
    expected = str(evaluation(2, 0.1).at(0.5)[0])
    assert f"| **all images** (12) | {expected} |" in text


def test_methods_scored_on_other_images_are_not_compared(tmp_path):
    whole = evaluation(3, 0.2)
    part = Evaluation(whole.images[:-1])
    pair = [results.MethodResult("a", "A", whole), results.MethodResult("b", "B", part)]
    with pytest.raises(ValueError, match="differ in 1 images"):
        compare.check_images(pair)


def test_rivals_draw_sources_by_the_square_root_of_their_images():
    empty = np.zeros(0)
    found = [rival_images.Example(source, "", empty, empty, 1.0) for source in "aaaaaaaaab"]
    chances = rival_images.chances(found)
    assert chances.sum() == pytest.approx(1)
    assert chances[:9].sum() == pytest.approx(0.75)


def test_what_nobody_annotated_is_blanked_for_rivals():
    labels = np.array([[1, rival_images.IGNORE, 0]])
    example = rival_images.Example("a", "b", np.ones((2, 1, 3), np.float32), labels, 1.0)
    image, blanked = rival_images.blanked(example)
    assert image[:, 0].tolist() == [[1, 0, 1]] * 2
    assert blanked.tolist() == [[1, 0, 0]]
    assert example.labels[0, 1] == rival_images.IGNORE
