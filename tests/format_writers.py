"""Small files of formats that only microscopes write, put together byte by byte from the formats' descriptions."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

_LIF_AXES = {"X": 1, "Y": 2, "Z": 3, "T": 4}


def write_lif(path: Path, images: dict[str, tuple[np.ndarray, str, dict[str, float]]]) -> None:
    """Leica's LIF: name → (uint8 or uint16 array, axes out of C T Z Y X, µm by axis)."""
    elements, blocks = [], []
    for number, (name, (array, axes, sizes)) in enumerate(images.items()):
        data = np.ascontiguousarray(array).tobytes()
        strides = dict(zip(axes, array.strides, strict=True))
        channels = array.shape[axes.index("C")] if "C" in axes else 1
        described = "".join(
            f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="{8 * array.itemsize}" '
            f'NameOfMeasuredQuantity="" Min="0" Max="1" Unit="" LUTName="Gray" IsLUTInverted="0" '
            f'BytesInc="{k * strides.get("C", 0)}" BitInc="0"/>'
            for k in range(channels)
        )
        dimensions = "".join(
            f'<DimensionDescription DimID="{_LIF_AXES[axis]}" '
            f'NumberOfElements="{array.shape[axes.index(axis)]}" Origin="0" '
            f'Length="{1e-6 * sizes.get(axis, 0) * (array.shape[axes.index(axis)] - 1)!r}" Unit="m" BitInc="0" '
            f'BytesInc="{strides[axis]}"/>'
            for axis in "XYZT"
            if axis in axes
        )
        elements.append(
            f'<Element Name="{name}" Visibility="1" UniqueID="u{number}"><Data><Image><ImageDescription>'
            f"<Channels>{described}</Channels><Dimensions>{dimensions}</Dimensions></ImageDescription></Image></Data>"
            f'<Memory Size="{len(data)}" MemoryBlockID="MemBlock_{number}"/><Children/></Element>'
        )
        blocks.append((f"MemBlock_{number}", data))
    xml = (
        '<LMSDataContainerHeader Version="2"><Element Name="test" Visibility="1" UniqueID="r"><Data/>'
        f'<Memory Size="0" MemoryBlockID="MemBlock_r"/><Children>{"".join(elements)}</Children>'
        "</Element></LMSDataContainerHeader>"
    )
    with path.open("wb") as file:
        text = xml.encode("utf-16-le")
        file.write(struct.pack("<IIBI", 0x70, len(text) + 5, 0x2A, len(xml)) + text)
        for name, data in blocks:
            encoded = name.encode("utf-16-le")
            header = struct.pack("<BQBI", 0x2A, len(data), 0x2A, len(name)) + encoded
            file.write(struct.pack("<II", 0x70, len(header)) + header + data)


def write_nd2(path: Path, image: np.ndarray, step: float = 0.0) -> None:
    """Nikon's ND2 3.0: one uncompressed image (Y, X) or (Y, X, C), uint8 or uint16; step: µm, 0 if not calibrated."""
    height, width = image.shape[:2]
    channels = image.shape[2] if image.ndim == 3 else 1
    attributes = {
        "uiWidth": width,
        "uiWidthBytes": width * channels * image.itemsize,
        "uiHeight": height,
        "uiComp": channels,
        "uiBpcInMemory": 8 * image.itemsize,
        "uiBpcSignificant": 8 * image.itemsize,
        "uiSequenceCount": 1,
        "uiTileWidth": width,
        "uiTileHeight": height,
        "eCompression": 2,
        "dCompressionParam": 0.0,
        "ePixelType": 1,
        "uiVirtualComponents": channels,
    }
    planes = {
        f"a{k}": {"uiCompCount": 1, "uiSampleIndex": k, "pFluorescentProbe": {"uiColor": 255}} for k in range(channels)
    }
    metadata = {
        "bCalibrated": int(step > 0),
        "dCalibration": float(step),
        "dAspect": 1.0,
        "sPicturePlanes": {"uiCount": channels, "uiCompCount": channels, "sPlaneNew": planes},
    }
    chunks = {
        b"ImageMetadataSeqLV|0!": _level("SLxPictureMetadata", metadata),
        b"ImageAttributesLV!": _level("SLxImageAttributes", attributes),
        b"ImageDataSeq|0!": struct.pack("<d", 0.0) + np.ascontiguousarray(image).tobytes(),
    }
    places = {}
    with path.open("wb") as file:
        file.write(struct.pack("<IIQ32s64s", 0x0ABECEDA, 32, 64, b"ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver3.0"))
        file.write(bytes(4096 - file.tell()))
        for name, data in chunks.items():
            places[name] = (file.tell(), len(data))
            file.write(struct.pack("<IIQ", 0x0ABECEDA, 4072, len(data)) + name.ljust(4072, b"\0") + data)
            file.write(bytes(-file.tell() % 4096))
        start = file.tell()
        entries = b"".join(name + struct.pack("<QQ", *place) for name, place in places.items())
        entries += b"ND2 CHUNK MAP SIGNATURE 0000001!" + struct.pack("<Q", start)
        named = b"ND2 FILEMAP SIGNATURE NAME 0001!"
        file.write(struct.pack("<IIQ", 0x0ABECEDA, len(named), len(entries)) + named + entries)


def _level(name: str, items: dict[str, Any]) -> bytes:
    """One level of Nikon's "lite variants"."""
    content = b"".join(_variant(key, value) for key, value in items.items())
    head = struct.pack("<BB", 11, len(name) + 1) + (name + "\0").encode("utf-16-le")
    return head + struct.pack("<IQ", len(items), len(head) + 12 + len(content)) + content + bytes(8 * len(items))


def _variant(name: str, value: Any) -> bytes:
    if isinstance(value, dict):
        return _level(name, value)
    kind, packed = (6, struct.pack("<d", value)) if isinstance(value, float) else (3, struct.pack("<I", value))
    return struct.pack("<BB", kind, len(name) + 1) + (name + "\0").encode("utf-16-le") + packed
