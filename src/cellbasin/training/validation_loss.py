"""The loss on images that are not learned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from cellbasin.network import Network
from cellbasin.training.loop import loss_terms
from cellbasin.training.prepared import TrainingImage
from cellbasin.training.recipe import Recipe
from cellbasin.training.sampling import Sampler, Stage

_BATCHES, _CROPS, _SIZE = 4, 4, 224


def validation_loss(images: Sequence[TrainingImage], recipe: Recipe) -> Callable[[Network], dict[str, float]]:
    """A function for `train(validate=...)`: the loss on a fixed set of crops; it makes no network the best one."""
    sampler = Sampler(images, recipe)
    crops = [sampler.draw(Stage(_SIZE, _CROPS), number) for number in range(_BATCHES)]

    @torch.no_grad()
    def loss(network: Network) -> dict[str, float]:
        device = next(network.parameters()).device
        terms: list[torch.Tensor] = []
        for image, target in crops:
            maps, _ = network(torch.from_numpy(image).to(device))
            terms += loss_terms(maps.float(), torch.from_numpy(target).to(device))
        return {"score": -1.0, "loss": float(sum(terms)) / len(crops)}

    return loss
