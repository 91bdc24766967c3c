"""Reading images and labels: what independent writers wrote is what is read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from image_files import FILES, GRAY8, GRAY16, RGB, STACK, npy, png, tiff
from PIL import Image as Pillow

from cellbasin.io import ReadError, read_image, read_labels


@pytest.mark.parametrize("name", FILES)
def test_every_format_keeps_values_axes_and_voxel_size(name: str, tmp_path: Path) -> None:
    suffix, content, array, axes, voxel_size = FILES[name]
    path = tmp_path / f"cells{suffix}"
    path.write_bytes(content)
    image = read_image(path)
    assert image.axes == axes
    assert image.array.dtype == array.dtype.newbyteorder("=") and image.array.dtype.isnative
    np.testing.assert_array_equal(image.array, array)
    assert image.voxel_size == pytest.approx(voxel_size)
    assert image.name == path.name


def test_jpeg_is_read_and_palette_becomes_rgb(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(40), np.arange(50)).astype(np.uint8)
    Pillow.fromarray(np.dstack([smooth] * 3)).save(tmp_path / "a.jpg", quality=95)
    image = read_image(tmp_path / "a.jpg")
    assert image.axes == "YXS" and np.abs(image.array[..., 0].astype(int) - smooth).max() < 10
    palette = Pillow.fromarray(RGB).quantize(16)
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_image(tmp_path / "p.png").array, np.asarray(palette.convert("RGB")))


def test_axes_given_by_the_caller_win(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", STACK)
    with pytest.raises(ReadError, match="ambiguous"):
        read_image(tmp_path / "a.npy")
    assert read_image(tmp_path / "a.npy", "cyx").axes == "CYX"
    with pytest.raises(ReadError, match="axes"):
        read_image(tmp_path / "a.npy", "YX")


def test_stack_of_pages_that_says_nothing_of_its_axes_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in STACK:
            writer.write(plane, contiguous=False, metadata=None)
    with pytest.raises(ReadError, match="ambiguous"):
        read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", "ZYX").array, STACK)


LABELS = (GRAY16 % 300).astype(np.uint16)
LABELS[0, 0] = 65535


@pytest.mark.parametrize(
    ("filename", "content"),
    [
        ("a.png", png(LABELS)),
        ("a.tif", tiff(LABELS, compression="zlib")),
        ("a.tif", tiff(LABELS.astype(np.uint32))),
        ("a.tif", tiff(LABELS.astype(np.float32))),
        ("a.npy", npy(LABELS.astype(np.int64))),
        ("a.npy", npy(LABELS[None])),
    ],
)
def test_labels_are_read_as_int32(tmp_path: Path, filename: str, content: bytes) -> None:
    (tmp_path / filename).write_bytes(content)
    labels = read_labels(tmp_path / filename)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, LABELS)


def test_labels_of_palette_and_bilevel_pictures_are_their_indices(tmp_path: Path) -> None:
    small = (GRAY8 % 7).astype(np.uint8)
    picture = Pillow.fromarray(small, "L").convert("P")
    picture.putpalette(list(range(255, -1, -1)) * 3)
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "p.png"), small)
    Pillow.fromarray(small > 3).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "b.png"), small > 3)


@pytest.mark.parametrize("bits", [2, 4])
def test_labels_of_few_bits_keep_their_numbers(tmp_path: Path, bits: int) -> None:
    labels = (GRAY8[:16, :16] % 2**bits).astype(np.uint8)
    rows = labels.reshape(16, -1, 8 // bits) * (2 ** (8 - bits * (1 + np.arange(8 // bits)))).astype(np.uint8)
    packed = b"".join(b"\0" + row.tobytes() for row in rows.sum(axis=2).astype(np.uint8))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 16, 16, bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(packed)), chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)


@pytest.mark.filterwarnings("error")
def test_labels_of_half_precision(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy(np.full((9, 9), 7, np.float16)))
    assert (read_labels(tmp_path / "a.npy") == 7).all()


def test_volume_labels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), STACK)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.full((9, 9), -1)), "from -1"),
        (npy(np.full((9, 9), 0.5)), "fractional"),
        (npy(np.full((9, 9), np.nan)), "whole numbers"),
        (npy(np.full((9, 9), 2**40)), "whole numbers"),
        (npy(np.zeros((2, 2, 9, 9), int)), "labels"),
    ],
)
def test_what_are_no_labels_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ReadError, match=message):
        read_labels(tmp_path / "a.npy")


def test_colour_pictures_are_no_labels(tmp_path: Path) -> None:
    planes = np.moveaxis(RGB, -1, 0).copy()
    (tmp_path / "a.png").write_bytes(png(RGB))
    (tmp_path / "planes.tif").write_bytes(tiff(planes, photometric="rgb", planarconfig="separate"))
    for name in ("a.png", "planes.tif"):
        with pytest.raises(ReadError, match="not colours"):
            read_labels(tmp_path / name)


def test_labels_are_never_the_first_of_several_images(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GRAY8, metadata=None)
        file.write(GRAY8[:20], metadata=None)
    with pytest.raises(ReadError, match="found 2 label images in one file"):
        read_labels(tmp_path / "a.tif")


def test_samples_of_a_pixel_are_colours_only_where_the_file_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for count, photometric in ((2, "minisblack"), (3, "minisblack"), (4, "minisblack"), (3, "rgb")):
        array = rng.integers(0, 60000, (20, 30, count)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric, planarconfig="contig")
        image = read_image(tmp_path / "a.tif")
        assert image.axes == ("YXS" if photometric == "rgb" else "YXC")
        np.testing.assert_array_equal(image.channels_first, array.transpose(2, 0, 1))


@pytest.mark.parametrize("config", ["contig", "separate"])
def test_alpha_is_dropped_however_samples_are_stored(tmp_path: Path, config: str) -> None:
    rgba = np.random.default_rng(0).integers(0, 255, (20, 30, 4)).astype(np.uint8)
    stored = rgba if config == "contig" else rgba.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=config, extrasamples=["unassalpha"])
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "YXS"
    np.testing.assert_array_equal(image.array, rgba[..., :3])


def test_absurd_sizes_of_pixels_are_not_believed(tmp_path: Path) -> None:
    for size, expected in ((6.5e-11, None), (0.5, (0.5, 0.5)), (1e12, None)):
        facts = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": size}
        tifffile.imwrite(tmp_path / "a.ome.tif", GRAY8, ome=True, metadata=facts)
        assert read_image(tmp_path / "a.ome.tif").voxel_size == expected


def test_imagejs_stacks_leave_out_a_step_of_one(tmp_path: Path) -> None:
    """ImageJ writes no spacing= where planes are 1 unit apart, and may give the unit of z."""
    facts = {"axes": "ZYX", "unit": "um"}
    for metadata, version, expected in (
        (facts, b"1.53t", (1.0, 0.25, 0.25)),
        (facts, b"1.11a", None),  # tifffile's own
        ({**facts, "spacing": 500.0, "zunit": "nm"}, b"1.53t", (0.5, 0.25, 0.25)),
    ):
        data = tiff(STACK, imagej=True, metadata=metadata, resolution=(4, 4))
        (tmp_path / "a.tif").write_bytes(data.replace(b"ImageJ=1.11a", b"ImageJ=" + version))
        assert read_image(tmp_path / "a.tif").voxel_size == expected
