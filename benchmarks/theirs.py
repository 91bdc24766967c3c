"""The rival's side of the comparison: Cellpose as its users call it, in its own environment; run as a worker.

Imports nothing of this package but workers.py.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cellpose import core, dynamics, models, utils
from cellpose import io as files
from workers import serve

CPU = torch.device("cpu")
MODELS: dict[str, Any] = {}


def about() -> Mapping[str, Any]:
    """Versions and threads."""
    versions = {name: importlib.metadata.version(name) for name in ("cellpose", "torch", "numba", "numpy")}
    return {**versions, "threads": str(torch.get_num_threads())}


def load(name: str, model: str) -> None:
    """Load NAME.pth, and NAME.pth_size.npy where it is there, from the folder and stem that `model` is."""
    network = models.CellposeModel(gpu=False, pretrained_model=f"{model}.pth", diam_mean=30.0)
    size = Path(f"{model}.pth_size.npy")
    sizes = models.SizeModel(network, device=CPU, pretrained_size=str(size)) if size.exists() else None
    MODELS[name] = (network, sizes)


def raw(tiles: np.ndarray, name: str) -> Mapping[str, Any]:
    """The network's answers without the conversion for the processor, to compare numbers."""
    network = MODELS[name][0].net
    used, network.mkldnn = network.mkldnn, False
    with torch.no_grad():
        maps, style = network.eval()(torch.from_numpy(tiles))[:2]
    network.mkldnn = used
    return {"maps": maps.numpy(), "style": style.numpy()}


def network(tiles: np.ndarray, name: str) -> Mapping[str, Any]:
    """The network alone, as its pipeline runs a batch of tiles."""
    maps, style = core._forward(MODELS[name][0].net, tiles)
    return {"maps": maps, "style": style}


def flows_to_labels(maps: np.ndarray, logit: np.ndarray, flow_threshold: float = 0.4) -> Mapping[str, Any]:
    """Dynamics with quality control (0: without); maps are 5 x flow."""
    return _labels(maps, logit, niter=200, flow_threshold=flow_threshold)


def labels_to_flows(labels: np.ndarray) -> Mapping[str, Any]:
    """Flows of labels."""
    return {"flow": dynamics.masks_to_flows(labels, device=CPU)}


def labels_to_outlines(labels: np.ndarray) -> Mapping[str, Any]:
    """Outlines of labels, by one thread (its processes are for many images); says only how many."""
    return {"count": len(utils.outlines_list(labels, multiprocessing=False))}


def segment(image: np.ndarray, name: str, diameter: float | None) -> Mapping[str, Any]:
    """The whole pipeline; without a diameter the size model comes first, as in `models.Cellpose`."""
    network, sizes = MODELS[name]
    picture, channels = _picture(image)
    if diameter is None:
        diameter = float(sizes.eval(picture, channels=channels)[0])
    return {
        "labels": network.eval(picture, channels=channels, diameter=diameter)[0].astype(np.int32),
        "diameter": diameter,
    }


def segment_twice(image: np.ndarray, name: str, diameter: float) -> Mapping[str, Any]:
    """Maps of the whole pipeline, and masks by its two integrators: of processors and of graphics processors.

    unjudged: the masks of processors without quality control.
    """
    network = MODELS[name][0]
    picture, channels = _picture(image)
    _, (_, flow, logit), _ = network.eval(picture, channels=channels, diameter=diameter, compute_masks=False)
    niter = int(200 * diameter / 30)
    found = {"processor": _labels(flow, logit, niter)["labels"]}
    found["unjudged"] = _labels(flow, logit, niter, flow_threshold=0)["labels"]
    own, dynamics.steps_interp = dynamics.steps_interp, _steps_as_on_graphics
    found["graphics"] = _labels(flow, logit, niter)["labels"]
    dynamics.steps_interp = own
    return {**found, "flow": flow, "probability": 1 / (1 + np.exp(-logit.astype(np.float64)))}


def write_files(image: np.ndarray, name: str, diameter: float, stem: str) -> Mapping[str, Any]:
    """Its own companion files of an image, STEM_seg.npy and so on."""
    picture, channels = _picture(image)
    masks, flows, _ = MODELS[name][0].eval(picture, channels=channels, diameter=diameter)
    files.imsave(f"{stem}.tif", picture)
    files.masks_flows_to_seg(picture, masks, flows, f"{stem}.tif", channels=channels, diams=diameter)
    files.save_masks(picture, masks, flows, f"{stem}.tif", png=True, tif=True, save_txt=True)
    files.save_rois(masks, f"{stem}.tif", multiprocessing=False)
    return {"masks": masks.astype(np.int32), "flow": flows[1], "logit": flows[2]}


def read_files(stem: str) -> Mapping[str, Any]:
    """What its training and its window read of files of that stem; KeyError where a key is missing."""
    folder = str(Path(stem).parent)
    content = np.load(f"{stem}_seg.npy", allow_pickle=True).item()
    for key in ("outlines", "masks", "chan_choose", "ismanual", "filename", "flows", "diameter"):
        content[key]
    _, from_seg, _ = files.load_images_labels(folder, mask_filter="_seg.npy")
    _, from_png, _ = files.load_images_labels(folder, mask_filter="_cp_masks")
    fits = content["flows"][0].shape[-3] == content["masks"].shape[-2]  # else its window resizes all of them
    return {
        "seg": np.asarray(from_seg[0]).astype(np.int32),
        "png": np.asarray(from_png[0]).astype(np.int32),
        "fits": np.array(fits),
        "raw": content["flows"][4],
    }


def _steps_as_on_graphics(flow: np.ndarray, inds: Any, niter: int, device: Any = CPU) -> Any:
    """What its integrator for graphics processors computes: grid_sample, coordinates from -1 to 1 over L - 1 pixels."""
    reach = torch.tensor([length - 1 for length in flow.shape[:0:-1]], dtype=torch.float32)
    steps = torch.from_numpy(np.ascontiguousarray(flow[::-1])).float()[None] * (2 / reach)[None, :, None, None]
    places = torch.from_numpy(np.stack([inds[1], inds[0]], -1)).float()[None, None] / reach * 2 - 1
    for _ in range(int(niter)):
        step = torch.nn.functional.grid_sample(steps, places, align_corners=False)
        places = (places + step.permute(0, 2, 3, 1)).clamp(-1, 1)
    return ((places[0, 0] + 1) / 2 * reach).flip(-1).T.contiguous()


def segment_volume(volume: np.ndarray, name: str, diameter: float) -> Mapping[str, Any]:
    """The whole pipeline on a volume (Z, Y, X) of cubes."""
    labels = MODELS[name][0].eval(volume, channels=[0, 0], z_axis=0, diameter=diameter, do_3D=True)[0]
    return {"labels": labels.astype(np.int32)}


def stand_in(image: np.ndarray, maps: np.ndarray, logit: np.ndarray, name: str, diameter: float) -> Mapping[str, Any]:
    """The whole pipeline, but labels are made from the given maps: for networks that are not trained."""
    network = MODELS[name][0]
    picture, channels = _picture(image)
    network.eval(picture, channels=channels, diameter=diameter, compute_masks=False)
    return _labels(maps, logit, niter=int(200 * diameter / 30))


def _labels(maps: np.ndarray, logit: np.ndarray, niter: int, flow_threshold: float = 0.4) -> Mapping[str, Any]:
    labels = dynamics.resize_and_compute_masks(maps, logit, niter=niter, flow_threshold=flow_threshold, device=CPU)
    return {"labels": labels.astype(np.int32)}


def _picture(image: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """(C, Y, X) as (Y, X), or as (Y, X, 3) with its channel numbers counted from 1."""
    if len(image) == 1:
        return image[0], [0, 0]
    picture = np.zeros((*image.shape[1:], 3), image.dtype)
    picture[..., : len(image[:3])] = np.moveaxis(image[:3], 0, -1)
    return picture, [1, 2]


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    serve(
        {
            function.__name__: function
            for function in (
                *(about, load, raw, network, flows_to_labels, labels_to_flows, labels_to_outlines),
                *(segment, segment_twice, segment_volume, stand_in, write_files, read_files),
            )
        }
    )
