"""The training loop (paper, "Training"): one visible loop that can stop and resume."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cellbasin.atomic import atomic
from cellbasin.engines.hardware import find_hardware
from cellbasin.network import Network, build
from cellbasin.network_outputs import FLOW_SCALE
from cellbasin.training.generated import GENERATED
from cellbasin.training.prepared import TrainingImage
from cellbasin.training.recipe import Recipe
from cellbasin.training.sampling import NORM_BATCHES, Batch, Prefetcher, Sampler, Stage
from cellbasin.weights import Architecture, Card, Weights, save_weights

_LOG_EVERY = 50
_SAVE_EVERY = 180.0  # seconds
_LONGEST_STEP = 60.0  # seconds; more means that the process was paused, not that the machine is old or busy
_NORM_BATCHES = 40
_LENGTH = ("minutes", "epochs")  # settings that may change while a run goes on


class TrainingError(RuntimeError):
    """Training that cannot go on."""


@dataclass(slots=True)
class RunState:
    """Where a run is: optimiser steps, crops seen, seconds of training over all sessions, best validation score."""

    step: int = 0
    crops: int = 0
    seconds: float = 0.0
    best: float = -1.0


Validate = Callable[[Network], dict[str, float]]
Report = Callable[[dict[str, Any]], None]


def loss_terms(maps: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Flow and inside losses (paper, "Deep neural network").

    maps: (N, 3, Y, X) 5 x flow and logit; target: (N, 4, Y, X) flow, inside, weight (0 where not annotated).
    Returns 0.5 x the mean squared error of 5 x flow (over both components), and the binary cross-entropy.
    """
    weight = target[:, 3:4]
    total = weight.sum().clamp(min=1.0)
    flow = 0.5 * (weight * (maps[:, :2] - FLOW_SCALE * target[:, :2]) ** 2).sum() / (2 * total)
    entropy = functional.binary_cross_entropy_with_logits(maps[:, 2:3], target[:, 2:3], reduction="none")
    return flow, (weight * entropy).sum() / total


def rate_at(done: float, step: int, recipe: Recipe) -> float:
    """Learning rate when the part `done` (0..1) of the run is over."""
    by_steps = (step + 1) / recipe.warmup if recipe.warmup else 0.0
    warm = min(1.0, max(by_steps, done / recipe.warm_part))
    if recipe.decay == "halving":  # paper: half every 10 epochs over the last fifth of 500
        halvings = max(0.0, done - (1 - recipe.cooldown)) / recipe.cooldown * 10
        return recipe.learning_rate * warm * 0.5 ** math.floor(halvings)
    return recipe.learning_rate * warm * min(1.0, max(0.0, (1 - done) / recipe.cooldown))


def train(  # noqa: PLR0913
    images: Sequence[TrainingImage],
    architecture: Architecture,
    recipe: Recipe,
    out: Path,
    *,
    start: Weights | None = None,
    validate: Validate | None = None,
    validate_every: float = 900.0,
    report: Report | None = None,
    session_minutes: float = math.inf,
) -> Path:
    """Train a network and write `out` (weights), beside it .best.safetensors, .checkpoint.pt and .log.jsonl.

    Resumes from the checkpoint if there is one. `session_minutes` ends this session early and returns the checkpoint.
    `validate` scores a network ("score" in its result decides which is best). `report` gets every log line.
    Raises TrainingError when the loss is no longer finite, another process trains the same file, the checkpoint cannot
    be read, or the run was begun with another seed, recipe or architecture, from another network or on other images.
    """
    with _alone(out):
        run = _Run(images, architecture, recipe, out, start, report)
        batches = Prefetcher(run.draw, run.state.step)
        begin = last_save = last_validation = last_step = time.monotonic()
        try:
            while run.done < 1:
                run.set_rate()
                image, target = batches.next()
                run.step(run.tensor(image).contiguous(memory_format=torch.channels_last), run.tensor(target))
                now = time.monotonic()
                run.state.seconds += min(now - last_step, _LONGEST_STEP)
                last_step = now
                if run.state.step % _LOG_EVERY == 0:
                    run.log(drawing=batches.seconds / (now - begin))
                if now - last_save > _SAVE_EVERY:
                    run.save()
                    last_save = now
                if validate and now - last_validation > validate_every:
                    run.validate(run.average_with_norms(), validate)
                    last_step = last_validation = time.monotonic()
                if now - begin > session_minutes * 60:
                    return run.checkpoint
            final = run.average_with_norms()
            if validate:
                run.validate(final, validate)
            run.export(final, out)
            return out
        finally:
            batches.close()
            run.save()


class _Run:
    """Everything that a checkpoint holds, and what is done with it."""

    def __init__(
        self,
        images: Sequence[TrainingImage],
        architecture: Architecture,
        recipe: Recipe,
        out: Path,
        start: Weights | None,
        report: Report | None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.report = recipe, out, report
        self.sampler = Sampler(images, recipe)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.bf16 = self.device.type == "cuda" or find_hardware().has_bf16
        network = build(start) if start else Network(architecture)
        self.network = network.to(self.device, memory_format=torch.channels_last).train()
        self.keep_norms = recipe.keep_norms and start is not None
        if self.keep_norms:
            for norm in _norms(self.network):
                norm.eval()
        self.average = deepcopy(self.network).requires_grad_(False)
        self.optimizer = _optimizer(self.network, recipe)
        self.state = RunState()
        self.sources = tuple(sorted({image.source for image in images}))
        own = sorted(image.content for image in images if image.source != GENERATED)
        self.images = f"{len(own)} ({hashlib.sha256(''.join(own).encode()).hexdigest()[:8]})"
        self.start = start
        self.steps = round(recipe.epochs * max(1, (len(own) or len(images)) // recipe.schedule[-1][2]))
        self.sums, self.summed = torch.zeros(2), 0
        self.checkpoint = out.with_suffix(".checkpoint.pt")
        if self.checkpoint.exists():
            self._restore()

    @property
    def done(self) -> float:
        """The part of the run that is over, 0..1."""
        return self._part(self.state.step)

    def _part(self, step: int) -> float:
        return step / self.steps if self.steps else self.state.seconds / (self.recipe.minutes * 60)

    def stage(self, step: int) -> Stage:
        """What batch number `step` is made of."""
        part, recipe = self._part(step), self.recipe
        size, count = next((size, count) for begin, size, count in reversed(recipe.schedule) if part >= begin)
        return Stage(size, count, recipe.generated if part < recipe.generated_until else 0.0)

    def draw(self, number: int) -> Batch:
        """Batch of this number, as the part of the run that it is for wants it."""
        return self.sampler.draw(self.stage(number), number)

    def precision(self) -> torch.autocast:
        """In which the network computes: bf16 where the device can, else float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def set_rate(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.done, self.state.step, self.recipe)

    def step(self, image: Tensor, target: Tensor) -> None:
        """One step of the optimiser on images (N, 2, Y, X) and targets (N, 4, Y, X)."""
        with self.precision():
            maps, _ = self.network(image)
        flow_loss, inside_loss = loss_terms(maps.float(), target)
        (flow_loss + inside_loss).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        self.state.crops += len(image)
        decay = min(self.recipe.average, (1 + self.state.step) / (10 + self.state.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        self.sums += torch.stack([flow_loss.detach(), inside_loss.detach()]).cpu()
        self.summed += 1

    def log(self, drawing: float) -> None:
        """Write the mean losses since the last line; `drawing`: processor time spent on crops per second."""
        if not torch.isfinite(self.sums).all():
            raise TrainingError(
                f"the loss is no longer finite at step {self.state.step}: lower the learning rate or check the images; "
                f"the last good checkpoint is {self.checkpoint}"
            )
        flow, inside = (self.sums / self.summed).tolist()
        rate = self.optimizer.param_groups[0]["lr"]
        self._line(rate=rate, flow=flow, inside=inside, drawing=drawing)
        self.sums, self.summed = torch.zeros(2), 0

    def _line(self, **values: float) -> None:
        state = self.state
        record: dict[str, Any] = {"step": state.step, "crops": state.crops, "seconds": round(state.seconds, 1)}
        record |= {key: round(float(value), 6) for key, value in values.items()}
        with self.out.with_suffix(".log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self.report:
            self.report(record)

    @torch.no_grad()
    def average_with_norms(self) -> Network:
        """A copy of the averaged network, its batch-norm statistics from a fixed set of batches, or kept."""
        if self.keep_norms:
            return deepcopy(self.average).eval()
        network = deepcopy(self.average).train()
        for norm in _norms(network):
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        for number in range(_NORM_BATCHES):
            image, _ = self.draw(NORM_BATCHES + number)
            with self.precision():
                network(self.tensor(image).contiguous(memory_format=torch.channels_last))
        return network.eval()

    def validate(self, network: Network, validate: Validate) -> None:
        """Score the network, and keep it if it is the best so far."""
        scores = validate(network)
        self._line(**{f"validation_{key}": value for key, value in scores.items()})
        if scores["score"] > self.state.best:
            self.state.best = scores["score"]
            self.export(network, self.out.with_suffix(".best.safetensors"))

    def export(self, network: Network, path: Path) -> None:
        """Write a weights file."""
        recipe = self.recipe
        length = {"steps": self.state.step, "crops": self.state.crops, "hours": round(self.state.seconds / 3600, 3)}
        licence, note = _terms(recipe, self.start)
        card = Card(
            name=path.name.split(".")[0],
            architecture=network.architecture,
            diameter=recipe.diameter,
            licence=licence,
            note=note,
            sources=self.sources,
            ancestors=self.start.lineage if self.start else (),
            recipe={**asdict(recipe), **length},
        )
        save_weights(path, card, network.tensors())

    def save(self) -> None:
        """Write the checkpoint, unless the network has gone bad since the last one."""
        if not torch.isfinite(self.sums).all():
            return
        saved = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimizer")}
        with atomic(self.checkpoint) as temporary:
            torch.save({**saved, "progress": asdict(self.state), "origin": self.origin}, temporary)

    @property
    def origin(self) -> dict[str, str]:
        """What must not change in a run, else its card would not say what it has learned from, and how."""
        settings = asdict(self.recipe)
        return {
            "network to start from": self.start.sha256[:12] if self.start else "none",
            "architecture": str(self.network.architecture),
            "sources": ", ".join(self.sources),
            "images": self.images,
            "recipe": self.recipe.name,
            **{name: str(value) for name, value in settings.items() if name not in ("name", *_LENGTH)},
        }

    def _restore(self) -> None:
        try:
            saved = torch.load(self.checkpoint, "cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise TrainingError(
                f"{self.checkpoint} is damaged, expected a checkpoint to go on from: remove it to begin anew"
            ) from error
        for name, begun in saved["origin"].items():
            if begun != (here := self.origin[name]):
                raise TrainingError(
                    f"{self.checkpoint} was begun with {name} {begun}, not {here}: use that again, or write to another "
                    "file"
                )
        for name in ("network", "average", "optimizer"):
            getattr(self, name).load_state_dict(saved[name])
        self.state = RunState(**saved["progress"])


def _norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def _terms(recipe: Recipe, start: Weights | None) -> tuple[str, str]:
    """Licence and note; what a network learned under stricter terms keeps them when it is trained on."""
    if start is not None and start.card.note:
        return start.card.licence, "; ".join(note for note in dict.fromkeys((start.card.note, recipe.note)) if note)
    return recipe.licence, recipe.note


def _optimizer(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    """Weight decay on convolutions and linear maps; with AdamW not on norms and biases, which have no scale to lose."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(decayed + plain, recipe.learning_rate, momentum=0.9, weight_decay=recipe.weight_decay)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, recipe.learning_rate, foreach=True)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two processes that train the same file would spoil each other's checkpoint."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    path = out.with_suffix(".lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink == 0:
                raise BlockingIOError("it was removed, by a process that had just ended, after it was opened")
        except OSError as error:
            raise TrainingError(
                f"{out} is being trained by another process: wait for it or write another file"
            ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
