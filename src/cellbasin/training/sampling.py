"""Which image the next crop comes from, and batches of crops made ahead of time by a thread."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cellbasin.training.crops import draw_crop
from cellbasin.training.generated import GENERATED
from cellbasin.training.prepared import TrainingImage
from cellbasin.training.recipe import Recipe

_LARGE_SOURCE = 200  # images; a source this large is balanced by look, not as one
_SMALL_LOOK = 8

# Numbers of batches that no training run reaches, for other uses.
NORM_BATCHES, CALIBRATION_BATCH = 2**40, 2**41

Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a batch is made of: crop size in pixels, number of crops, share of generated images."""

    size: int
    count: int
    generated: float = 0.0


def image_weights(images: Sequence[TrainingImage], generated: float, balance: float = 0.5) -> np.ndarray:
    """Probability (N,) of drawing each image: a source counts as its number of images to the power `balance`, and
    within a large source each look as its own. Generated images (source "generated") get the share `generated`.
    """
    sources = Counter(image.source for image in images)
    looks = Counter(image.look for image in images)

    def bucket(image: TrainingImage) -> str:
        if sources[image.source] < _LARGE_SOURCE:
            return image.source
        return image.look if looks[image.look] >= _SMALL_LOOK else f"{image.source}/{image.layout}/rare"

    sizes = Counter(bucket(image) for image in images)
    weights = np.array([sizes[bucket(image)] ** (balance - 1) for image in images], np.float64)
    names = np.array([image.source for image in images])
    for source, count in sources.items():
        weights[names == source] *= count**balance / weights[names == source].sum()
    drawn = names == GENERATED
    if drawn.any() and not drawn.all():
        weights[drawn] *= generated / weights[drawn].sum()
        weights[~drawn] *= (1 - generated) / weights[~drawn].sum()
    return weights / weights.sum()


class Sampler:
    """Draws batches of crops. A batch depends on the recipe's seed, its stage and its number alone."""

    def __init__(self, images: Sequence[TrainingImage], recipe: Recipe) -> None:
        self.images, self.recipe = images, recipe
        self._weights: dict[float, np.ndarray] = {}

    def draw(self, stage: Stage, number: int) -> Batch:
        """Images (n, 2, s, s) and targets (n, 4, s, s), float32, as the stage tells."""
        if stage.generated not in self._weights:
            self._weights[stage.generated] = image_weights(self.images, stage.generated, self.recipe.balance)
        rng = np.random.default_rng((self.recipe.seed, number))
        chosen = rng.choice(len(self.images), stage.count, p=self._weights[stage.generated])
        crops = [draw_crop(self.images[index], stage.size, self.recipe, rng) for index in chosen]
        return np.stack([crop.image for crop in crops]), np.stack([crop.target for crop in crops])


class Prefetcher:
    """Endless batches, `draw(first)`, `draw(first + 1)` and so on, drawn ahead by a thread.

    `seconds` is the processor time spent drawing so far.
    """

    def __init__(self, draw: Callable[[int], Batch], first: int) -> None:
        self.seconds = 0.0
        self._draw = draw
        self._queue: queue.Queue[Batch | Exception] = queue.Queue(4)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce, args=(first,), daemon=True)
        self._thread.start()

    def next(self) -> Batch:
        """The next batch; raises what the drawing thread raised."""
        item = self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join(10)

    def _produce(self, number: int) -> None:
        while not self._stop.is_set():
            started = time.thread_time()
            try:
                item: Batch | Exception = self._draw(number)
            except Exception as error:  # noqa: BLE001  handed to the training thread, which raises it
                item = error
            self.seconds += time.thread_time() - started
            number += 1
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.5)
                    break
                except queue.Full:
                    continue
