"""What is no image, or would unpack to more than memory holds, is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numcodecs.pickles
import numpy as np
import pytest
import tifffile
import zarr
from image_files import GRAY8, npy, png
from PIL import Image as Pillow

from cellbasin.io import ReadError, read_image, read_labels
from cellbasin.io import raw as raw_module

TEXTS = {"id": "vlen-utf8"}  # a codec of numcodecs


def make_folder(path: Path) -> None:
    path.mkdir()


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("a.tif", lambda path: None, "no such file"),
    "folder": ("a.tif", make_folder, "folder"),
    "empty": ("a.png", lambda path: path.write_bytes(b""), "empty file"),
    "text named tif": ("a.tif", lambda path: path.write_text("these are not pixels"), "begins with"),
    "unknown ending": ("a.xyz", lambda path: path.write_bytes(png(GRAY8)), "ending in"),
    "no ending": ("image", lambda path: path.write_bytes(png(GRAY8)), "ending in"),
    "objects": (
        "a.npy",
        lambda path: np.save(path, np.array([{}, 1], object), allow_pickle=True),
        "Python object",
    ),
    "zero size": ("a.npy", lambda path: np.save(path, np.zeros((0, 5))), "a.npy"),
    "structured": ("a.npy", lambda path: np.save(path, np.zeros((5, 5), [("a", "u1")])), "dtype"),
    "complex": ("a.npy", lambda path: np.save(path, np.zeros((9, 9), complex)), "complex"),
    "bool": ("a.npy", lambda path: np.save(path, np.zeros((9, 9), bool)), "bool"),
    "one axis": ("a.npy", lambda path: np.save(path, np.zeros(9)), "shape"),
    "five axes": ("a.npy", lambda path: np.save(path, np.zeros((2, 3, 4, 50, 60))), "ambiguous"),
    "zip named npy": ("a.npy", lambda path: path.write_bytes(b"PK\3\4" + bytes(40)), "not a zip file"),
    "header only": ("a.tif", lambda path: path.write_bytes(b"II*\0\x08\0\0\0"), "a.tif"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    filename, make, message = BAD[name]
    path = tmp_path / filename
    make(path)
    with pytest.raises(ReadError, match=message) as caught:
        read_image(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    with pytest.raises(ReadError) if name != "bool" else pytest.raises(AssertionError):
        read_labels(path)
        raise AssertionError


def bomb(width: int, height: int) -> bytes:
    """A PNG that declares a large size and holds few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_decompression_bombs_are_refused_before_they_unpack(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bomb(60000, 60000))
    with pytest.raises(ReadError, match="unpacks to"):
        read_image(tmp_path / "a.png")


def test_tiff_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2000, 2000), np.uint8), compression="zlib")
    assert read_image(tmp_path / "a.tif").array.shape == (2000, 2000)
    monkeypatch.setattr(raw_module, "MAX_DECODED_BYTES", 1_000_000)
    with pytest.raises(ReadError, match="unpacks to"):
        read_image(tmp_path / "a.tif")


@pytest.mark.filterwarnings("error")
def test_large_picture_is_no_bomb_and_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 100)
    (tmp_path / "a.png").write_bytes(png(GRAY8))
    assert read_image(tmp_path / "a.png").array.shape == GRAY8.shape


def test_npy_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    content = npy(np.zeros((10, 10), np.uint8)).replace(b"(10, 10), ", b"(90000,9),")
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ReadError):
        read_image(tmp_path / "a.npy")


@pytest.mark.parametrize("packed", [{"compressor": {"id": "pickle"}}, {"filters": [TEXTS, {"id": "pickle"}]}])
def test_a_zarr_whose_chunks_are_pickles_runs_nothing(
    packed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Villain:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'was-here'}",)

    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True)  # as versions before 0.16.6 are
    facts = {"zarr_format": 2, "shape": [8, 8], "chunks": [8, 8], "dtype": "|O", "order": "C", "fill_value": 0}
    facts |= {"compressor": None, "filters": [TEXTS], **packed}
    path = tmp_path / "evil.zarr"
    path.mkdir()
    (path / ".zarray").write_text(json.dumps(facts))
    (path / "0.0").write_bytes(pickle.dumps(Villain()))
    with pytest.raises(ReadError, match=r"evil\.zarr"):
        read_image(path)
    assert not (tmp_path / "was-here").exists()


def test_sizes_of_a_zarr_are_those_of_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 400), np.uint8)
    zarr.save_array(tmp_path / "large.zarr", noise)
    zarr.save_array(tmp_path / "bomb.zarr", np.zeros((3000, 4000), np.uint8))
    monkeypatch.setattr(raw_module, "MAX_DECODED_BYTES", 100_000)
    assert np.array_equal(read_image(tmp_path / "large.zarr").array, noise)
    with pytest.raises(ReadError, match="unpacks to"):
        read_image(tmp_path / "bomb.zarr")


def test_chunks_of_a_zarr_are_no_bombs(tmp_path: Path) -> None:
    wide = zarr.create_array(tmp_path / "wide.zarr", shape=(8, 8), chunks=(20000, 20000), dtype="u1", zarr_format=2)
    wide[...] = 1
    small = zarr.create_array(
        tmp_path / "stream.zarr", shape=(8, 8), chunks=(8, 8), dtype="u1", zarr_format=2, compressors=numcodecs.Zlib()
    )
    small[...] = 1
    (tmp_path / "stream.zarr" / "0.0").write_bytes(zlib.compress(bytes(100_000_000)))
    for name in ("wide", "stream"):
        with pytest.raises(ReadError, match="found chunks of"):
            read_image(tmp_path / f"{name}.zarr")
