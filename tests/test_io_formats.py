"""Formats of microscopes and of the cloud, each written by other code than reads it; files of several images."""

from __future__ import annotations

import builtins
import json
import struct
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from cli_helpers import Run, assert_one_line, run
from format_writers import write_lif, write_nd2
from ome_zarr.format import FormatV04, FormatV05
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr.writer import write_image
from pylibCZIrw import czi

from cellbasin.generator import generate
from cellbasin.io import ReadError, count_positions, find_images, read_frames, read_image
from cellbasin.io.ome_zarr import write_zarr_labels

__all__ = ["run"]  # a fixture
RNG = np.random.default_rng(0)
PLANE = RNG.integers(0, 60000, (40, 50)).astype(np.uint16)
VOLUME = RNG.integers(0, 255, (2, 3, 40, 50)).astype(np.uint8)


@pytest.mark.parametrize("ome", [FormatV04(), FormatV05()], ids=["0.4", "0.5"])
def test_ome_zarr_as_ome_zarr_py_writes_it(ome: Any, tmp_path: Path) -> None:
    path = tmp_path / "cells.zarr"
    film = np.stack([VOLUME, VOLUME + 1])
    write_image(
        film,
        zarr.open_group(path, mode="w", zarr_format=ome.zarr_format),
        scale_factors=(2,),
        fmt=ome,
        axes="tczyx",
        scale={"z": 2.0, "y": 0.5, "x": 0.25},
        axes_units=dict.fromkeys("zyx", "micrometer"),
    )
    image = read_image(path)
    assert (image.axes, image.name, image.voxel_size) == ("TCZYX", "cells.zarr", (2, 0.5, 0.25))
    assert np.array_equal(image.array, film) and image.array.dtype == np.uint8
    frames = dict(read_frames(path))
    assert list(frames) == ["_t1", "_t2"] and np.array_equal(frames["_t2"].channels_first, VOLUME + 1)


def test_ome_zarr_of_a_pyramid_and_of_several_images(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "scan.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    for number in (0, 1, 10, 2):
        write_image(PLANE + number, root.create_group(str(number)), axes="yx", fmt=FormatV04())
    root.create_group("OME")
    frames = list(read_frames(tmp_path / "scan.zarr"))
    assert [name for name, _ in frames] == ["_p1", "_p2", "_p3", "_p4"]
    assert [int(image.array[0, 0]) - PLANE[0, 0] for _, image in frames] == [0, 1, 2, 10]
    with pytest.raises(ReadError, match="found 4 images in one file"):
        read_image(tmp_path / "scan.zarr")
    assert np.array_equal(read_image(tmp_path / "scan.zarr", position=3).array, PLANE + 10)
    with pytest.raises(ReadError, match="number 4"):
        read_image(tmp_path / "scan.zarr", position=4)


@pytest.mark.parametrize("shape", [(700, 1300), (3, 40, 50), (1, 1)])
def test_labels_as_ome_zarr_are_read_by_ome_zarr_py_and_by_us(shape: tuple[int, ...], tmp_path: Path) -> None:
    labels = RNG.integers(0, 70000, shape).astype(np.int32)
    path = tmp_path / "cells_masks.zarr"
    for _ in range(2):  # the second time it replaces a folder
        write_zarr_labels(path, labels, (2.0, 0.5, 0.5)[-len(shape) :], "cells")
    (node,) = list(Reader(parse_url(path))())
    assert np.array_equal(np.asarray(node.data[0]), labels)
    for number, level in enumerate(node.data):
        assert np.array_equal(np.asarray(level), labels[..., :: 2**number, :: 2**number])
    image = read_image(path)
    assert np.array_equal(np.squeeze(image.array), np.squeeze(labels))
    assert image.voxel_size == (2.0, 0.5, 0.5)[-len(image.spatial_axes) :]
    assert [found.name for found in tmp_path.iterdir()] == ["cells_masks.zarr"]


def test_a_plain_zarr_array_and_what_is_no_image(tmp_path: Path) -> None:
    zarr.save_array(tmp_path / "plain.zarr", PLANE)
    assert np.array_equal(read_image(tmp_path / "plain.zarr").array, PLANE)
    named = zarr.create_array(tmp_path / "named.zarr", shape=(3, 8, 9), dtype="u1", dimension_names=("z", "y", "x"))
    named[:] = 5
    assert read_image(tmp_path / "named.zarr").axes == "ZYX"
    cases = {"plate": {"plate": {}}, "empty": {}, "levels": {"multiscales": [{"datasets": []}]}}
    for name, attributes in cases.items():
        zarr.open_group(tmp_path / f"{name}.zarr", mode="w", attributes=attributes)
        with pytest.raises(ReadError, match=f"{name}.zarr: found a (plate|Zarr group without)"):
            read_image(tmp_path / f"{name}.zarr")


@pytest.mark.parametrize("level", ["../secret", "/secret", "..", "a/../../secret", "a\\..\\secret"])
def test_no_way_out_of_a_zarr_folder(level: str, tmp_path: Path) -> None:
    zarr.save_array(tmp_path / "secret", PLANE)
    attributes = {"multiscales": [{"datasets": [{"path": level}], "axes": ["y", "x"]}]}
    zarr.open_group(tmp_path / "image.zarr", mode="w", attributes=attributes)
    with pytest.raises(ReadError, match="leads out of the folder"):
        read_image(tmp_path / "image.zarr")


def test_a_zarr_array_of_absurd_size_is_refused_before_it_is_made(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "bomb.zarr", shape=(1 << 20, 1 << 20), dtype="f8", chunks=(1 << 10, 1 << 10))
    with pytest.raises(ReadError, match="unpacks to 8796"):
        read_image(tmp_path / "bomb.zarr")


@pytest.mark.parametrize("codec", ["Zlib", "GZip", "BZ2", "LZMA"])
def test_zarr_chunks_that_unpack_to_more_than_they_may_are_refused(tmp_path: Path, codec: str) -> None:
    packer = getattr(numcodecs, codec)()
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(300, 200), dtype="u2", chunks=(300, 200), compressors=packer, zarr_format=2
    )
    array[:] = PLANE[0, 0]
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr", axes="YX").array, np.full((300, 200), PLANE[0, 0]))
    (tmp_path / "a.zarr" / "0.0").write_bytes(packer.encode(bytes(30_000_000)))
    with pytest.raises(ReadError, match="unpacks to more than the 120,000 bytes"):
        read_image(tmp_path / "a.zarr", axes="YX")


def test_czi_as_zeiss_own_library_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "slide.czi"
    scenes = RNG.integers(0, 60000, (2, 2, 3, 40, 50)).astype(np.uint16)
    with czi.create_czi(str(path)) as file:
        for s, c, z in np.ndindex(2, 2, 3):
            plane = {"C": c, "Z": z, "T": 0}
            file.write(scenes[s, c, z, :, :, None], plane=plane, scene=s, location=(1000 * s, 0))
        file.write_metadata("slide", scale_x=0.5e-6, scale_y=0.25e-6, scale_z=2e-6)
    assert count_positions(path) == 2
    for (name, image), scene in zip(read_frames(path), scenes, strict=True):
        assert name in ("_p1", "_p2") and image.axes == "CZYX"
        assert image.voxel_size == pytest.approx((2, 0.25, 0.5))
        assert np.array_equal(image.array, scene)


def test_czi_tiles_of_a_mosaic_are_put_together(tmp_path: Path) -> None:
    whole = RNG.integers(0, 255, (40, 90)).astype(np.uint8)
    with czi.create_czi(str(tmp_path / "mosaic.czi")) as file:
        for left in (0, 40):
            file.write(whole[:, left : left + 50, None], plane={"C": 0}, location=(left, 0))
    image = read_image(tmp_path / "mosaic.czi")
    assert image.axes == "YX" and np.array_equal(image.array, whole)


@pytest.mark.parametrize("packed", ["zstd0:ExplicitLevel=2", "zstd1:ExplicitLevel=2;PreProcess=HiLoByteUnpack"])
def test_czi_packed_with_zstandard(packed: str, tmp_path: Path) -> None:
    colours = RNG.integers(0, 255, (40, 50, 3)).astype(np.uint8)
    for number, array in enumerate((PLANE, colours, PLANE.astype(np.float32))):
        path = tmp_path / f"{number}.czi"
        with czi.create_czi(str(path), compression_options=packed) as file:
            file.write(data=array.reshape(40, 50, -1), plane={"C": 0})
        assert np.array_equal(read_image(path).array, array[..., ::-1] if array.ndim == 3 else array)


def test_czi_pyramids_do_not_cover_the_image(tmp_path: Path) -> None:
    """Tiles of lower levels lie in the same list where the file has no mosaic."""
    path = tmp_path / "cells.czi"
    with czi.create_czi(str(path)) as file:
        file.write(data=PLANE[..., None], plane={"C": 0})
        file.write(data=PLANE[:20, :25, None] // 2, plane={"C": 0})
    content = path.read_bytes()
    for axis, stored in ((b"X", 25), (b"Y", 20)):  # axis, start, length, coordinate, pixels stored along it
        whole, halved = (struct.pack("<4siifi", axis, 0, length, 0.0, stored) for length in (stored, 2 * stored))
        assert whole in content
        content = content.replace(whole, halved)
    path.write_bytes(content)
    assert np.array_equal(read_image(path).array, PLANE)


def test_lif_with_several_images(tmp_path: Path) -> None:
    path = tmp_path / "day.lif"
    film = RNG.integers(0, 255, (3, 20, 30)).astype(np.uint8)
    write_lif(
        path,
        {
            "plane": (PLANE, "YX", {"Y": 0.5, "X": 0.25}),
            "volume": (VOLUME, "CZYX", {"Z": 2, "Y": 0.5, "X": 0.5}),
            "film": (film, "TYX", {}),
        },
    )
    frames = dict(read_frames(path))
    assert list(frames) == ["_p1", "_p2", "_p3_t1", "_p3_t2", "_p3_t3"]
    assert np.array_equal(frames["_p1"].array, PLANE) and frames["_p1"].voxel_size == pytest.approx((0.5, 0.25))
    assert frames["_p2"].axes == "CZYX" and np.array_equal(frames["_p2"].array, VOLUME)
    assert frames["_p2"].voxel_size == pytest.approx((2, 0.5, 0.5))
    assert np.array_equal(frames["_p3_t3"].array, film[2]) and frames["_p3_t3"].voxel_size is None


@pytest.mark.parametrize("step", [0.0, 0.25])
def test_nd2_of_one_image(step: float, tmp_path: Path) -> None:
    colours = RNG.integers(0, 60000, (20, 30, 2)).astype(np.uint16)
    write_nd2(tmp_path / "a.nd2", PLANE, step)
    write_nd2(tmp_path / "b.nd2", colours, step)
    plane, two = read_image(tmp_path / "a.nd2"), read_image(tmp_path / "b.nd2")
    assert plane.axes == "YX" and np.array_equal(plane.array, PLANE)
    assert np.array_equal(two.channels_first, colours.transpose(2, 0, 1))
    assert plane.voxel_size == ((step, step) if step else None), "not calibrated is not 1 µm"


def test_ome_tiff_positions_and_pyramids(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "many.ome.tif", ome=True) as file:
        for number in range(2):
            file.write(PLANE + number, metadata={"axes": "YX"})
    assert [int(i.array[0, 0]) - PLANE[0, 0] for _, i in read_frames(tmp_path / "many.ome.tif")] == [0, 1]
    with tifffile.TiffWriter(tmp_path / "pyramid.ome.tif", ome=True) as file:
        file.write(PLANE, subifds=1, metadata={"axes": "YX"})
        file.write(PLANE[::2, ::2], subfiletype=1)
    ((name, image),) = read_frames(tmp_path / "pyramid.ome.tif")
    assert name == "" and np.array_equal(image.array, PLANE)


def test_every_image_of_an_ome_tiff_has_its_own_pixel_size(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        for size in (0.1, 0.5):
            file.write(PLANE, metadata={"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": 2 * size})
    sizes = [image.voxel_size for _, image in read_frames(tmp_path / "a.ome.tif")]
    assert sizes == [(0.2, 0.1), (1.0, 0.5)]


def test_pixel_sizes_of_an_ome_tiff_that_describes_more_images_than_it_holds(tmp_path: Path) -> None:
    """The text describes three images: two without data of their own, as some programs leave them behind."""
    sizes, told = (0.1, 0.1, 0.3), ""
    for number, size in enumerate(sizes):
        told += (
            f'<Image ID="Image:{number}"><Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" Type="uint8" SizeX="50" '
            f'SizeY="40" SizeZ="1" SizeC="1" SizeT="1" PhysicalSizeX="{size}" PhysicalSizeY="{size}">'
            + ('<TiffData IFD="0" PlaneCount="1"/>' if number == 2 else "")
            + "</Pixels></Image>"
        )
    text = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{told}</OME>'
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((40, 50), np.uint8), description=text, metadata=None)
    assert read_image(tmp_path / "a.ome.tif").voxel_size == (0.3, 0.3)


@pytest.mark.parametrize("unit", ["micrometer", "micron", "um", "µm"])
def test_units_of_ome_zarr_as_programs_spell_them(unit: str, tmp_path: Path) -> None:
    write_image(
        PLANE,
        zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2),
        fmt=FormatV04(),
        axes="yx",
        scale={"y": 0.5, "x": 0.25},
        axes_units=dict.fromkeys("yx", unit),
        scale_factors=(2,),
    )
    assert read_image(tmp_path / "a.zarr").voxel_size == (0.5, 0.25)


def test_npz_of_one_array_and_of_others(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "one.npz", PLANE)
    assert np.array_equal(read_image(tmp_path / "one.npz").array, PLANE)
    np.savez(tmp_path / "two.npz", image=PLANE, more=PLANE)
    with pytest.raises(ReadError, match=r"found 2 arrays \(image, more\)"):
        read_image(tmp_path / "two.npz")
    np.savez(tmp_path / "objects.npz", np.array([{}], dtype=object))
    with pytest.raises(ReadError, match=r"objects\.npz"):
        read_image(tmp_path / "objects.npz")


def test_folders_list_zarr_images_beside_files(tmp_path: Path) -> None:
    zarr.save_array(tmp_path / "b.zarr", PLANE)
    np.save(tmp_path / "a.npy", PLANE)
    (tmp_path / "c.zarr").mkdir()
    assert [path.name for path in find_images([tmp_path])] == ["a.npy", "b.zarr"]
    assert find_images([tmp_path / "b.zarr"]) == [tmp_path / "b.zarr"]


def test_every_frame_is_segmented_and_named(run: Run, tmp_path: Path) -> None:
    film = np.stack([generate("nuclei", (96, 96), diameter=20, seed=seed).image[0] for seed in range(2)])
    tifffile.imwrite(tmp_path / "film.tif", film, imagej=True, metadata={"axes": "TYX"})
    outcome = run("segment", tmp_path / "film.tif", "--diameter", "20", "--json", tmp_path / "all.json")
    assert outcome.code == 0
    assert sorted(path.name for path in tmp_path.glob("*_masks.tif")) == ["film_t1_masks.tif", "film_t2_masks.tif"]
    assert "film.tif t2: " in outcome.out.splitlines()[1]
    records = json.loads((tmp_path / "all.json").read_text())
    assert [record["frame"] for record in records] == ["t1", "t2"] and all(record["count"] for record in records)


@pytest.mark.parametrize("ending", ["nd2", "czi", "lif"])
def test_formats_without_their_packages_say_what_to_do(
    ending: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = {"nd2": b"\xda\xce\xbe\x0a", "czi": b"ZISRAWFILE", "lif": b"\x70\0\0\0"}
    (tmp_path / f"a.{ending}").write_bytes(starts[ending] + bytes(100))
    there = builtins.__import__

    def without(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("cellbasin.io.microscopes.import_module", without)
    outcome = run("segment", tmp_path / f"a.{ending}")
    assert outcome.code == 2 and there is builtins.__import__
    assert_one_line(outcome, f"{ending.upper()} files need the package", "cellbasin[formats]")


def test_pages_of_different_sizes_are_images_of_their_own_and_thumbnails_are_not(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        file.write(PLANE)
        file.write(PLANE[:30])
        file.write(PLANE[::4, ::4], subfiletype=1)
    shapes = [image.spatial_shape for _, image in read_frames(tmp_path / "pages.tif")]
    assert shapes == [PLANE.shape, PLANE[:30].shape]
    with tifffile.TiffWriter(tmp_path / "many.ome.tif", ome=True) as file:
        file.write(PLANE, metadata={"axes": "YX"})
        file.write(np.stack([PLANE, PLANE]), metadata={"axes": "CYX"})
        file.write(PLANE[::4, ::4], metadata={"axes": "YX", "Name": "label image"})
    assert [image.axes for _, image in read_frames(tmp_path / "many.ome.tif")] == ["YX", "CYX"]
