"""Mask R-CNN of torchvision, trained from scratch; runs in the environment that `run.py maskrcnn` sets up.

A ResNet-34 with feature pyramid and group normalisation (nobody's weights: pictures of the world are not in our
training data either), anchors of 8 to 128 px. As in the paper images keep their size, and objects are enlarged and
shrunk by 0.5 to 1.5 in training. Pixels that nobody annotated are blanked. Large images are segmented in pieces that
overlap; objects are painted by falling score, and those below a score chosen on validation are left out.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import runs
import torch
from images import IGNORE, Example, blanked, chances, crop, examples, save_prediction, scaled_shape
from images import vary_brightness as vary
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from cellbasin.metrics import average_precision
from cellbasin.resize import resize, resize_labels

RATE, DECAY, BATCH, PATCH = 3e-4, 1e-4, 4, 256
SCALE = (0.5, 1.5)
PIECE, SHARED = 512, 192  # pixels of a piece, and that it shares with the next: what is larger may be lost
MOST = 1000  # objects of a piece
SCORES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SMALLEST = 15


def main() -> int:
    wanted = runs.arguments(__doc__)
    model, checkpoint = new_model(), wanted.out / "checkpoint.pt"
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])

    def read(split: str, limit: int | None = wanted.limit) -> list[Example]:
        return [without_unknown(example) for example in examples(split, wanted.only, limit, bright=wanted.bright)]

    def keep() -> None:
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict()}, f"{checkpoint}.part")
        Path(f"{checkpoint}.part").replace(checkpoint)

    if wanted.stage == "train":
        found, few = read("train"), read("validation", min(wanted.limit or runs.VALIDATED, runs.VALIDATED))
        odds = chances(found)
        wanted.out.mkdir(parents=True, exist_ok=True)

        def learn(step: int, progress: float) -> float:
            for group in optimiser.param_groups:
                group["lr"] = runs.rate(step, progress, RATE)
            return one_step(model.train(), optimiser, *batch(found, odds, step))

        runs.train(wanted, learn, keep, lambda: validate(model, few))
    else:
        if not checkpoint.exists():
            sys.exit(f"{wanted.out}: found no checkpoint; train first")
        predict(model, read("validation"), read("test"), wanted)
    return 0


def new_model() -> MaskRCNN:
    """Random weights; three inputs, of which the third repeats the first."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet34",
        weights=None,
        norm_layer=lambda channels: torch.nn.GroupNorm(16, channels),
        trainable_layers=5,
    )
    anchors = AnchorGenerator(tuple((size,) for size in (8, 16, 32, 64, 128)), ((0.5, 1.0, 2.0),) * 5)
    return MaskRCNN(
        backbone,
        num_classes=2,
        rpn_anchor_generator=anchors,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        rpn_post_nms_top_n_test=2 * MOST,
        box_detections_per_img=MOST,
        box_score_thresh=min(SCORES),
        _skip_resize=True,
    )


def without_unknown(example: Example) -> Example:
    """The image blanked where nobody annotated; its labels keep saying so, for scores."""
    return replace(example, image=blanked(example)[0].astype(np.float16))


def batch(found: Sequence[Example], odds: np.ndarray, seed: int) -> tuple[list, list]:
    """Batch number `seed`: pieces of images, and boxes and masks of the objects in them."""
    rng = np.random.default_rng(seed)
    images, targets = [], []
    for place in rng.choice(len(found), BATCH, p=odds):
        image, labels = crop(found[place], rng, PATCH, SCALE)
        unknown = labels == IGNORE
        image = vary(image, rng)
        image[:, unknown] = 0
        images.append(as_input(image))
        targets.append(target(np.where(unknown, 0, labels)))
    return images, targets


def as_input(image: np.ndarray) -> torch.Tensor:
    """Float32 (3, Y, X)."""
    return torch.from_numpy(np.stack([image[0], image[1], image[0]]).astype(np.float32))


def target(labels: np.ndarray) -> dict[str, torch.Tensor]:
    """Boxes, masks and classes (all 1) of the objects."""
    numbers = [n for n, count in enumerate(np.bincount(labels.ravel())) if n and count >= SMALLEST]
    masks = [labels == number for number in numbers]
    boxes = []
    for mask in masks:
        (rows,), (columns,) = np.nonzero(mask.any(axis=1)), np.nonzero(mask.any(axis=0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return {
        "boxes": torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
        "masks": torch.tensor(np.array(masks, np.uint8).reshape(-1, *labels.shape)),
        "labels": torch.ones(len(numbers), dtype=torch.int64),
    }


def one_step(model: MaskRCNN, optimiser: torch.optim.Optimizer, images: list, targets: list) -> float:
    """Learn from one batch: the sum of torchvision's five losses."""
    loss = sum(model(images, targets).values())
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimiser.step()
    return loss.item()


Detection = tuple[float, tuple[slice, slice], np.ndarray]  # score, box, mask in it


def detect(model: MaskRCNN, image: np.ndarray) -> list[Detection]:
    """Objects of an image (2, Y, X), highest score first; those that a piece cuts are left to the next piece."""
    found: list[Detection] = []
    for rows, columns in pieces(image.shape[1:]):
        part = image[:, rows, columns]
        model.transform.min_size = (min(part.shape[1:]),)  # else torchvision enlarges it to 800 pixels
        with torch.inference_mode():
            answer = model.eval()([as_input(part)])[0]
        boxes, masks = answer["boxes"].numpy(), answer["masks"][:, 0].numpy() > 0.5
        for score, (left, top, right, bottom), mask in zip(answer["scores"].tolist(), boxes, masks, strict=True):
            ends = ((top, bottom), image.shape[1], rows), ((left, right), image.shape[2], columns)
            if any(cut(edge, length, piece) for pair, length, piece in ends for edge in pair):
                continue
            box = slice(int(top), int(bottom) + 2), slice(int(left), int(right) + 2)
            found.append((score, (moved(box[0], rows.start), moved(box[1], columns.start)), mask[box]))
    return sorted(found, key=lambda detection: -detection[0])


def moved(part: slice, by: int) -> slice:
    """A slice further on."""
    return slice(part.start + by, part.stop + by)


def cut(edge: float, length: int, piece: slice) -> bool:
    """An edge of a box lies on a border of the piece that is none of the image."""
    size = piece.stop - piece.start
    return (edge < 2 and piece.start > 0) or (edge > size - 2 and piece.stop < length)


def pieces(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Overlapping pieces that cover an image."""
    starts = [[*range(0, max(1, n - SHARED), PIECE - SHARED)] for n in shape]
    for corner in itertools.product(*starts):
        yield tuple(slice(first, min(n, first + PIECE)) for first, n in zip(corner, shape, strict=True))  # type: ignore


def paint(detections: Sequence[Detection], least: float, shape: tuple[int, ...]) -> np.ndarray:
    """Labels int32 (Y, X): every object takes what is still free, and is dropped where half of it is taken."""
    labels, number = np.zeros(shape, np.int32), 0
    for score, box, mask in detections:
        there = labels[box]
        mask = mask[: there.shape[0], : there.shape[1]]
        free = mask & (there == 0)
        if score >= least and free.sum() >= SMALLEST and free.sum() > 0.5 * mask.sum():
            number += 1
            there[free] = number
    return labels


def resized(example: Example, diameter: float) -> np.ndarray:
    """The image at the size where its median object has 30 px; as it is for diameter 0."""
    image = example.image.astype(np.float32)
    return resize(image, scaled_shape(example, diameter)) if diameter > 0 else image


def segment(model: MaskRCNN, example: Example, diameter: float, scores: Sequence[float]) -> list[np.ndarray]:
    """Labels int32 (Y, X) at each of the least scores."""
    image, shape = resized(example, diameter), example.labels.shape
    detections = detect(model, image)
    painted = [paint(detections, least, image.shape[1:]) for least in scores]
    return [resize_labels(labels, shape) if labels.shape != shape else labels for labels in painted]


def validate(model: MaskRCNN, validation: Sequence[Example]) -> dict[str, float]:
    """Mean AP of validation images at native size, least score 0.5."""
    found = (segment(model, example, 0, [0.5])[0] for example in validation)
    return runs.mean_precision((example.labels for example in validation), found)


def predict(model: MaskRCNN, validation: Sequence[Example], test: Sequence[Example], wanted) -> None:
    """Choose the least score on validation, then segment the test images."""

    def diameter(example: Example) -> float:
        return example.diameter if wanted.diameter == "true" else 0.0

    table = []
    for example in validation:
        ways = segment(model, example, diameter(example), SCORES)
        table.append([average_precision(example.labels, labels, (0.5,), IGNORE)[0] for labels in ways])
    means = np.mean(table, axis=0)
    least = SCORES[int(means.argmax())]
    for example in test:
        started = time.perf_counter()
        labels = segment(model, example, diameter(example), [least])[0]
        seconds = time.perf_counter() - started
        save_prediction(runs.predictions(wanted), example, labels, seconds, diameter(example) or float("nan"))
    versions = {name: version(name) for name in ("torch", "torchvision")}
    settings = {"least_score": least, "rate": RATE, "batch": BATCH, "validation_ap50": round(float(means.max()), 4)}
    runs.tell_about(wanted, "Mask R-CNN", {**settings, **versions})


if __name__ == "__main__":
    sys.exit(main())
