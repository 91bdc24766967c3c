"""Runs an exported network without cellbasin: numpy, scipy, pillow and onnxruntime are all it needs.

    cellbasin models export general general.onnx
    python run_onnx.py general.onnx image.png 30 labels.png        # 30: diameter of the objects in pixels

The image is gray. This is the method at its plainest; the program itself tiles large images, is much faster, and checks
the objects that it finds.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image
from scipy import ndimage

SIDE = 16  # height and width that the network sees are multiples of this
STEPS = 200


def main(network_file: str, image_file: str, diameter: float, labels_file: str) -> None:
    session = onnxruntime.InferenceSession(network_file)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["cellbasin"])
    image = np.asarray(Image.open(image_file).convert("F"))
    low, high = np.percentile(image, (1, 99))
    scale = facts["diameter"] / diameter
    small = ndimage.zoom((image - low) / max(high - low, 1e-6), scale, order=1)
    maps = predict(session, small)
    labels = follow(maps[:2] / 5, maps[2] > 0)
    labels = labels[nearest(image.shape[0], len(labels))][:, nearest(image.shape[1], labels.shape[1])]
    Image.fromarray(labels.astype(np.uint16)).save(labels_file)
    print(f"{labels.max()} objects")


def predict(session: onnxruntime.InferenceSession, image: np.ndarray) -> np.ndarray:
    """Maps (3, Y, X): 5 x flow (y, x) and the logit of being inside."""
    height, width = image.shape
    padded = np.pad(image, ((0, -height % SIDE), (0, -width % SIDE)), mode="reflect")
    both = np.stack([padded, np.zeros_like(padded)])  # no nuclear channel
    maps, _style = session.run(None, {"image": both[None].astype(np.float32)})
    return maps[0, :, :height, :width]


def follow(flow: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Pixels inside follow the flow; where they gather, an object is."""
    start = np.argwhere(inside)
    place = start.astype(np.float64).T
    field = flow * inside
    for _ in range(STEPS):
        place += [ndimage.map_coordinates(part, place, order=1, mode="nearest") for part in field]
        place = np.clip(place, 0, np.array(inside.shape)[:, None] - 1)
    ends = np.round(place).astype(int)
    gathered = np.zeros(inside.shape, int)
    np.add.at(gathered, tuple(ends), 1)
    basins, _ = ndimage.label(ndimage.binary_dilation(gathered > 2, np.ones((3, 3))), np.ones((3, 3)))
    labels = np.zeros(inside.shape, int)
    labels[tuple(start.T)] = basins[tuple(ends)]
    small = np.bincount(labels.ravel()) < 15
    labels[small[labels]] = 0
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def nearest(length: int, of: int) -> np.ndarray:
    """Where each of `length` pixels lies among `of`."""
    return np.minimum(((np.arange(length) + 0.5) * of / length).astype(int), of - 1)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
