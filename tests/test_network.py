"""The network: shapes, the paper's number of parameters, gradients, and what `build` refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cellbasin.network import Network, build
from cellbasin.tensor_shapes import tensor_shapes
from cellbasin.weights import HALF, PAPER, Architecture, Card, Weights, WeightsError

SMALL = {
    "half": Architecture(channels=(8, 16)),
    "paper": Architecture(channels=(8, 16), stem=1, refine=0),
    "quarter": Architecture(channels=(8,), stem=4, inputs=3, outputs=4, refine=0),
    "three scales": Architecture(channels=(4, 6, 8), refine=5, refine_inputs=3),
}


@pytest.fixture(params=SMALL, ids=lambda name: name.replace(" ", "-"))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return SMALL[request.param]


def test_shapes_and_unit_styles(architecture: Architecture) -> None:
    d = architecture.divisor
    maps, style = Network(architecture).eval()(torch.rand(2, architecture.inputs, 3 * d, 2 * d))
    assert maps.shape == (2, architecture.outputs, 3 * d, 2 * d)
    assert style.shape == (2, architecture.channels[-1])
    torch.testing.assert_close(style.norm(dim=1), torch.ones(2))


def test_the_paper_network_has_upstreams_number_of_parameters() -> None:
    """6,600,843 numbers are trained; batch norms add their running statistics."""
    network = Network(PAPER)
    assert sum(p.numel() for p in network.parameters()) == 6_600_843
    assert len(list(network.parameters())) == 188


def test_the_half_network_has_the_same_body() -> None:
    extra = sum(p.numel() for p in Network(HALF).parameters()) - 6_600_843
    assert 0 < extra < 10_000


@pytest.mark.parametrize("described", [*SMALL.values(), HALF, PAPER], ids=str)
def test_tensor_shapes_without_torch(described: Architecture) -> None:
    tensors = Network(described).tensors()
    assert tensor_shapes(described) == {name: tensor.shape for name, tensor in tensors.items()}


def test_gradient_reaches_every_parameter(architecture: Architecture) -> None:
    torch.manual_seed(0)
    network = Network(architecture).train()
    d = architecture.divisor
    maps, _ = network(torch.rand(3, architecture.inputs, 2 * d, 4 * d))
    (maps * torch.randn_like(maps)).sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_shifting_by_the_divisor_shifts_the_maps() -> None:
    """Away from borders, and without the style, the network does not know where it is."""
    torch.manual_seed(0)
    architecture = Architecture(channels=(4, 8))
    network = Network(architecture).eval()
    for name, parameter in network.named_parameters():
        if ".style." in name:
            parameter.data.zero_()
    image = torch.rand(1, 2, 128, 128)
    with torch.inference_mode():
        maps, _ = network(image)
        moved, _ = network(torch.roll(image, architecture.divisor, dims=3))
    far = 40
    torch.testing.assert_close(
        torch.roll(maps, architecture.divisor, dims=3)[..., far:-far, far:-far],
        moved[..., far:-far, far:-far],
        atol=1e-5,
        rtol=1e-4,
    )


def test_build_takes_its_own_state(architecture: Architecture) -> None:
    network = Network(architecture).eval()
    again = build(Weights(Card("own", architecture), network.tensors(), ""))
    assert not again.training
    image = torch.rand(1, architecture.inputs, architecture.divisor, architecture.divisor)
    torch.testing.assert_close(again(image)[0], network(image)[0], atol=0, rtol=0)


def test_build_refuses_what_does_not_fit() -> None:
    card, tensors = Card("small", SMALL["half"]), Network(SMALL["half"]).tensors()
    name = "down.0.conv.1.conv.weight"
    with pytest.raises(WeightsError, match=f"lacks the tensor '{name}'"):
        build(Weights(card, {k: v for k, v in tensors.items() if k != name}, ""))
    with pytest.raises(WeightsError, match="unknown tensor 'extra'"):
        build(Weights(card, tensors | {"extra": np.zeros(1, np.float32)}, ""))
    with pytest.raises(WeightsError, match=r"shape \(8, 8, 1, 1\)"):
        build(Weights(card, tensors | {name: np.zeros((8, 8, 1, 1), np.float32)}, ""))
