"""Cellpose 3.1.1.3, trained from scratch by its own code; runs in the environment that `run.py cellpose3` sets up.

Its network, flows, augmentation (`random_rotate_and_resize` at 30 px), loss, optimiser (AdamW, 0.005, weight decay
1e-5) and size model; of `train_seg` only the loop is written again, since that can neither stop and go on nor work in
bf16 (which it does where the processor can). Its schedule is kept in parts of the time: a warm-up of ten epochs, and
the rate halved ten times in the last sixth. An epoch is 200 images, drawn like ours. Images with fewer than five
objects are left out, as there. It knows no pixels that nobody annotated: they are blanked in image and labels.
Segmentation is its own with automatic diameter, in float32; both thresholds are chosen on validation.
"""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import runs
import torch
from cellpose import dynamics, models, resnet_torch, train, transforms, utils
from images import IGNORE, Example, blanked, chances, examples, save_prediction

from cellbasin.metrics import average_precision

RATE, DECAY, BATCH, EPOCH, TILE = 0.005, 1e-5, 8, 200, 224
WARM_EPOCHS, HALVINGS, LAST_PART = 10, 10, 1 / 6
FEWEST = 5  # objects of a training image, as in `train_seg`
DIAMETER = 30.0
CPU = torch.device("cpu")
THRESHOLDS = tuple(itertools.product((-1.0, 0.0, 1.0), (0.4, 0.8, 0.0)))  # probability (a logit), flow error (0: off)


class Network(resnet_torch.CPnet):
    """Cellpose's, computing in bf16 with float32 weights and answers, or in float32."""

    bf16 = False

    def forward(self, data: torch.Tensor) -> tuple:
        """As CPnet's."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            maps, style, down = super().forward(data.to(memory_format=torch.channels_last))
        return maps.float(), style.float(), down


@dataclass(frozen=True, eq=False)
class Prepared:
    """image: float16 (2, Y, X). maps: float16 (3, Y, X), inside and flow as Cellpose makes them. labels: int32."""

    source: str
    image: np.ndarray
    maps: np.ndarray
    labels: np.ndarray
    diameter: float


def main() -> int:
    logging.disable(logging.INFO)
    wanted = runs.arguments(__doc__)
    weights = wanted.out / "cellpose"

    def read(split: str, limit: int | None = wanted.limit) -> list[Example]:
        return list(examples(split, wanted.only, limit, bright=wanted.bright))

    if wanted.stage == "train":
        (wanted.out / "flows").mkdir(parents=True, exist_ok=True)
        prepared = [prepare(example, wanted.out / "flows") for example in read("train")]
        found = [one for one in prepared if np.unique(one.labels).size - 1 >= FEWEST]
        network = learn(found, read("validation", min(wanted.limit or runs.VALIDATED, runs.VALIDATED)), wanted)
        learn_sizes(network, found, weights)
    else:
        if not Path(f"{weights}_size.npy").exists():
            sys.exit(f"{weights}_size.npy: found no size model; train first, to the end")
        predict(weights, read("validation"), read("test"), wanted)
    return 0


def prepare(example: Example, folder: Path) -> Prepared:
    """Flows by Cellpose, kept in a file, since they take minutes for all images."""
    image, labels = blanked(example)
    path = folder / f"{example.source}__{example.name}.npy"
    if not path.exists():
        flows = dynamics.labels_to_flows([labels.astype(np.int32)], device=CPU)[0]
        temporary = path.with_name(f".{path.name}.part.npy")
        np.save(temporary, flows[1:].astype(np.float16))
        temporary.replace(path)
    diameter = max(5.0, float(utils.diameters(labels)[0]))
    return Prepared(example.source, image.astype(np.float16), np.load(path), labels.astype(np.int32), diameter)


def learn(found: Sequence[Prepared], validation: Sequence[Example], wanted) -> Network:
    """Train until the time is spent; every few minutes validate, and keep what is needed to go on."""
    network, odds = new_network(), chances(found)
    network.bf16 = wanted.precision == "bf16"
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    checkpoint, weights = wanted.out / "checkpoint.pt", wanted.out / "cellpose"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
    network.diam_labels.data = torch.tensor([np.mean([one.diameter for one in found])], dtype=torch.float32)

    def step(number: int, progress: float) -> float:
        for group in optimiser.param_groups:
            group["lr"] = rate(number, progress)
        return one_step(network.train(), optimiser, found, odds, number)

    def keep() -> None:
        state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
        torch.save(state, f"{checkpoint}.part")
        network.save_model(str(weights))
        Path(f"{checkpoint}.part").replace(checkpoint)

    runs.train(wanted, step, keep, lambda: validate(weights, validation))
    return network


def new_network() -> Network:
    """Random weights."""
    torch.manual_seed(0)
    network = Network([2, 32, 64, 128, 256], 3, sz=3, mkldnn=False, max_pool=True, diam_mean=DIAMETER)
    return network.to(memory_format=torch.channels_last)


def rate(step: int, progress: float) -> float:
    """The learning rate of `train_seg`, its epochs replaced by parts of the time (0..1)."""
    warm = min(1.0, step * BATCH / EPOCH / WARM_EPOCHS)
    halved = max(0, int((progress - (1 - LAST_PART)) / LAST_PART * HALVINGS) + 1) if progress > 1 - LAST_PART else 0
    return RATE * warm * 0.5 ** min(halved, HALVINGS)


def one_step(network: Network, optimiser: torch.optim.Optimizer, found, odds: np.ndarray, step: int) -> float:
    """Draw a batch as `train_seg` does (it uses numpy's global random numbers), and learn from it."""
    np.random.seed(step)
    chosen = [found[place] for place in np.random.choice(len(found), BATCH, p=odds)]
    images, maps, _ = transforms.random_rotate_and_resize(
        [one.image.astype(np.float32) for one in chosen],
        Y=[one.maps.astype(np.float32) for one in chosen],
        rescale=np.array([one.diameter / DIAMETER for one in chosen]),
        scale_range=0.5,
        xy=(TILE, TILE),
    )
    loss = train._loss_fn_seg(maps, network(torch.from_numpy(images))[0], CPU)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def learn_sizes(network: Network, found: Sequence[Prepared], weights: Path) -> None:
    """Cellpose's size model: ten epochs of its own code."""
    train.train_size(
        network,
        str(weights),
        train_data=[one.image.astype(np.float32) for one in found],
        train_labels=[np.stack([one.labels, one.labels > 0]).astype(np.float32) for one in found],
        train_probs=chances(found),
        nimg_per_epoch=min(EPOCH, len(found)),
        normalize=False,
        batch_size=BATCH,
    )


def picture(example: Example) -> tuple[np.ndarray, list[int]]:
    """(Y, X), or (Y, X, 3) where there is a nuclear channel, with its channel numbers counted from 1."""
    if not example.image[1].any():
        return example.image[0], [0, 0]
    return np.stack([*example.image, np.zeros_like(example.image[0])], axis=-1), [1, 2]


def validate(weights: Path, validation: Sequence[Example]) -> dict[str, float]:
    """Mean AP of validation images with true diameters."""
    model = models.CellposeModel(gpu=False, pretrained_model=str(weights))
    found = []
    for example in validation:
        pixels, channels = picture(example)
        diameter = example.diameter if example.diameter > 0 else DIAMETER
        found.append(model.eval(pixels, channels=channels, diameter=diameter)[0].astype(np.int32))
    return runs.mean_precision((example.labels for example in validation), found)


def choose(model, sizes, validation: Sequence[Example]) -> tuple[tuple[float, float], float]:
    """Thresholds (probability, flow error) of highest mean AP@0.5 with automatic diameters, and that."""
    table = []
    for example in validation:
        pixels, channels = picture(example)
        diameter = float(sizes.eval(pixels, channels=channels)[0])
        flow, logit = model.eval(pixels, channels=channels, diameter=diameter, compute_masks=False)[1][1:3]
        row = []
        for probability, error in THRESHOLDS:
            labels = dynamics.resize_and_compute_masks(
                *(flow, logit, 200 * diameter / DIAMETER, probability, error), device=CPU
            )
            row.append(average_precision(example.labels, labels.astype(np.int32), (0.5,), IGNORE)[0])
        table.append(row)
    means = np.mean(table, axis=0)
    return THRESHOLDS[int(means.argmax())], float(means.max())


def predict(weights: Path, validation: Sequence[Example], test: Sequence[Example], wanted) -> None:
    """Choose the thresholds on validation, then segment the test images."""
    model = models.CellposeModel(gpu=False, pretrained_model=str(weights))
    sizes = models.SizeModel(model, device=CPU, pretrained_size=f"{weights}_size.npy")
    (probability, error), score = choose(model, sizes, validation)
    told = wanted.diameter == "true"
    for example in test:
        pixels, channels = picture(example)
        started = time.perf_counter()
        known = told and example.diameter > 0
        diameter = example.diameter if known else float(sizes.eval(pixels, channels=channels)[0])
        labels = model.eval(
            *(pixels,), channels=channels, diameter=diameter, cellprob_threshold=probability, flow_threshold=error
        )[0]
        save_prediction(runs.predictions(wanted), example, labels, time.perf_counter() - started, diameter)
    settings = {
        "thresholds": {"probability": probability, "flow": error},
        "rate": RATE,
        "batch": BATCH,
        "validation_ap50": round(score, 4),
        **{name: version(name) for name in ("cellpose", "torch")},
    }
    runs.tell_about(wanted, "Cellpose 3, trained here", settings)


if __name__ == "__main__":
    sys.exit(main())
