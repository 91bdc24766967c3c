"""`cellpose.models`: networks with `eval`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cellbasin.cellpose import images
from cellbasin.cellpose.networks import STAND_INS, find_network
from cellbasin.cellpose.thresholds import CELLPOSE_FLOW_THRESHOLD, judged_by, probability_threshold
from cellbasin.cellpose_api.arrays import arranged, as_masks, channel_pair, has_planes, own_value, picked
from cellbasin.cellpose_api.core import use_gpu
from cellbasin.cellpose_api.dynamics import LARGEST, not_too_large
from cellbasin.cellpose_api.transforms import normalize_img
from cellbasin.image import Image
from cellbasin.io import flow_colours
from cellbasin.model import Model, load_model
from cellbasin.network_outputs import FLOW_SCALE, logit_of
from cellbasin.options import Options
from cellbasin.results import Segmentation
from cellbasin.weights import PAPER, Card, Weights

_DEFAULT = "cyto3"
MODEL_NAMES = [*STAND_INS[:-1]]
_NEUTRAL: dict[str, Any] = {
    "lowhigh": None,
    "percentile": (1, 99),
    "normalize": True,
    "sharpen_radius": 0,
    "smooth_radius": 0,
    "tile_norm_blocksize": 0,
}
_FREE = ("norm3D", "tile_norm_smooth3D", "invert")

__all__ = ["MODEL_NAMES", "Cellpose", "CellposeModel", "SizeModel", "use_gpu"]


class CellposeModel:
    """A network by name or file; see `cellbasin.cellpose.networks.find_network` for what a name means.

    A warning says where our model stands in for one of Cellpose's that is not here. With `pretrained_model=False` it
    is a network of Cellpose's kind that knows nothing yet, to be trained from scratch (which needs PyTorch).

    >>> masks, flows, styles = CellposeModel(pretrained_model="general").eval(np.zeros((64, 64)), channels=[0, 0])
    >>> masks.shape, len(flows), styles.shape
    ((64, 64), 3, (256,))
    """

    def __init__(
        self,
        gpu: bool = False,
        pretrained_model: Any = _DEFAULT,
        model_type: str | None = None,
        mkldnn: bool = True,
        diam_mean: float = 30.0,
        device: Any = None,
        nchan: int = 2,
        pretrained_model_ortho: Any = None,
        backbone: str = "default",
        *,
        net_avg: bool = False,
        residual_on: bool = True,
        style_on: bool = True,
        concatenation: bool = False,
    ) -> None:
        _only("pretrained_model_ortho", pretrained_model_ortho, None)
        _only("backbone", backbone, "default")
        _only("nchan", nchan, 2)
        _only("residual_on", residual_on, True)
        _only("style_on", style_on, True)
        _only("concatenation", concatenation, False)
        if isinstance(pretrained_model, list | tuple) and len(pretrained_model) == 1:
            pretrained_model = pretrained_model[0]
        if model_type and pretrained_model in (_DEFAULT, False, None):
            pretrained_model = model_type
        self.pretrained_model: str | bool = str(pretrained_model) if pretrained_model else False
        self.model: Model = _network(str(pretrained_model)) if pretrained_model else _untrained(diam_mean)
        self.net = self.model  # for `train.train_seg`
        card = self.model.card
        self.diam_mean = float(card.diameter)
        self.diam_labels = float(card.typical_diameter or card.diameter)
        self.estimates = card.conventions != "cellpose" or bool(card.size_model)
        self.gpu = self.model.engines[0].device != "cpu"
        self.device, self.nchan, self.nclasses = self.model.engines[0].device, 2, 3

    def eval(self, x: Any, batch_size: int = 8, **settings: Any) -> tuple[Any, Any, Any]:
        """Segment an image, or each of a list: (masks, [colours, flow, logit], style), lists for a list.

        Keywords as Cellpose 3's `eval`. diameter None: the network's own (`diam_labels`), or estimated where the
        network is cellbasin's or has a size model. Raises ValueError for settings that cannot be followed, TypeError
        for unknown ones.
        """
        masks, flows, styles, _ = _answer(self, x, settings, automatic=False)
        return masks, flows, styles

    def train(self, train_data: Any, train_labels: Any, train_files: Any = None, **settings: Any) -> str:
        """Cellpose 2's training: `train.train_seg` of this network; returns the new file's path."""
        from cellbasin.cellpose_api.train import train_seg

        return str(train_seg(self.net, train_data, train_labels, train_files, **settings)[0])


def _network(name: str) -> Model:
    found, notice = find_network(name)
    if notice:
        warnings.warn(notice, stacklevel=3)
    return load_model(found)


def _untrained(diameter: float) -> Model:
    from cellbasin.network import Network

    card = Card("untrained", PAPER, diameter=diameter, conventions="cellpose")
    return Model([Weights(card, Network(PAPER).tensors(), sha256="")])


class Cellpose:
    """A network that estimates the diameter where `eval` is given None or 0."""

    def __init__(
        self,
        gpu: bool = False,
        model_type: str | None = "cyto3",
        nchan: int = 2,
        device: Any = None,
        backbone: str = "default",
        net_avg: bool = True,
    ) -> None:
        self.cp = CellposeModel(gpu=gpu, model_type=model_type, nchan=nchan, device=device, backbone=backbone)
        self.sz = SizeModel(self.cp)
        self.diam_mean, self.gpu, self.device = self.cp.diam_mean, self.cp.gpu, self.cp.device

    def eval(
        self,
        x: Any,
        batch_size: int = 8,
        channels: Any = (0, 0),
        channel_axis: int | None = None,
        *,
        diameter: Any = 30.0,
        **settings: Any,
    ) -> tuple[Any, Any, Any, Any]:
        """As `CellposeModel.eval`, and the diameters in pixels as a fourth result; the channels are gray by default."""
        settings |= {"diameter": diameter, "channels": channels, "channel_axis": channel_axis}
        return _answer(self.cp, x, settings, automatic=True)


class SizeModel:
    """Estimates diameters with a network, by the size model that lies beside its file."""

    def __init__(self, cp_model: CellposeModel, device: Any = None, pretrained_size: Any = None) -> None:
        _only("pretrained_size", pretrained_size, None)
        self.cp, self.diam_mean = cp_model, cp_model.diam_mean

    def eval(self, x: Any, channels: Any = None, **settings: Any) -> tuple[Any, Any]:
        """(diameter, diameter) in pixels of an image, or lists for a list: one estimate is made, not two."""
        results = _segment_each(self.cp, x, {**settings, "channels": channels, "diameter": None}, automatic=True)
        found = [result.diameter for result in results]
        return (found, found) if _is_list(x) else (found[0], found[0])


def _is_list(x: Any) -> bool:
    return isinstance(x, list | tuple) or (isinstance(x, np.ndarray) and x.dtype == object)


def _answer(model: CellposeModel, x: Any, settings: dict[str, Any], *, automatic: bool) -> tuple[Any, Any, Any, Any]:
    """Masks, flows, style and diameter of an image, or lists of them for a list."""
    found = [
        (*_as_cellpose(result, settings.get("compute_masks", True)), result.diameter)
        for result in _segment_each(model, x, settings, automatic=automatic)
    ]
    if not _is_list(x):
        return found[0]
    masks, flows, styles, diameters = ([one[k] for one in found] for k in range(4))
    return masks, flows, styles, diameters


def _segment_each(model: CellposeModel, x: Any, settings: dict[str, Any], *, automatic: bool) -> list[Segmentation]:
    if not _is_list(x):
        return [_segment_one(model, x, automatic=automatic, **settings)]
    results = []
    for number, image in enumerate(x):
        own = {**settings, "diameter": own_value(settings.get("diameter"), number, len(x))}
        if settings.get("channels") is not None:
            own["channels"] = channel_pair(settings["channels"], number, len(x))
        results.append(_segment_one(model, image, automatic=automatic, **own))
    return results


def _segment_one(
    model: CellposeModel,
    x: np.ndarray,
    *,
    automatic: bool,
    channels: Any = None,
    channel_axis: int | None = None,
    z_axis: int | None = None,
    normalize: bool | Mapping[str, Any] = True,
    invert: bool = False,
    rescale: float | None = None,
    diameter: float | None = None,
    flow_threshold: float | None = CELLPOSE_FLOW_THRESHOLD,
    cellprob_threshold: float = 0.0,
    mask_threshold: float | None = None,
    do_3D: bool = False,
    anisotropy: float | None = None,
    flow3D_smooth: float = 0.0,
    stitch_threshold: float = 0.0,
    min_size: int = 15,
    augment: bool = False,
    tile_overlap: float = 0.1,
    bsize: int = 224,
    max_size_fraction: float = LARGEST,
    resample: bool = True,
    interp: bool = True,
    niter: int | None = None,
    compute_masks: bool = True,
    net_avg: bool = True,
    tile: bool = True,
    progress: Any = None,
    batch_size: int = 8,
) -> Segmentation:
    """One image; the keywords from `resample` on change nothing here. As in Cellpose, planes are stitched only where
    there are some and no 3D was asked for, and only 3D looks at `anisotropy`. Planes that are stitched are normalised
    together, or each by itself for `normalize={"norm3D": False}`; 3D always does the first, all else the second.
    """
    _check_normalize(normalize)
    stitched = stitch_threshold > 0 and not do_3D and has_planes(x, channel_axis, z_axis)
    inverted = invert or (isinstance(normalize, Mapping) and bool(normalize.get("invert")))
    planes, axes = arranged(x, channel_axis, z_axis, volume=do_3D or stitched)
    pixels = picked(planes, channels)
    pixels = pixels.astype(np.uint8) if pixels.dtype.kind == "b" else pixels
    if stitched and isinstance(normalize, Mapping) and not normalize.get("norm3D", True):
        pixels = normalize_img(pixels, norm3D=False, axis=0)
    if inverted:
        pixels = images.inverted(pixels)
    logit = cellprob_threshold if mask_threshold is None else mask_threshold
    if rescale and not diameter:
        diameter = model.diam_mean / rescale
    if not diameter and not automatic and not model.estimates:
        diameter = model.diam_labels
    options = Options(
        diameter=diameter or None,
        channels=tuple(range(len(pixels))),
        augment=augment,
        probability_threshold=probability_threshold(logit),
        **judged_by(flow_threshold or 0),
        min_size=max(min_size, 0),
        overlap=tile_overlap,
        tile=bsize,
        volume_mode="stitch" if stitched else "flows",
        stitch_threshold=stitch_threshold if stitched else Options().stitch_threshold,
        anisotropy=(anisotropy or None) if do_3D else None,
        smoothing=flow3D_smooth or None,
    )

    def segment(image: Image) -> Segmentation:
        result = model.model.segment(image, options=options)
        return result.only(not_too_large(result.labels, max_size_fraction))

    if axes == "CZYX" and not do_3D and not stitched:
        return _plane_by_plane(segment, pixels)
    return segment(Image(pixels, axes))


def _plane_by_plane(segment: Callable[[Image], Segmentation], pixels: np.ndarray) -> Segmentation:
    """A volume as so many images: labels of different planes have nothing to do with each other."""
    results = [segment(Image(pixels[:, z], "CYX")) for z in range(pixels.shape[1])]
    first = results[0]
    flow = np.stack([result.flow for result in results], axis=1)
    stacked = [np.stack([getattr(result, name) for result in results]) for name in ("labels", "probability")]
    return Segmentation(stacked[0], flow, stacked[1], first.style, first.diameter, first.objects, first.provenance)


def _as_cellpose(result: Segmentation, compute_masks: bool) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    masks = as_masks(result.labels) if compute_masks else np.zeros(0)
    logit = logit_of(result.probability).astype(np.float32)
    flows = [flow_colours(result.flow[-2:]), (FLOW_SCALE * result.flow).astype(np.float32), logit]
    return masks, flows, result.style


def _check_normalize(normalize: bool | Mapping[str, Any]) -> None:
    if not isinstance(normalize, Mapping):
        normalize = {"normalize": normalize}
    for name, value in normalize.items():
        if name not in (*_NEUTRAL, *_FREE):
            raise ValueError(f"found normalize[{name!r}], expected some of {', '.join((*_NEUTRAL, *_FREE))}")
        if name in _NEUTRAL and value is not None and not np.array_equal(value, _NEUTRAL[name]):
            raise ValueError(
                f"found {name}={value!r} for normalize, expected {_NEUTRAL[name]!r}: images are always normalised by "
                "percentiles 1 and 99"
            )


def _only(name: str, value: Any, expected: Any) -> None:
    if value not in (expected, None):
        raise ValueError(f"found {name}={value!r}, expected {expected!r}: nothing else can be run here")
