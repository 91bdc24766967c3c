"""The training loop (paper, "Training"): one visible loop that can stop and resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellbasin.network import Network, build
from cellbasin.training.dataset import TrainingImage
from cellbasin.training.recipe import Recipe
from cellbasin.training.sampling import Batches, Stage
from cellbasin.weights import Architecture, Card, Weights, save_weights

FLOW_SCALE = 5.0  # paper, "Deep neural network": balances the two losses
_LOG_EVERY = 50
_SAVE_EVERY = 180.0  # seconds
_LONGEST_STEP = 10.0  # seconds; more means that the process was paused
_NORM_BATCHES = 40


class TrainingError(RuntimeError):
    """Training that cannot go on."""


@dataclass(slots=True)
class Progress:
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
    warm = min(1.0, (step + 1) / max(recipe.warmup, 1))
    if recipe.decay == "halving":  # paper: half every 10 epochs over the last fifth of 500
        halvings = max(0.0, done - (1 - recipe.cooldown)) / recipe.cooldown * 10
        return recipe.learning_rate * warm * 0.5 ** math.floor(halvings)
    return recipe.learning_rate * warm * min(1.0, max(0.0, (1 - done) / recipe.cooldown))


def train(  # noqa: PLR0913, PLR0915, C901
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

    Resumes from the checkpoint if there is one. `session_minutes` ends this session early with a checkpoint.
    `validate` scores a network ("score" in its result decides which is best). `report` gets every log line.
    Raises TrainingError when the loss is no longer finite.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    network = build(architecture, _tensors(start)).to(device, memory_format=torch.channels_last).train()
    average = deepcopy(network).requires_grad_(False)
    optimizer = _optimizer(network, recipe)
    state = Progress()
    checkpoint = out.with_suffix(".checkpoint.pt")
    if checkpoint.exists():
        _restore(checkpoint, network, average, optimizer, state, recipe)
    steps_per_epoch = max(1, len(images) // recipe.schedule[-1][2])

    def done() -> float:
        if recipe.epochs:
            return state.step / (recipe.epochs * steps_per_epoch)
        return state.seconds / (recipe.minutes * 60)

    def stage(step: int) -> Stage:
        part = step / (recipe.epochs * steps_per_epoch) if recipe.epochs else done()
        size, count = next((size, count) for begin, size, count in reversed(recipe.schedule) if part >= begin)
        return Stage(size, count, recipe.generated if part < 1 - recipe.cooldown else 0.0)

    batches = Batches(images, recipe, state.step, stage)
    log = _Log(out.with_suffix(".log.jsonl"), report)
    session_start = last_save = last_validation = step_start = time.monotonic()
    sums, summed = torch.zeros(2), 0
    try:
        while done() < 1:
            rate = rate_at(done(), state.step, recipe)
            for group in optimizer.param_groups:
                group["lr"] = rate
            image, target = (torch.from_numpy(array).to(device) for array in batches.next())
            with torch.autocast(device.type, torch.bfloat16):
                maps, _ = network(image.contiguous(memory_format=torch.channels_last))
            flow_loss, inside_loss = loss_terms(maps.float(), target)
            (flow_loss + inside_loss).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            _update_average(average, network, recipe.average, state.step)

            state.step += 1
            state.crops += len(image)
            now = time.monotonic()
            state.seconds += min(now - step_start, _LONGEST_STEP)
            step_start = now
            sums += torch.stack([flow_loss.detach(), inside_loss.detach()]).cpu()
            summed += 1
            if state.step % _LOG_EVERY == 0:
                if not torch.isfinite(sums).all():
                    raise TrainingError(
                        f"the loss is no longer finite at step {state.step}: lower the learning rate ({rate:g} now) or check "
                        f"the images; the last good checkpoint is {checkpoint}"
                    )
                busy = batches.seconds / (time.monotonic() - session_start)
                log.line(state, rate=rate, flow=sums[0] / summed, inside=sums[1] / summed, drawing=busy)
                sums, summed = torch.zeros(2), 0
            if time.monotonic() - last_save > _SAVE_EVERY:
                _save_checkpoint(checkpoint, network, average, optimizer, state, recipe)
                last_save = time.monotonic()
            if validate and time.monotonic() - last_validation > validate_every:
                _validate(_with_norms(average, batches, recipe), validate, state, log, out, recipe)
                last_validation = time.monotonic()
            if time.monotonic() - session_start > session_minutes * 60:
                return checkpoint
        final = _with_norms(average, batches, recipe)
        if validate:
            _validate(final, validate, state, log, out, recipe)
        _export(final, out, recipe, state)
        return out
    finally:
        batches.close()
        if torch.isfinite(sums).all():
            _save_checkpoint(checkpoint, network, average, optimizer, state, recipe)


class _Log:
    """One JSON object a line."""

    def __init__(self, path: Path, report: Report | None) -> None:
        self.path, self.report = path, report

    def line(self, state: Progress, **values: Any) -> None:
        record = {"step": state.step, "crops": state.crops, "seconds": round(state.seconds, 1)}
        record |= {key: round(float(value), 6) for key, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self.report:
            self.report(record)


def _tensors(weights: Weights | None) -> dict[str, Tensor] | None:
    return {key: torch.from_numpy(value) for key, value in weights.tensors.items()} if weights else None


def _optimizer(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    """Weight decay only on convolutions and linear maps; norms and biases have no scale to lose."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        groups[1]["weight_decay"] = recipe.weight_decay
        return torch.optim.SGD(groups, recipe.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, recipe.learning_rate, foreach=True)


@torch.no_grad()
def _update_average(average: Network, network: Network, decay: float, step: int) -> None:
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


@torch.no_grad()
def _with_norms(average: Network, batches: Batches, recipe: Recipe) -> Network:
    """A copy of the averaged network whose batch-norm statistics are its own, from a fixed set of batches."""
    network = deepcopy(average).train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    device = next(network.parameters()).device
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # a plain mean over the batches
    for step in range(_NORM_BATCHES):
        image, _ = batches.draw(-1 - step + 2**40)
        with torch.autocast(device.type, torch.bfloat16):
            network(torch.from_numpy(image).to(device).contiguous(memory_format=torch.channels_last))
    return network.eval()


def _validate(network: Network, validate: Validate, state: Progress, log: _Log, out: Path, recipe: Recipe) -> None:
    scores = validate(network)
    log.line(state, **{f"validation_{key}": value for key, value in scores.items()})
    if scores["score"] > state.best:
        state.best = scores["score"]
        _export(network, out.with_suffix(".best.safetensors"), recipe, state)


def _export(network: Network, path: Path, recipe: Recipe, state: Progress) -> None:
    tensors = {
        k: v.float().cpu().contiguous().numpy() for k, v in network.state_dict().items() if "num_batches" not in k
    }
    record = {
        **asdict(recipe),
        "steps": state.step,
        "crops": state.crops,
        "hours": round(state.seconds / 3600, 3),
    }
    card = Card(
        name=path.name.split(".")[0],
        architecture=network.architecture,
        diameter=recipe.diameter,
        recipe=record,
    )
    save_weights(path, card, tensors)


def _save_checkpoint(
    path: Path,
    network: Network,
    average: Network,
    optimizer: torch.optim.Optimizer,
    state: Progress,
    recipe: Recipe,
) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(
        {
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "progress": asdict(state),
            "seed": recipe.seed,
        },
        partial,
    )
    partial.replace(path)


def _restore(
    path: Path,
    network: Network,
    average: Network,
    optimizer: torch.optim.Optimizer,
    state: Progress,
    recipe: Recipe,
) -> None:
    saved = torch.load(path, weights_only=True)
    if saved["seed"] != recipe.seed:
        raise TrainingError(
            f"{path} was begun with seed {saved['seed']}, not {recipe.seed}: give that seed or another --out"
        )
    network.load_state_dict(saved["network"])
    average.load_state_dict(saved["average"])
    optimizer.load_state_dict(saved["optimizer"])
    for key, value in saved["progress"].items():
        setattr(state, key, value)
