"""The whole way from image to labels with the shipped model: what every user interface relies on."""

import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cellbasin import size
from cellbasin.generator import generate
from cellbasin.io import save
from cellbasin.labels import relabel, split_pieces
from cellbasin.metrics import average_precision
from cellbasin.model import Cancelled, Model
from cellbasin.options import Options
from cellbasin.parallel import parallel_map, thread_count
from cellbasin.results import object_table
from cellbasin.weights import WeightsError, load_weights


@pytest.fixture(scope="module")
def nuclei():
    return generate("nuclei", (300, 340), diameter=26, seed=12)


@pytest.fixture(scope="module")
def found(model, nuclei):
    return model.segment(nuclei.image, axes="CYX", diameter=26)


def test_nuclei_are_found_as_drawn(found, nuclei):
    assert average_precision(nuclei.labels, found.labels, (0.5,))[0] > 0.6


def test_labels_maps_and_table_fit_together(found, nuclei):
    shape = nuclei.labels.shape
    assert found.labels.shape == found.probability.shape == found.flow.shape[1:] == shape
    assert found.labels.dtype == np.int32 and found.flow.dtype == found.probability.dtype == np.float32
    assert np.array_equal(relabel(found.labels), found.labels)
    assert np.array_equal(split_pieces(found.labels), found.labels)
    assert len(found) == found.labels.max() == len(found.objects["area"])
    assert np.array_equal(found.objects["area"], np.bincount(found.labels.ravel())[1:])
    for n, label in enumerate(found.objects["label"]):
        ys, xs = np.nonzero(found.labels == label)
        assert found.objects["centre_y"][n] == pytest.approx(ys.mean())
        assert (found.objects["box_y0"][n], found.objects["box_x1"][n]) == (ys.min(), xs.max() + 1)
        assert found.objects["mean_probability"][n] == pytest.approx(found.probability[ys, xs].mean(), rel=1e-4)
    assert found.objects["confidence"].min() >= 0.4 and found.objects["mean_probability"].min() > 0.5
    assert np.linalg.norm(found.style) == pytest.approx(1, abs=1e-5)


def test_only_the_wanted_objects_stay(found):
    wanted = found.objects["area"] > np.median(found.objects["area"])
    some = found.only(wanted)
    assert len(some) == some.labels.max() == wanted.sum() < len(found)
    assert np.array_equal(some.labels > 0, np.isin(found.labels, found.objects["label"][wanted]))
    assert np.array_equal(some.objects["area"], np.bincount(some.labels.ravel())[1:])
    assert np.array_equal(some.objects["label"], np.arange(1, len(some) + 1)) and len(found.only(~wanted)) < len(found)
    assert len(found.only(np.zeros(len(found), bool))) == 0
    with pytest.raises(ValueError, match="one yes or no for each object"):
        found.only([True])


def test_provenance_says_how_it_was_made(found, model):
    made = found.provenance
    assert made["models"] == [{"name": "general", "sha256": model.weights[0].sha256, "precision": "float32"}]
    assert made["engine"] == "openvino" and made["precision"] == "float32" and made["options"]["diameter"] == 26
    assert made["diameter_source"] == "given" and found.diameter == 26


@pytest.mark.parametrize("factor", [0.6, 1.0, 2.0])
def test_the_diameter_is_found(model, factor):
    sample = generate("nuclei", (360, 360), diameter=30 * factor, seed=3)
    estimated = model.segment(sample.image, axes="CYX")
    assert estimated.provenance["diameter_source"] == "estimated"
    assert abs(np.log2(estimated.diameter / (30 * factor))) < 0.5


def test_images_are_not_modified_and_dtype_does_not_matter(model, nuclei, found):
    image = nuclei.image[0].copy()
    again = model.segment(image, diameter=26)
    assert np.array_equal(image, nuclei.image[0])
    assert np.array_equal(again.labels, found.labels)
    assert np.array_equal(model.segment(image.astype(np.float64), diameter=26).labels, found.labels)


def test_threads_at_once_find_the_same(model, nuclei, found):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: model.segment(nuclei.image, axes="CYX", diameter=26).labels, range(8)))
    assert all(np.array_equal(labels, found.labels) for labels in results)


def test_an_ensemble_of_the_same_network_twice_is_that_network(nuclei, found):
    weights = load_weights("general")
    ensemble = Model([weights, weights], precision="float32")
    ensemble.engines[1].precision = "other"
    both = ensemble.segment(nuclei.image, axes="CYX", diameter=26)
    assert average_precision(found.labels, both.labels, (0.9,))[0] == 1
    assert [one["precision"] for one in both.provenance["models"]] == ["float32", "other"]
    assert both.provenance["precision"] == "float32, other"
    with pytest.raises(WeightsError, match="no weights"):
        Model([])


def test_flipped_views_agree_with_the_plain_one(model, nuclei, found):
    averaged = model.segment(nuclei.image, axes="CYX", options=Options(diameter=26, augment=True))
    assert average_precision(found.labels, averaged.labels, (0.75,))[0] > 0.8


def test_progress_is_told_and_can_cancel(model, nuclei):
    told = []
    model.segment(nuclei.image, axes="CYX", progress=lambda stage, part: told.append((stage, part)))
    assert {stage for stage, _ in told} == {"diameter", "network", "labels"}
    assert all(0 <= part <= 1 for _, part in told)
    with pytest.raises(Cancelled, match="network"):
        model.segment(nuclei.image, axes="CYX", diameter=26, progress=lambda stage, part: stage != "network")
    with pytest.raises(Cancelled, match="labels"):  # as numpy says False
        model.segment(nuclei.image, axes="CYX", diameter=26, progress=lambda stage, part: np.not_equal(stage, "labels"))


def test_finding_labels_is_told_and_can_be_cancelled_at_any_time(model, nuclei):
    told = []
    model.segment(nuclei.image, axes="CYX", diameter=26, progress=lambda stage, part: told.append((stage, part)))
    parts = [part for stage, part in told if stage == "labels"]
    assert parts == sorted(parts) and parts[0] == 0 and parts[-1] == 1 and len(parts) > 2
    with pytest.raises(Cancelled, match="labels"):
        model.segment(
            nuclei.image, axes="CYX", diameter=26, progress=lambda stage, part: stage != "labels" or part < 0.9
        )


def test_a_diameter_that_needs_more_memory_than_there_is_is_refused(model, monkeypatch):
    monkeypatch.setattr("cellbasin.prediction.memory", lambda: 1e8)
    image = np.zeros((200, 300), np.uint8)
    with pytest.raises(ValueError, match=r"200 x 300 px .* 1 px, .* 6000 x 9000 px, in 1.73 GB; .* 0.1 GB"):
        model.segment(image, diameter=1)
    assert not model.segment(image, diameter=30).labels.any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (7, 5), (16, 16), (225, 33)])
@pytest.mark.parametrize("diameter", [None, 30.0])
def test_images_of_any_size(model, shape, diameter):
    image = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    assert model.segment(image, diameter=diameter).labels.shape == shape


@pytest.mark.parametrize("level", [0, 17])
def test_nothing_is_found_where_nothing_is(model, level):
    assert len(model.segment(np.full((200, 260), level, np.uint16))) == 0
    noise = np.random.default_rng(1).normal(100, 10, (256, 256)).astype(np.float32)
    assert len(model.segment(noise)) <= 1


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 64, 64)), "ambiguous"),
        (np.zeros((2, 2, 4, 64, 64)), "ambiguous"),
        (np.full((64, 64), np.nan), "NaN"),
        (np.zeros((64, 64), bool), "bool"),
        (np.zeros((64, 64), complex), "complex"),
        (np.zeros((0, 64)), "length 0"),
    ],
)
def test_what_is_no_image_is_refused(model, image, words):
    with pytest.raises((ValueError, TypeError), match=words):
        model.segment(image)


def test_a_large_image_is_measured_in_its_middle(model, monkeypatch):
    """The diameter comes from a window; the labels are those of that diameter, given."""
    from cellbasin import plane as module

    sample = generate("nuclei", (400, 520), diameter=24, seed=8)
    monkeypatch.setattr(module, "_LARGE", 60_000)
    automatic = model.segment(sample.image, axes="CYX")
    assert abs(np.log2(automatic.diameter / 24)) < 0.5
    given = model.segment(sample.image, axes="CYX", diameter=automatic.diameter)
    assert np.array_equal(given.labels, automatic.labels)


def test_a_misleading_style_is_noticed(model, monkeypatch):
    sample = generate("nuclei", (300, 300), diameter=24, seed=5)
    monkeypatch.setattr(size, "diameter_from_style", lambda *_: 500.0)
    assert abs(np.log2(model.segment(sample.image, axes="CYX").diameter / 24)) < 0.5


def test_options_out_of_range_are_refused():
    for wrong in (
        {"diameter": 0},
        {"overlap": 1.5},
        {"tile": 100},
        {"channels": (1, 2, 3)},
        {"probability_threshold": "x"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Options(**wrong)


def test_an_array_is_saved_with_the_axes_that_it_was_segmented_with(model, tmp_path):
    array = generate("cytoplasm", (96, 96), diameter=24, seed=3).image[:2]
    result = model.segment(array, axes="CYX", channels=(1, 0), diameter=24)
    assert save(result, array, tmp_path / "a", "table") == {"table": tmp_path / "a_objects.csv"}
    assert (tmp_path / "a_objects.csv").read_text().splitlines()[0].endswith("max_1")


def test_a_pickled_model_finds_the_same(model, nuclei, found):
    again = pickle.loads(pickle.dumps(model)).segment(nuclei.image, axes="CYX", diameter=26)
    assert np.array_equal(again.labels, found.labels)
    assert again.provenance["precision"] == "float32"


FORKING = """
import os, signal, sys
import numpy as np
from cellbasin.generator import generate
from cellbasin.model import load_model

image, model = generate("nuclei", (96, 96), seed=1).image[0], load_model(engine=sys.argv[1], precision="float32")
expected = model.segment(image).labels
for works in (True, False):
    child = os.fork()
    if not child:
        signal.alarm(60)
        if works:
            assert np.array_equal(model.segment(image).labels, expected)
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert np.array_equal(model.segment(image).labels, expected)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_a_forked_process_can_use_and_leave_the_model(engine):
    """As multiprocessing does on Linux: what engines build waits for threads that the child does not have."""
    environment = os.environ | {"CELLBASIN_THREADS": "2", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", FORKING, engine], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_only_takes_one_yes_or_no_for_each_object(found):
    numbers = np.arange(len(found))
    for wrong in (numbers, numbers.tolist(), np.ones(len(found) + 1, bool)):
        with pytest.raises(ValueError, match="one yes or no for each object"):
            found.only(wrong)
    odd = found.only((numbers % 2 == 1).tolist())
    assert odd.objects["area"].tolist() == found.objects["area"][1::2].tolist()
    assert np.array_equal(np.bincount(odd.labels.ravel())[1:], odd.objects["area"])


@pytest.mark.parametrize("wanted", ["many", "0", "-1", "1.5", "²"])
def test_a_number_of_threads_that_is_none_is_refused(monkeypatch, wanted):
    monkeypatch.setenv("CELLBASIN_THREADS", wanted)
    with pytest.raises(ValueError, match="CELLBASIN_THREADS"):
        thread_count()


def test_work_that_was_cancelled_stops_while_the_error_is_handled():
    done = []

    def work(item):
        time.sleep(0.01)
        done.append(item)

    def tell(part):
        raise Cancelled

    try:
        parallel_map(work, range(200), tell)
    except Cancelled:
        time.sleep(0.1)
        stopped_at = len(done)
        time.sleep(0.2)
        assert len(done) == stopped_at < 200


def test_the_table_of_objects_takes_little_memory():
    labels = np.arange(1, 1001, dtype=np.int32).repeat(1000).reshape(10, 100, 1000)
    probability = np.random.default_rng(0).random(labels.shape, np.float32)
    object_table(labels, probability, np.zeros(1000))  # compiled
    tracemalloc.start()
    try:
        table = object_table(labels, probability, np.zeros(1000))
        assert tracemalloc.get_traced_memory()[1] < 2 * labels.size
    finally:
        tracemalloc.stop()
    assert table["centre_z"][:100].tolist() == [0.0] * 100 and table["centre_y"][137] == 37.0
    assert table["mean_probability"][5] == pytest.approx(probability.reshape(1000, -1)[5].mean())
