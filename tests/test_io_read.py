"""Reading images and labels: round trips with independent writers, damaged files, refusals."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from cellbasin.io import ReadError, read_image, read_labels
from cellbasin.io import raw as raw_module

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


def two_series() -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(GRAY16)
        writer.write(RGB, photometric="rgb")
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
    "tiff two series": (".tif", two_series(), GRAY16, "YX", None),
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
    assert image.name == path.stem


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


def test_jpeg_with_a_few_bytes_left_over_is_read(tmp_path: Path) -> None:
    content = pillow(RGB, "JPEG")
    (tmp_path / "a.jpg").write_bytes(content[:-2] + bytes(8) + content[-2:])
    assert read_image(tmp_path / "a.jpg").array.shape == RGB.shape


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
    (tmp_path / "a.png").write_bytes(png(RGB))
    with pytest.raises(ReadError, match="not colours"):
        read_labels(tmp_path / "a.png")
