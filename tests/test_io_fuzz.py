"""Damaged files of every format: an error, never a crash or a hang, never an image of another shape.

CI runs a tenth: 30 cases of each format. All of it: make fuzz
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from format_writers import write_lif, write_nd2
from ome_zarr.format import FormatV04, FormatV05
from ome_zarr.writer import write_image
from PIL import Image as Pillow
from pylibCZIrw import czi

from cellbasin.io import ReadError, read_frames

CASES = int(os.environ.get("CELLBASIN_FUZZ", "30"))
SECONDS, GIGABYTES = 20, 6  # of one case; of the process, with the program itself
SHAPE = (40, 50)
IMAGE = np.random.default_rng(0).integers(0, 60000, SHAPE).astype(np.uint16)
Damage = Callable[[bytearray, np.random.Generator], None]


def _czi(path: Path, packed: str = "uncompressed:") -> None:
    with czi.create_czi(str(path), compression_options=packed) as file:
        file.write(IMAGE[..., None], plane={"C": 0})


def _zarr(path: Path, version: type) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=version().zarr_format)
    write_image(IMAGE, group, axes="yx", fmt=version(), scale_factors=(), storage_options={"chunks": (40, 25)})


WRITERS: dict[str, Callable[[Path], object]] = {
    "plain.tif": lambda path: tifffile.imwrite(path, IMAGE),
    "zlib.tif": lambda path: tifffile.imwrite(path, IMAGE, compression="zlib", tile=(16, 16)),
    "imagej.tif": lambda path: tifffile.imwrite(path, IMAGE, imagej=True, metadata={"axes": "YX"}),
    "big.ome.tif": lambda path: tifffile.imwrite(path, IMAGE, bigtiff=True, ome=True, metadata={"axes": "YX"}),
    "a.png": lambda path: Pillow.fromarray(IMAGE).save(path),
    "a.jpg": lambda path: Pillow.fromarray((IMAGE >> 8).astype(np.uint8)).save(path),
    "a.bmp": lambda path: Pillow.fromarray((IMAGE >> 8).astype(np.uint8)).save(path),
    "a.npy": lambda path: np.save(path, IMAGE),
    "a.npz": lambda path: np.savez_compressed(path, IMAGE),
    "a.nd2": lambda path: write_nd2(path, IMAGE, 0.5),
    "a.czi": _czi,
    "packed.czi": lambda path: _czi(path, "zstd1:ExplicitLevel=2;PreProcess=HiLoByteUnpack"),
    "a.lif": lambda path: write_lif(path, {"one": (IMAGE, "YX", {"Y": 0.5, "X": 0.5})}),
    "v2.zarr": lambda path: _zarr(path, FormatV04),
    "v3.zarr": lambda path: _zarr(path, FormatV05),
}


def _place(data: bytearray, rng: np.random.Generator, length: int = 1) -> int:
    """Where to strike: half of the time among the first 512 bytes, where headers are."""
    end = max(1, len(data) - length)
    return int(rng.integers(min(end, 512) if rng.random() < 0.5 else end))


def _cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[_place(data, rng) :]


def _flip(data: bytearray, rng: np.random.Generator) -> None:
    data[_place(data, rng)] ^= 1 << int(rng.integers(8))


def _flip_many(data: bytearray, rng: np.random.Generator) -> None:
    for _ in range(20):
        _flip(data, rng)


def _zeros(data: bytearray, rng: np.random.Generator) -> None:
    start = _place(data, rng, 16)
    data[start : start + 16] = bytes(len(data[start : start + 16]))


def _huge(data: bytearray, rng: np.random.Generator) -> None:
    start = _place(data, rng, 4)
    data[start : start + 4] = b"\xff" * len(data[start : start + 4])


def _large(data: bytearray, rng: np.random.Generator) -> None:
    start = _place(data, rng, 4)
    data[start : start + 4] = int(rng.integers(1 << 31)).to_bytes(4, "little")[: len(data[start : start + 4])]


def _offset(data: bytearray, rng: np.random.Generator) -> None:
    """A pointer to itself or before: loops of offsets."""
    start = _place(data, rng, 4)
    target = int(rng.integers(start + 1))
    data[start : start + 4] = target.to_bytes(4, "little")[: len(data[start : start + 4])]


def _delete(data: bytearray, rng: np.random.Generator) -> None:
    start = _place(data, rng)
    del data[start : start + int(rng.integers(1, 9))]


def _insert(data: bytearray, rng: np.random.Generator) -> None:
    start = _place(data, rng)
    data[start:start] = rng.bytes(int(rng.integers(1, 9)))


def _swap(data: bytearray, rng: np.random.Generator) -> None:
    a, b = _place(data, rng, 12), _place(data, rng, 12)
    first, second = bytes(data[a : a + 12]), bytes(data[b : b + 12])
    if len(first) == len(second):
        data[a : a + 12], data[b : b + 12] = second, first


def _repeat(data: bytearray, rng: np.random.Generator) -> None:
    start = _place(data, rng, 64)
    data[start:start] = data[start : start + 64]


def _digit(data: bytearray, rng: np.random.Generator) -> None:
    """Another digit in a number that is written as text: sizes, types, versions."""
    digits = [k for k, byte in enumerate(data) if 48 <= byte <= 57]
    if digits:
        data[int(rng.choice(digits))] = int(rng.integers(48, 58))


def _word(data: bytearray, rng: np.random.Generator) -> None:
    """Text becomes other text: names of keys and types."""
    letters = [k for k, byte in enumerate(data) if 97 <= byte <= 122]
    if letters:
        data[int(rng.choice(letters))] = int(rng.integers(97, 123))


DAMAGE: tuple[Damage, ...] = (
    *(_cut, _flip, _flip_many, _zeros, _huge, _large, _offset),
    *(_delete, _insert, _swap, _repeat, _digit, _word),
)


def damaged(original: Path, folder: Path, seed: int) -> Path:
    """A copy with one kind of damage; of a folder, one of its files."""
    rng = np.random.default_rng(seed)
    copy = folder / original.name
    if copy.is_dir():
        shutil.rmtree(copy)
    if original.is_dir():
        shutil.copytree(original, copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        struck = files[int(rng.integers(len(files)))]
    else:
        struck = copy
        shutil.copyfile(original, copy)
    data = bytearray(struck.read_bytes())
    DAMAGE[seed % len(DAMAGE)](data, rng)
    struck.write_bytes(data)
    return copy


def stated(path: Path) -> tuple[int, ...]:
    """The shape that a Zarr array's metadata state: chunks that are missing are zeros, so another one is no damage."""
    files = [*path.rglob("zarr.json"), *path.rglob(".zarray")]
    shapes = [tuple(facts["shape"]) for file in files if "shape" in (facts := json.loads(file.read_bytes()))]
    return shapes[0]


def strike(
    original: Path,
    folder: Path,
    read: Callable[[Path], Any],
    fits: Callable[[Path, Any], bool],
    refusal: type[ValueError],
) -> None:
    """Read damaged copies: each is refused in one line that names the file, or gives an answer that fits."""
    assert fits(original, read(original))
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
    refused = 0
    for seed in range(CASES):
        print("case", seed, flush=True)
        path = damaged(original, folder, seed)
        signal.alarm(SECONDS)
        try:
            found = read(path)
        except refusal as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error), error
        else:
            assert fits(path, found), f"case {seed}: found something else"
        signal.alarm(0)
    print("refused", refused)


def refused_cases(module: str, original: Path) -> int:
    """How many damaged copies `module.strike_file` refuses, in a process of its own.

    No reader can take its end, which too much time or memory brings, for damage.
    """
    folder = original.parent / "damaged"
    folder.mkdir()
    for path in original.parent.iterdir():
        if path.is_file() and path != original:  # what lies beside it
            shutil.copy(path, folder)
    code = "import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
    code += f"from {module} import strike_file\nstrike_file(*map(Path, sys.argv[2:]))"
    command = [sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parent), str(original), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + CASES * SECONDS)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]}: code {done.returncode}\n{done.stderr[-2000:]}"
    return int(lines[-1].split()[1])


def strike_file(original: Path, folder: Path) -> None:
    """Images: of their shape, in every frame."""

    def fits(path: Path, shapes: list[tuple[int, ...]]) -> bool:
        return set(shapes) == {stated(path) if path.is_dir() else SHAPE}

    strike(original, folder, lambda path: [image.spatial_shape for _, image in read_frames(path)], fits, ReadError)


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_are_refused_or_read_in_their_shape(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    # What strikes pixels only is no error where a format has no checksum; least in BMP, nearly all pixels.
    least = CASES // (10 if name == "a.bmp" else 5)
    assert refused_cases("test_io_fuzz", tmp_path / name) >= least, "damage goes unnoticed"
