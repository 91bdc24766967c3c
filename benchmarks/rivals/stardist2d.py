"""StarDist 2D, trained from scratch; runs in the environment that `run.py stardist` sets up.

Images keep their size, and objects are enlarged and shrunk by 0.5 to 1.5 in training, as in the paper: StarDist cannot
tell the diameter, so that at test time nothing can be resized either. Its field of view (grid 2, depth 3: 94 px each
way) holds nearly all objects of the test images. `--diameter true` predicts on images resized so that the median object
is 30 px: what the same network would reach if somebody told it.

Two channels (the second is empty where there is no nuclear one), scaled by percentiles 1 and 99.8, 32 rays, batches of
8 pieces of 256². StarDist makes the targets and takes the losses (no loss where nobody annotated); the loop around them
is ours, so that training can stop and go on. It learns in bfloat16 where the processor can (0.9 s a step on one core
of an Intel with AMX; in float32 2.1 s) and predicts in float32. Both thresholds are chosen by StarDist on the
validation images.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import runs
import tensorflow as tf
from images import IGNORE, Example, chances, crop, examples, save_prediction, scaled_shape, vary_brightness
from stardist.models import Config2D, StarDist2D
from stardist.models.model2d import StarDistData2D

from cellbasin.resize import resize, resize_labels

BATCH, PATCH, RATE = 8, 256, 7e-4  # the paper's rate for StarDist
SCALE = (0.5, 1.5)
GRID, RAYS = (2, 2), 32


def main() -> int:
    wanted = runs.arguments(__doc__)
    config = Config2D(
        n_rays=RAYS,
        grid=GRID,
        n_channel_in=2,
        train_patch_size=(PATCH, PATCH),
        train_learning_rate=RATE,
        train_batch_size=BATCH,
        train_tensorboard=False,
    )
    if wanted.stage == "train" and wanted.precision == "bf16":
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = StarDist2D(config, name="model", basedir=str(wanted.out))
    model.keras_model = with_exact_outputs(model.keras_model)
    model.prepare_for_training()
    saved = tf.train.Checkpoint(network=model.keras_model, optimizer=model.keras_model.optimizer)
    manager = tf.train.CheckpointManager(saved, str(wanted.out / "checkpoint"), max_to_keep=1)
    if manager.latest_checkpoint:
        saved.restore(manager.latest_checkpoint)

    def read(split: str, limit: int | None = wanted.limit) -> list[Example]:
        return [scaled(example) for example in examples(split, wanted.only, limit, bright=wanted.bright)]

    if wanted.stage == "train":
        found, few = read("train"), read("validation", min(wanted.limit or runs.VALIDATED, runs.VALIDATED))
        odds = chances(found)

        def learn(step: int, progress: float) -> float:
            model.keras_model.optimizer.learning_rate.assign(runs.rate(step, progress, RATE))
            return float(model.keras_model.train_on_batch(*batch(found, odds, step), return_dict=True)["loss"])

        runs.train(wanted, learn, manager.save, lambda: validate(model, few))
    else:
        if not manager.latest_checkpoint:
            sys.exit(f"{wanted.out}: found no checkpoint; train first")
        predict(model, read("validation"), read("test"), wanted)
    return 0


def with_exact_outputs(network: tf.keras.Model) -> tf.keras.Model:
    """The network with its last layers in float32, whatever the others compute in: the losses take no less."""
    config = network.get_config()
    for layer in config["layers"]:
        if layer["name"] in network.output_names:
            layer["config"]["dtype"] = "float32"
    return tf.keras.Model.from_config(config)


def scaled(example: Example) -> Example:
    """Brightness as StarDist takes it: percentiles 1 and 99.8 of every channel become 0 and 1."""
    low, high = np.percentile(example.image, (1, 99.8), axis=(1, 2), keepdims=True)
    image = ((example.image - low) / np.maximum(high - low, 1e-6)).astype(np.float16)
    return Example(example.source, example.name, image, example.labels, example.diameter)


def batch(found: Sequence[Example], odds: np.ndarray, seed: int) -> tuple[np.ndarray, tuple]:
    """Batch number `seed`: depends on nothing else, so that a stopped run goes on as if nothing had happened."""
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for place in rng.choice(len(found), BATCH, p=odds):
        image, truth = crop(found[place], rng, PATCH, SCALE)
        images.append(np.moveaxis(vary_brightness(image, rng), 0, -1))
        labels.append(np.where(truth == IGNORE, -1, truth))
    data = StarDistData2D(images, labels, BATCH, RAYS, 1, patch_size=(PATCH, PATCH), grid=GRID)
    (pixels,), targets = data[0]
    return pixels, targets


def segment(model: StarDist2D, example: Example, diameter: float | None = None) -> np.ndarray:
    """Labels int32 (Y, X); with a diameter the image is resized so that it becomes 30 px."""
    image, shape = example.image.astype(np.float32), example.labels.shape
    if diameter:
        image = resize(image, scaled_shape(example, diameter))
    pixels = np.moveaxis(image, 0, -1)
    tiles = (-(-image.shape[1] // 1024), -(-image.shape[2] // 1024), 1)
    labels, _ = model.predict_instances(pixels, n_tiles=tiles, show_tile_progress=False, predict_kwargs={"verbose": 0})
    labels = labels.astype(np.int32)
    return resize_labels(labels, shape) if diameter else labels


def validate(model: StarDist2D, validation: Sequence[Example]) -> dict[str, float]:
    """Mean AP of the validation images at native size, with the present thresholds."""
    return runs.mean_precision((e.labels for e in validation), (segment(model, e) for e in validation))


def predict(model: StarDist2D, validation: Sequence[Example], test: Sequence[Example], wanted) -> None:
    """Choose the thresholds on validation, then segment the test images."""
    told = wanted.diameter == "true"
    images, truths = [], []
    for example in validation:
        image = example.image.astype(np.float32)
        labels = np.where(example.labels == IGNORE, 0, example.labels).astype(np.int32)
        if told and example.diameter > 0:
            size = scaled_shape(example, example.diameter)
            image, labels = resize(image, size), resize_labels(labels, size)
        images.append(np.moveaxis(image, 0, -1))
        truths.append(labels)
    chosen = model.optimize_thresholds(images, truths, save_to_json=False, predict_kwargs={"verbose": 0})
    for example in test:
        diameter = example.diameter if told and example.diameter > 0 else None
        started = time.perf_counter()
        labels = segment(model, example, diameter)
        seconds = time.perf_counter() - started
        save_prediction(runs.predictions(wanted), example, labels, seconds, diameter or float("nan"))
    versions = {name: version(name) for name in ("stardist", "tensorflow-cpu")}
    settings = {"thresholds": chosen, "rate": RATE, "batch": BATCH, "patch": PATCH, **versions}
    runs.tell_about(wanted, "StarDist", settings)


if __name__ == "__main__":
    sys.exit(main())
