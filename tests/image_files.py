"""Small files of every format, as bytes, made by independent writers."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import tifffile
from PIL import Image as Pillow

RNG = np.random.default_rng(7)


GRAY8 = RNG.integers(0, 256, (37, 45), np.uint8)


GRAY16 = RNG.integers(0, 65536, (37, 45)).astype(np.uint16)


STACK = RNG.integers(0, 65536, (3, 37, 45)).astype(np.uint16)


RGB = RNG.integers(0, 256, (37, 45, 3), np.uint8)


def png(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def pillow(array: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


IMAGEJ = {"axes": "ZYX", "unit": "um", "spacing": 0.5, "Info": "x" * 100}


OME = {
    "axes": "ZYX",
    "PhysicalSizeX": 200,
    "PhysicalSizeXUnit": "nm",
    "PhysicalSizeY": 0.25,
    "PhysicalSizeZ": 1,
}


# name -> (suffix, bytes, array, axes, voxel size)
FILES: dict[str, tuple[str, bytes, np.ndarray, str, tuple[float, ...] | None]] = {
    "tiff plain": (".tif", tiff(GRAY16), GRAY16, "YX", None),
    "tiff zlib": (".TIF", tiff(GRAY16, compression="zlib"), GRAY16, "YX", None),
    "tiff lzw strips": (".tiff", tiff(GRAY16, compression="lzw", rowsperstrip=8), GRAY16, "YX", None),
    "tiff zstd tiles": (".tif", tiff(GRAY16, compression="zstd", tile=(16, 16)), GRAY16, "YX", None),
    "tiff tiles": (".tif", tiff(GRAY16, tile=(16, 16)), GRAY16, "YX", None),
    "tiff float": (
        ".tif",
        tiff(GRAY16.astype("f4") / 7, compression="zlib", predictor=True),
        GRAY16.astype("f4") / 7,
        "YX",
        None,
    ),
    "tiff int32 big-endian": (
        ".tif",
        tiff(GRAY16.astype(np.int32) - 9, byteorder=">"),
        GRAY16.astype(np.int32) - 9,
        "YX",
        None,
    ),
    "tiff without metadata": (".tif", tiff(GRAY16, metadata=None), GRAY16, "YX", None),
    "tiff per centimetre": (
        ".tif",
        tiff(GRAY16, resolution=(20000, 40000), resolutionunit="CENTIMETER"),
        GRAY16,
        "YX",
        (0.25, 0.5),
    ),
    "tiff dpi": (".tif", tiff(GRAY16, resolution=(72, 72), resolutionunit="INCH"), GRAY16, "YX", None),
    "tiff rgb": (".tif", tiff(RGB, photometric="rgb", compression="zlib"), RGB, "YXS", None),
    "tiff rgba": (
        ".tif",
        tiff(np.dstack([RGB, GRAY8]), photometric="rgb", extrasamples=["unassalpha"]),
        RGB,
        "YXS",
        None,
    ),
    "tiff singletons": (".tif", tiff(GRAY16[None, None], metadata={"axes": "TCYX"}), GRAY16, "YX", None),
    "tiff pillow": (".tif", pillow(RGB, "TIFF", compression="tiff_lzw"), RGB, "YXS", None),
    "bigtiff": (".tif", tiff(GRAY16, bigtiff=True), GRAY16, "YX", None),
    "ome": (".ome.tif", tiff(STACK, metadata=OME, ome=True), STACK, "ZYX", (1.0, 0.25, 0.2)),
    "imagej": (
        ".tif",
        tiff(STACK, imagej=True, metadata=IMAGEJ, resolution=(5, 4)),
        STACK,
        "ZYX",
        (0.5, 0.25, 0.2),
    ),
    "imagej channels": (
        ".tif",
        tiff(STACK, imagej=True, metadata={"axes": "CYX"}, compression="zlib"),
        STACK,
        "CYX",
        None,
    ),
    "png gray": (".png", png(GRAY8), GRAY8, "YX", None),
    "png 16 bits": (".PNG", png(GRAY16), GRAY16, "YX", None),
    "png rgb": (".png", png(RGB), RGB, "YXS", None),
    "png rgba": (".png", png(np.dstack([RGB, GRAY8])), RGB, "YXS", None),
    "png gray with alpha": (".png", png(np.dstack([GRAY8, GRAY8])), GRAY8, "YX", None),
    "png rgb 16 bits": (
        ".png",
        imagecodecs.png_encode(np.moveaxis(STACK, 0, -1).copy()),
        np.moveaxis(STACK, 0, -1),
        "YXS",
        None,
    ),
    "png inside tif": (".tif", png(GRAY8), GRAY8, "YX", None),
    "bmp": (".bmp", pillow(RGB, "BMP"), RGB, "YXS", None),
    "npy": (".npy", npy(GRAY16), GRAY16, "YX", None),
    "npy big-endian": (".npy", npy(GRAY16.astype(">u2")), GRAY16, "YX", None),
    "npy float64": (".npy", npy(GRAY16 / 3), GRAY16 / 3, "YX", None),
}
