"""Damaged files: cut, flipped, contradicting themselves: refused, or read whole."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from image_files import FILES, GRAY8, GRAY16, RGB, STACK, pillow, png, tiff
from PIL import Image as Pillow

from cellbasin.io import ReadError, read_frames, read_image


def offsets(length: int) -> list[int]:
    """Where to cut a file: densely at both ends, evenly between."""
    even = np.linspace(1, length - 1, 40).astype(int).tolist()
    return sorted({*range(1, 40), *even, *range(max(1, length - 40), length)} & set(range(1, length)))


CUT = [name for name in FILES if name not in ("png inside tif",)]


@pytest.mark.parametrize("name", CUT)
def test_cut_files_are_refused_or_read_whole(name: str, tmp_path: Path) -> None:
    suffix, content, array, axes, voxel_size = FILES[name]
    path = tmp_path / f"cells{suffix}"
    refused = 0
    for end in offsets(len(content)):
        path.write_bytes(content[:end])
        try:
            image = read_image(path)
        except ReadError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).startswith(str(path))
        else:
            assert image.axes == axes and image.voxel_size == pytest.approx(voxel_size), end
            np.testing.assert_array_equal(image.array, array, err_msg=f"cut at {end}")
    assert refused > 40


@pytest.mark.parametrize("progressive", [False, True])
def test_cut_jpeg_is_refused(tmp_path: Path, progressive: bool) -> None:
    content = pillow(RGB, "JPEG", progressive=progressive)
    path = tmp_path / "a.jpg"
    for end in offsets(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(ReadError):
            read_image(path)


_KINDS_OF_JPEG: dict[str, dict[str, object]] = {
    "plain": {},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True, "quality": 30},
    "restarts": {"restart_marker_blocks": 2},
    "all colours": {"subsampling": 0},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 1},
}


@pytest.mark.parametrize("kind", _KINDS_OF_JPEG)
@pytest.mark.parametrize("colour", [False, True])
def test_jpeg_of_another_size_than_its_data_is_refused(tmp_path: Path, kind: str, colour: bool) -> None:
    noise = np.random.default_rng(4).integers(0, 255, (100, 90, 3)[: 2 + colour]).astype(np.uint8)
    content = pillow(noise, "JPEG", **_KINDS_OF_JPEG[kind])
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert read_image(path).array.shape == noise.shape
    place = re.search(rb"\xff[\xc0\xc2]\x00[\x0b\x11]\x08", content)
    assert place is not None
    for at, sizes in ((5, (20, 60, 140, 4196)), (7, (20, 50, 130, 4186))):
        for size in sizes:
            damaged = bytearray(content)
            damaged[place.start() + at : place.start() + at + 2] = size.to_bytes(2, "big")
            path.write_bytes(damaged)
            with pytest.raises(ReadError, match="found a damaged JPEG"):
                read_image(path)


def test_jpeg_with_bytes_left_over_is_refused_with_a_way_out(tmp_path: Path) -> None:
    content = pillow(RGB, "JPEG")
    (tmp_path / "a.jpg").write_bytes(content[:-2] + b"leftover" + content[-2:])
    with pytest.raises(ReadError, match=r"extraneous bytes.*save it as TIFF"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_of_every_colour_is_read(mode: str, tmp_path: Path) -> None:
    y, x = np.mgrid[:60, :80]
    picture = Pillow.fromarray(np.stack([3 * x, 4 * y, x + y], axis=-1).astype(np.uint8)).convert(mode)
    picture.save(tmp_path / "a.jpg", quality=95)
    found = read_image(tmp_path / "a.jpg").array
    expected = np.asarray(picture if mode == "L" else picture.convert("RGB"))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("name", ["tiff lzw strips", "imagej", "ome", "bigtiff", "png 16 bits", "npy", "bmp"])
def test_flipped_bits_never_give_another_error_than_ours(name: str, tmp_path: Path) -> None:
    suffix, content, *_ = FILES[name]
    path = tmp_path / f"cells{suffix}"
    rng = np.random.default_rng(3)
    for trial in range(60):
        damaged = bytearray(content)
        damaged[rng.integers(min(len(content), 500) if trial % 2 else len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            read_image(path)
        except ReadError as error:
            assert "\n" not in str(error)


def test_ome_set_of_two_files_needs_both_whole(tmp_path: Path) -> None:
    planes = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{z}.ome.tif">urn:uuid:{z}</UUID></TiffData>'
        for z in range(2)
    )
    for z in range(2):
        xml = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{z}"><Image ID="Image:0"><Pixels DimensionOrder="XYZCT" ID="Pixels:0" '
            f'SizeX="45" SizeY="37" SizeZ="2" SizeC="1" SizeT="1" Type="uint16">'
            f"{planes}</Pixels></Image></OME>"
        )
        tifffile.imwrite(tmp_path / f"{z}.ome.tif", STACK[z], description=xml, metadata=None, rowsperstrip=8)
    image = read_image(tmp_path / "0.ome.tif")
    assert image.axes == "ZYX"
    np.testing.assert_array_equal(image.array, STACK[:2])
    second = (tmp_path / "1.ome.tif").read_bytes()
    (tmp_path / "1.ome.tif").write_bytes(second[:-300])
    with pytest.raises(ReadError):
        read_image(tmp_path / "0.ome.tif")
    (tmp_path / "1.ome.tif").unlink()
    with pytest.raises(ReadError):
        read_image(tmp_path / "0.ome.tif")


def test_files_of_an_ome_set_hold_their_own_images_alone(tmp_path: Path) -> None:
    """As Micro-Manager writes them: one file for each position, and in each the description of all."""
    images = "".join(
        f'<Image ID="Image:{n}"><Pixels DimensionOrder="XYZCT" ID="Pixels:{n}" SizeX="45" SizeY="37" SizeZ="1" '
        f'SizeC="1" SizeT="1" Type="uint16" PhysicalSizeX="{n + 0.5}" PhysicalSizeY="{n + 0.5}">'
        f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="{n}.ome.tif">urn:uuid:{n}</UUID></TiffData></Pixels></Image>'
        for n in range(2)
    )
    for n in range(3):  # the last is a description alone, with a picture of something else
        xml = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{n}">{images}</OME>'
        tifffile.imwrite(tmp_path / f"{n}.ome.tif", STACK[n], description=xml, metadata=None)
    for n in range(2):
        ((name, image),) = read_frames(tmp_path / f"{n}.ome.tif")
        assert (name, image.voxel_size) == ("", (n + 0.5, n + 0.5))
        np.testing.assert_array_equal(image.array, STACK[n])
    with pytest.raises(ReadError, match="in other files alone"):
        read_image(tmp_path / "2.ome.tif")


def test_png_with_wrong_checksum_is_refused(tmp_path: Path) -> None:
    content = bytearray(png(GRAY8))
    content[content.index(b"IDAT") + 200] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ReadError):
        read_image(tmp_path / "a.png")


def test_tiff_strip_without_data_is_refused(tmp_path: Path) -> None:
    content = bytearray(tiff(GRAY16, rowsperstrip=8, compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(content)) as tif:
        tag = tif.pages[0].tags["StripByteCounts"]
        struct.pack_into("<H" if tag.dtype == 3 else "<I", content, tag.valueoffset, 0)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ReadError, match="without data"):
        read_image(tmp_path / "a.tif")


def test_tiff_directories_in_a_circle_are_refused(tmp_path: Path) -> None:
    content = bytearray(tiff(GRAY16, metadata=None))
    first = struct.unpack_from("<I", content, 4)[0]
    entries = struct.unpack_from("<H", content, first)[0]
    struct.pack_into("<I", content, first + 2 + 12 * entries, first)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ReadError):
        read_image(tmp_path / "a.tif")
