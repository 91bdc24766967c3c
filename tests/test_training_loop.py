"""The training loop: runs resume exactly, alone on their file, and say what they have learned from."""

import json
from dataclasses import replace

import numpy as np
import pytest
from training_helpers import annotated, own_cache

from cellbasin.datasets import select_records
from cellbasin.engines.hardware import Hardware
from cellbasin.training.folder import read_folder
from cellbasin.training.plot import read_log
from cellbasin.training.prepared import prepare
from cellbasin.training.recipe import RECIPES, Recipe

__all__ = ["own_cache"]  # a fixture

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


@pytest.mark.parametrize("kept", [False, True])
def test_batch_norm_statistics_of_the_network_to_start_from_are_kept_where_the_recipe_says_so(tiny, tmp_path, kept):
    from cellbasin.weights import load_weights

    loop, images, architecture = tiny
    loop.train(images, architecture, TINY, tmp_path / "first.safetensors")
    first = load_weights(tmp_path / "first.safetensors")
    loop.train(images, architecture, replace(TINY, keep_norms=kept), tmp_path / "second.safetensors", start=first)
    second = load_weights(tmp_path / "second.safetensors")
    same = {name: np.array_equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items()}
    statistics = [name for name in same if "running" in name]
    assert len(statistics) > 4 and all(same[name] for name in statistics) == kept
    assert not all(same.values())


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
    assert loop._terms(replace(short, note="on other terms"), start)[1] == "for research only; on other terms"
    from cellbasin.cli.train import RecipeFlags

    seeds = [RecipeFlags(seed=seed).settings(begun).seed for seed, begun in ((None, None), (None, start), (7, start))]
    small = replace(start, card=replace(start.card, diameter=17.0))
    assert RecipeFlags().settings(small).diameter == 17, "objects are shown to a network as large as it knows them"
    tuned, again = RecipeFlags().settings(start), RecipeFlags(recipe="general").settings(start)
    assert (tuned.name, tuned.keep_norms) == ("tune", True) and (again.name, again.keep_norms) == ("general", False)
    assert RecipeFlags().settings(None).name == "default"
    assert RecipeFlags(recipe="nuclei").settings(None).only == ("dsb2018", "isbi2009")
    assert RecipeFlags(recipe="general").settings(None).generated > 0
    assert RecipeFlags(recipe="general", only=("usiigaci",)).settings(None).generated == 0
    assert RecipeFlags(learning_rate=1e-4).settings(None).learning_rate == 1e-4
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
    with pytest.raises(loop.TrainingError, match=r"learning_rate 0.*, not 1e-07"):
        loop.train(images, architecture, replace(TINY, learning_rate=1e-7), out, start=start)
    with pytest.raises(loop.TrainingError, match="recipe tiny, not paper"):
        loop.train(images, architecture, RECIPES["paper"], out, start=start)
    loop.train(images, architecture, TINY, out, start=start)
    assert [one["name"] for one in load_weights(out).card.ancestors] == ["ancestor"]


def test_a_run_goes_on_with_the_images_that_it_was_begun_with_alone(tiny, tmp_path):
    """Else somebody who adds images, or mends labels, would be given the finished network as if it knew them."""
    loop, images, architecture = tiny
    out = tmp_path / "net.safetensors"
    drawn = [replace(prepare(annotated(seed)), source="generated") for seed in (8, 9)]
    loop.train([*images, *drawn], architecture, TINY, out)
    with pytest.raises(loop.TrainingError, match=r"images 4 \(\w+\), not 5"):
        loop.train([*images, prepare(annotated(7)), *drawn], architecture, TINY, out)
    mended = annotated(0)
    mended.labels[mended.labels == 1] = 0
    with pytest.raises(loop.TrainingError, match=r"images 4 \(\w+\), not 4"):
        loop.train([prepare(mended), *images[1:], *drawn], architecture, TINY, out)
    with pytest.raises(loop.TrainingError, match="architecture"):
        loop.train([*images, *drawn], replace(architecture, refine=0), TINY, out)
    loop.train([*images[::-1], *drawn[:1]], architecture, TINY, out)  # a longer run draws more of the others


@pytest.mark.parametrize("keep", [0, 100, 2000])
def test_a_damaged_checkpoint_is_named(tiny, tmp_path, keep):
    loop, images, architecture = tiny
    out = tmp_path / "net.safetensors"
    loop.train(images, architecture, TINY, out, session_minutes=0.0)
    checkpoint = out.with_suffix(".checkpoint.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(loop.TrainingError, match=r"net.checkpoint.pt is damaged.* remove it"):
        loop.train(images, architecture, TINY, out)


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


def test_warming_up_takes_a_number_of_steps_but_no_more_than_a_part_of_a_short_run():
    from cellbasin.training.loop import rate_at

    ours = RECIPES["general"]
    half = ours.warmup // 2
    assert rate_at(0.001, half - 1, ours) == pytest.approx(ours.learning_rate / 2)
    assert rate_at(ours.warm_part / 2, 9, ours) == pytest.approx(ours.learning_rate / 2)
    assert rate_at(ours.warm_part, 9, ours) == ours.learning_rate


def test_a_log_with_a_line_cut_short_is_read(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2, "fl')
    assert read_log(path) == [{"step": 1}]
