"""The network (paper, "Deep neural network"): a residual U-Net with a style vector, described by an `Architecture`.

The paper's network and the half-resolution one are the same class. With `stem=2` the image's 2x2 pixels become channels
(pixel-unshuffle), so that the whole U-Net works on a quarter of the pixels; its last maps hold several values for each
of the four sub-pixels, and a small refinement at full resolution looks at them beside the image.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cellbasin.tensor_shapes import check_tensors
from cellbasin.weights import NORM_EPSILON, Architecture, Weights


class NormReluConv(nn.Module):  # type: ignore[misc]
    """Batch norm, ReLU, 3x3 convolution: the paper's order. `relu=False` for what sees raw pixels or projects."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, relu: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs, eps=NORM_EPSILON, momentum=0.05)
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.conv(functional.relu(x) if self.relu else x)


class DownBlock(nn.Module):  # type: ignore[misc]
    """Two residual blocks of two convolutions; the first changes the number of channels through a 1x1 projection."""

    def __init__(self, inputs: int, outputs: int, *, raw: bool = False) -> None:
        super().__init__()
        self.project = NormReluConv(inputs, outputs, 1, relu=False)
        self.conv = nn.ModuleList(
            [NormReluConv(inputs, outputs, relu=not raw)] + [NormReluConv(outputs, outputs) for _ in range(3)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x) + self.conv[1](self.conv[0](x))
        return x + self.conv[3](self.conv[2](x))


class UpBlock(nn.Module):  # type: ignore[misc]
    """As `DownBlock`; the skip is added before the second convolution, the style before the last three."""

    def __init__(self, inputs: int, outputs: int, styles: int) -> None:
        super().__init__()
        self.project = NormReluConv(inputs, outputs, 1, relu=False)
        self.conv = nn.ModuleList([NormReluConv(inputs, outputs)] + [NormReluConv(outputs, outputs) for _ in range(3)])
        self.style = nn.ModuleList([nn.Linear(styles, outputs) for _ in range(3)])

    def forward(self, x: Tensor, skip: Tensor, style: Tensor) -> Tensor:
        first, second, third = (linear(style)[:, :, None, None] for linear in self.style)
        x = self.project(x) + self.conv[1](self.conv[0](x) + skip + first)
        return x + self.conv[3](self.conv[2](x + second) + third)


class Network(nn.Module):  # type: ignore[misc]
    """Image (N, inputs, Y, X) float → maps (N, outputs, Y, X) and style (N, channels[-1]).

    The maps are 5 x flow (y, x) and the logit of being inside a cell. Y and X are multiples of
    `architecture.divisor`. The style is the L2-normalised mean of the deepest maps.

    >>> network = Network(Architecture()).eval()
    >>> maps, style = network(torch.zeros(1, 2, 64, 96))
    >>> tuple(maps.shape), tuple(style.shape)
    ((1, 3, 64, 96), (1, 256))
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        widths, stem = architecture.channels, architecture.stem
        inputs = (architecture.inputs * stem**2, *widths[:-1])
        self.down = nn.ModuleList(
            [DownBlock(a, b, raw=stem > 1 and n == 0) for n, (a, b) in enumerate(zip(inputs, widths, strict=True))]
        )
        above = (*widths[1:], widths[-1])
        self.up = nn.ModuleList([UpBlock(a, b, widths[-1]) for a, b in zip(above, widths, strict=True)])
        per_pixel = architecture.refine_inputs if architecture.refine else architecture.outputs
        self.output = NormReluConv(widths[0], per_pixel * stem**2, 1)
        if architecture.refine:
            self.refine = nn.Sequential(
                nn.Conv2d(per_pixel + architecture.inputs, architecture.refine, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(architecture.refine, architecture.outputs, 1),
            )

    def encode(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The way down: maps of every scale, largest first, and the style."""
        x = functional.pixel_unshuffle(image, self.architecture.stem) if self.architecture.stem > 1 else image
        skips: list[Tensor] = []
        for n, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if n else x)
            skips.append(x)
        return skips, functional.normalize(x.mean(dim=(2, 3)).float(), dim=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.architecture.stem
        skips, style = self.encode(image)
        x = skips[-1]
        for n in reversed(range(len(self.up))):
            if n < len(self.up) - 1:
                x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.up[n](x, skips[n], style.to(x.dtype))
        x = self.output(x)
        if stem > 1:
            x = functional.pixel_shuffle(x, stem)
        if self.architecture.refine:
            x = self.refine(torch.cat([x, image.to(x.dtype)], dim=1))
        return x, style

    def tensors(self) -> dict[str, np.ndarray]:
        """Weights and running statistics, float32 by name, as a weights file holds them; see `tensor_shapes`."""
        state = self.state_dict()
        return {
            name: tensor.detach().float().cpu().contiguous().numpy()
            for name, tensor in state.items()
            if not name.endswith("num_batches_tracked")
        }


def build(weights: Weights) -> Network:
    """The network of a weights file, in evaluation mode.

    Raises WeightsError naming the first tensor that is missing, unknown or of another shape.
    """
    check_tensors(weights)
    network = Network(weights.card.architecture)
    state = {name: torch.from_numpy(tensor) for name, tensor in weights.tensors.items()}
    network.load_state_dict(state, strict=False)  # without the counts of batches that norms have seen
    return network.eval()
