"""Training: crops keep image, labels and flows together; runs resume exactly; sampling is balanced."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellbasin.engines.hardware import Hardware
from cellbasin.flows import labels_to_flows
from cellbasin.generator import generate
from cellbasin.training.crops import blur, draw_crop, draw_planes_apart, near_contacts, renew_cut_flows
from cellbasin.training.dataset import FLOW_UNIT, Annotated, prepare, prepare_all, split_groups
from cellbasin.training.folder import read_folder, select_records
from cellbasin.training.generated import GENERATED, generated_images
from cellbasin.training.plot import read_log
from cellbasin.training.recipe import RECIPES, Recipe
from cellbasin.training.sampling import Batches, Stage, image_weights

PLAIN = replace(
    RECIPES["default"],
    gamma=0,
    contrast=0,
    invert=0,
    blur=0,
    noise=0,
    coarse=0,
    planes=0,
    wide=0,
    scale=(1.0, 1.0),
    generated=0,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CELLBASIN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def annotated(seed=0, kind="nuclei", side=160, diameter=24):
    sample = generate(kind, (side, side), diameter=diameter, seed=seed)
    return Annotated(np.asarray(sample.image), sample.labels, f"{kind}{seed}", "made", "gray", f"{seed}")


def test_prepared_flows_are_those_of_the_labels_and_come_back_from_the_cache():
    given_image = annotated()
    first, second = prepare(given_image), prepare(given_image)
    level = first.levels[0]
    assert np.array_equal(level.labels, given_image.labels)
    assert np.abs(level.flow / FLOW_UNIT - labels_to_flows(given_image.labels)).max() <= 0.5 / FLOW_UNIT + 1e-6
    assert all(np.array_equal(a.flow, b.flow) for a, b in zip(first.levels, second.levels, strict=True))


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_damaged_file_of_the_cache_is_made_again(tmp_path, monkeypatch, keep):
    monkeypatch.setenv("CELLBASIN_CACHE", str(tmp_path))
    first = prepare(annotated())
    (kept,) = tmp_path.rglob("*.npz")
    kept.write_bytes(kept.read_bytes()[:keep])
    assert np.array_equal(prepare(annotated()).levels[0].flow, first.levels[0].flow)
    assert np.array_equal(prepare(annotated()).levels[1].image, first.levels[1].image)


def test_large_objects_are_shrunk_before_their_flows_are_computed():
    prepared = prepare(annotated(diameter=120, side=512))
    assert 40 < prepared.diameter < 56
    assert prepared.levels[0].labels.shape[0] < 300


def test_images_and_labels_of_other_sizes_are_refused():
    wrong = replace(annotated(), labels=np.zeros((5, 6), np.int32))
    with pytest.raises(ValueError, match="labels are \\(5, 6\\)"):
        prepare(wrong)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_flows_of_a_crop_lead_from_rim_to_centre_whatever_the_turn(seed):
    """A disk's flow points at its middle after any rotation, mirroring, scaling and shift."""
    y, x = np.mgrid[:200, :200]
    labels = ((y - 90) ** 2 + (x - 110) ** 2 < 40**2).astype(np.int32)
    source = prepare(Annotated(labels[None] * 100.0, labels, "disk", "made"))
    crop = draw_crop(source, 96, replace(PLAIN, scale=(0.7, 1.4)), np.random.default_rng(seed))
    inside = (crop.target[2] > 0) & (crop.target[3] > 0)
    if inside.sum() < 200 or inside[0].any() or inside[-1].any() or inside[:, 0].any() or inside[:, -1].any():
        return
    rows, columns = np.nonzero(inside)
    middle = rows.mean(), columns.mean()
    towards = np.stack([middle[0] - rows, middle[1] - columns])
    far = np.hypot(*towards) > 4
    flow = crop.target[:2, rows, columns]
    cosine = (flow * towards).sum(0)[far] / (np.hypot(*towards) * np.hypot(*flow))[far]
    assert cosine.min() > 0.9
    brightness = crop.image[0]
    assert brightness[inside].mean() > brightness[~inside].mean() + 0.5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_the_crop_cuts_off_has_the_flows_of_what_is_seen(seed):
    """The two halves of a bar whose middle lies outside the crop are objects of their own."""
    rng = np.random.default_rng(seed)
    seen = np.zeros((40, 40), np.int32)
    rows = rng.choice(6, 4, replace=False) * 6 + 2
    seen[rows[0] : rows[0] + 4, : rng.integers(3, 20)] = 3
    seen[rows[1] : rows[1] + 4, rng.integers(22, 36) :] = 3
    seen[rows[2] : rows[2] + 4, rng.integers(0, 30) :] = 7
    seen[rows[3] : rows[3] + 4, 10:20] = 5
    before = rng.standard_normal((4, 40, 40)).astype(np.float32)
    target = before.copy()
    renew_cut_flows(seen, target)
    cut = (seen == 3) | (seen == 7)
    assert np.array_equal(target[:2, cut], labels_to_flows(seen)[:, cut])
    assert np.array_equal(target[:, ~cut], before[:, ~cut])
    assert np.array_equal(target[2:], before[2:])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_contacts_are_the_pixels_near_another_object(seed):
    labels = np.random.default_rng(seed).integers(0, 4, (9, 11)).astype(np.int32)
    expected = np.zeros(labels.shape, bool)
    for y, x in np.argwhere(labels > 0):
        cross = np.concatenate([labels[max(0, y - 2) : y + 3, x], labels[y, max(0, x - 2) : x + 3]])
        expected[y, x] = ((cross > 0) & (cross != labels[y, x])).any()
    assert np.array_equal(near_contacts(labels), expected)


def test_contacts_can_weigh_more_in_the_loss():
    square = np.kron(np.array([[1, 2], [3, 4]], np.int32), np.ones((30, 30), np.int32))
    source = prepare(Annotated(square[None] * 50.0, square, "squares", "made"))
    plain, weighed = (
        draw_crop(source, 64, replace(PLAIN, contacts=contacts), np.random.default_rng(3)) for contacts in (1.0, 4.0)
    )
    assert set(np.unique(plain.target[3])) <= {0, 1}
    assert np.array_equal(weighed.target[3] > 0, plain.target[3] > 0)
    assert 0.01 < (weighed.target[3] == 4).mean() < 0.3
    assert np.array_equal(plain.target[:3], weighed.target[:3])


def test_a_crop_says_where_nothing_is_known():
    image = annotated()
    labels = image.labels.copy()
    labels[:, :80] = 65535
    crop = draw_crop(prepare(replace(image, labels=labels)), 300, PLAIN, np.random.default_rng(1))
    known = crop.target[3].mean()
    assert 0.02 < known < 0.75  # half of the image is not annotated, and a crop of 300 pixels goes beyond it
    assert not crop.target[2][crop.target[3] == 0].any() or crop.target[:2][:, crop.target[3] == 0].any() == 0


def test_crops_depend_on_the_seed_alone():
    source = prepare(annotated())
    first, second, other = (
        draw_crop(source, 64, RECIPES["default"], np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(first.image, second.image) and np.array_equal(first.target, second.target)
    assert not np.array_equal(first.image, other.image)


def test_blur_equals_scipy():
    from scipy.ndimage import gaussian_filter

    image = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    ours = image.copy()
    blur(ours, 1.5, 0.8)
    assert np.abs(ours - gaussian_filter(image, (1.5, 0.8), mode="mirror", truncate=2.5)).max() < 0.01


@pytest.mark.parametrize("apart", [1.0, 1.5, 3.0, 5.7, 40.0])
def test_between_planes_drawn_apart_rows_are_interpolated(apart):
    image = np.random.default_rng(0).random((2, 32, 9)).astype(np.float32)
    drawn = image.copy()
    draw_planes_apart(drawn, apart)
    known = np.arange(0, 32 + apart, apart)
    rows = image[:, np.clip(known.round().astype(int), 0, 31)]
    for c, x in np.ndindex(2, 9):
        expected = np.interp(np.arange(32), known, rows[c, :, x])
        np.testing.assert_allclose(drawn[c, :, x], expected, atol=1e-6)


def test_sources_count_as_the_root_of_their_size_and_generated_images_get_their_share():
    prepared = prepare(annotated())
    images = [replace(prepared, source=name) for name in ["a"] * 4 + ["b"] * 16 + [GENERATED] * 7]
    weights = image_weights(images, 0.2)
    assert weights.sum() == pytest.approx(1)
    assert weights[20:].sum() == pytest.approx(0.2)
    assert weights[4:20].sum() == pytest.approx(2 * weights[:4].sum())
    assert image_weights(images, 0.2, balance=0)[:4].sum() == pytest.approx(0.4)
    assert image_weights(images, 0.2, balance=1)[:20] == pytest.approx(0.04)


def test_batches_are_numbered_and_errors_reach_the_caller():
    images = [prepare(annotated(seed)) for seed in range(2)]
    batches = Batches(images, PLAIN, 3, lambda step: Stage(32, 2))
    drawn, again = batches.next(), batches.draw(3)
    batches.close()
    assert np.array_equal(drawn[0], again[0]) and drawn[0].shape == (2, 2, 32, 32) and drawn[1].shape == (2, 4, 32, 32)

    def fail(step):
        raise RuntimeError("no stage")

    broken = Batches(images, PLAIN, 0, fail)
    with pytest.raises(RuntimeError, match="no stage"):
        broken.next()
    broken.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("123456789")), max_size=60), st.floats(0.05, 0.5))
def test_validation_never_shares_a_group_with_training(pairs, part):
    held = split_groups(pairs, part)
    assert not {p for p, h in zip(pairs, held, strict=True) if h} & {
        p for p, h in zip(pairs, held, strict=True) if not h
    }


def test_generated_images_are_annotated():
    images = prepare_all(generated_images(12)[:4])
    assert [image.source for image in images] == [GENERATED] * 4


# --- the loop --------------------------------------------------------------------------------------------------------

TINY = Recipe(
    name="tiny", minutes=0, epochs=6, schedule=((0.0, 32, 2),), warmup=2, generated=0.0, average=0.9, learning_rate=1e-3
)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def tiny(torch, monkeypatch):
    from cellbasin.training import loop
    from cellbasin.weights import Architecture

    monkeypatch.setattr(loop, "_LOG_EVERY", 4)
    monkeypatch.setattr(loop, "_NORM_BATCHES", 2)
    images = [prepare(annotated(seed)) for seed in range(4)]
    architecture = Architecture(channels=(8, 8), refine=4, refine_inputs=6)
    return loop, images, architecture


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(tiny, tmp_path, torch):
    loop, images, architecture = tiny
    whole = loop.train(images, architecture, TINY, tmp_path / "whole.safetensors")
    out = tmp_path / "parts.safetensors"

    class Killed(Exception):
        pass

    def kill(record):
        if record["step"] == 4:
            raise Killed

    with pytest.raises(Killed):
        loop.train(images, architecture, TINY, out, report=kill)
    assert not out.exists()
    loop.train(images, architecture, TINY, out)
    from cellbasin.weights import load_weights

    first, second = load_weights(whole), load_weights(out)
    assert all(np.array_equal(first.tensors[key], second.tensors[key]) for key in first.tensors)
    assert loop.train(images, architecture, replace(TINY, epochs=1.5), tmp_path / "short.safetensors").exists()
    assert load_weights(tmp_path / "short.safetensors").card.recipe["steps"] == 3
    assert first.card.recipe["steps"] == 12 and first.card.sources == ("made",)


@pytest.mark.parametrize("features, kind", [(("AVX512", "AVX512-BF16"), "bfloat16"), (("AVX2",), "float32")])
def test_bf16_is_not_imitated_by_processors_that_lack_it(tiny, tmp_path, torch, monkeypatch, features, kind):
    """They take fifteen times as long as in float32."""
    loop, images, architecture = tiny
    if torch.cuda.is_available():
        pytest.skip("trains on the graphics processor")
    monkeypatch.setattr(loop, "find_hardware", lambda: Hardware("a processor", features))
    seen = set()

    def note(module, given, made):
        if isinstance(module, torch.nn.Conv2d):
            seen.add(made.dtype)

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        loop.train(images, architecture, replace(TINY, epochs=1), tmp_path / "one.safetensors")
    finally:
        hook.remove()
    assert seen == {getattr(torch, kind)}


def test_a_network_says_what_it_and_its_ancestors_have_seen_and_keeps_their_terms(tiny, tmp_path):
    from cellbasin.weights import load_weights

    loop, images, architecture = tiny
    short = replace(TINY, epochs=1, licence="BSD-3-Clause")
    strict = replace(short, licence="for research", note="for research only")
    start = None
    for name, recipe in (("first", strict), ("second", short), ("third", short)):
        seen = [replace(image, source=name) for image in images]
        loop.train(seen, architecture, recipe, tmp_path / f"{name}.safetensors", start=start)
        start = load_weights(tmp_path / f"{name}.safetensors")
    assert start.card.sources == ("third",) and start.card.seen == ("first", "second", "third")
    assert [one["name"] for one in start.card.ancestors] == ["first", "second"]
    assert start.card.ancestors[1]["sha256"] == load_weights(tmp_path / "second.safetensors").sha256
    assert (start.card.licence, start.card.note) == ("for research", "for research only")
    from cellbasin.cli.train import RecipeFlags

    seeds = [RecipeFlags(seed=seed).settings(begun).seed for seed, begun in ((None, None), (None, start), (7, start))]
    assert RecipeFlags(recipe="nuclei").settings(None).only == ("dsb2018", "isbi2009")
    assert RecipeFlags(recipe="general").settings(None).generated > 0
    assert RecipeFlags(recipe="general", only=("usiigaci",)).settings(None).generated == 0
    assert seeds == [0, 3, 7], "no network in a line of three sees the crops of another, unless one says so"


def test_a_specialist_learns_from_its_source_alone(data_root, tmp_path):
    readers = read_folder(data_root, "train", ("sartorius",), sources=("usiigaci",))
    assert {reader().source for reader in readers} == {"usiigaci"}
    held = select_records(data_root, "validation", ("sartorius",), ("usiigaci",))
    everything = select_records(data_root, "validation", ("sartorius",))
    assert [r.name for r in held] == [r.name for r in everything if r.source == "usiigaci"], (
        "the same part, whoever asks"
    )
    assert not {reader().name for reader in readers} & {record.name for record in held}


def test_the_loss_falls_and_the_log_can_be_read_and_drawn(tiny, tmp_path):
    loop, images, architecture = tiny
    out = tmp_path / "net.safetensors"
    scores = iter([0.2, 0.5, 0.4])
    loop.train(
        images,
        architecture,
        replace(TINY, epochs=100, learning_rate=1e-2, schedule=((0.0, 64, 4),)),
        out,
        validate=lambda network: {"score": next(scores, 0.1), "ap50": 0.3},
        validate_every=0.5,
    )
    records = read_log(out.with_suffix(".log.jsonl"))
    losses = [r["inside"] for r in records if "flow" in r]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:2])
    assert out.with_suffix(".best.safetensors").exists()
    pytest.importorskip("matplotlib")
    from cellbasin.training.plot import plot_log

    plot_log(out.with_suffix(".log.jsonl"), tmp_path / "log.png")
    assert (tmp_path / "log.png").read_bytes()[:4] == b"\x89PNG"


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(tiny, tmp_path, torch, monkeypatch):
    loop, images, architecture = tiny
    out = tmp_path / "net.safetensors"
    loop.train(images, architecture, TINY, out, session_minutes=0.0)
    before = out.with_suffix(".checkpoint.pt").read_bytes()
    monkeypatch.setattr(loop, "loss_terms", lambda maps, target: (maps.mean() * float("nan"), maps.mean()))
    with pytest.raises(loop.TrainingError, match="no longer finite"):
        loop.train(images, architecture, TINY, out)
    assert out.with_suffix(".checkpoint.pt").read_bytes() == before


def test_two_processes_cannot_train_one_file(tiny, tmp_path):
    pytest.importorskip("fcntl")
    loop, images, architecture = tiny
    out = tmp_path / "net.safetensors"
    with loop._alone(out), pytest.raises(loop.TrainingError, match="another process"):
        loop.train(images, architecture, TINY, out)
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_just_removed_is_none(tiny, tmp_path, monkeypatch):
    """Else its owner and the next process, which makes a new one, would train one file together."""
    fcntl = pytest.importorskip("fcntl")
    loop, _, _ = tiny
    out = tmp_path / "net.safetensors"
    monkeypatch.setattr(fcntl, "flock", lambda file, how: out.with_suffix(".lock").unlink())
    with pytest.raises(loop.TrainingError, match="another process"), loop._alone(out):
        pytest.fail("was locked")


def test_a_run_goes_on_with_the_seed_the_ancestor_and_the_sources_that_it_was_begun_with_alone(tiny, tmp_path):
    """Else the card would not name all that the network has learned from."""
    from cellbasin.weights import load_weights

    loop, images, architecture = tiny
    out, ancestor = tmp_path / "net.safetensors", tmp_path / "ancestor.safetensors"
    start = load_weights(loop.train(images, architecture, replace(TINY, epochs=1), ancestor))
    loop.train(images, architecture, TINY, out, start=start, session_minutes=0.0)
    with pytest.raises(loop.TrainingError, match="seed 0, not 1"):
        loop.train(images, architecture, replace(TINY, seed=1), out, start=start)
    with pytest.raises(loop.TrainingError, match=f"network to start from {start.sha256[:12]}, not none"):
        loop.train(images, architecture, TINY, out)
    with pytest.raises(loop.TrainingError, match="sources made, not other"):
        loop.train([replace(image, source="other") for image in images], architecture, TINY, out, start=start)
    loop.train(images, architecture, TINY, out, start=start)
    assert [one["name"] for one in load_weights(out).card.ancestors] == ["ancestor"]


def test_pixels_that_are_not_annotated_do_not_count_in_the_loss(torch):
    from cellbasin.training.loop import loss_terms

    target = torch.zeros(1, 4, 8, 8)
    target[:, 3, :4] = 1
    maps = torch.zeros(1, 3, 8, 8)
    wrong = maps.clone()
    wrong[:, :, 4:] = 100.0
    assert all(a == b for a, b in zip(loss_terms(maps, target), loss_terms(wrong, target), strict=True))
    flow, inside = loss_terms(maps + 1, target)
    assert flow.item() == pytest.approx(0.5) and inside.item() == pytest.approx(np.log1p(np.e))


def test_the_papers_schedule_halves_and_ours_ends_at_nothing():
    from cellbasin.training.loop import rate_at

    paper, ours = RECIPES["paper"], RECIPES["general"]
    assert rate_at(0.01, 100, paper) == pytest.approx(0.1)
    assert rate_at(0.5, 10_000, paper) == 0.2
    assert rate_at(0.83, 10_000, paper) == pytest.approx(0.1)
    assert rate_at(0.5, 10_000, ours) == ours.learning_rate
    half_way = 1 - ours.cooldown / 2
    assert rate_at(half_way, 10_000, ours) == pytest.approx(ours.learning_rate / 2)
    assert rate_at(1.0, 10_000, ours) == 0


def test_a_log_with_a_line_cut_short_is_read(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2, "fl')
    assert read_log(path) == [{"step": 1}]
