"""PNG, JPEG and BMP through Pillow, each opened by its own decoder and never by guesswork."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image as Pillow
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from .errors import ReadError
from .raw import Raw, check_decoded_size

# Pillow's open() warns or fails above a number of pixels set for the whole process; these classes do not.
DECODERS: dict[str, type[ImageFile]] = {"PNG": PngImageFile, "JPEG": JpegImageFile, "BMP": BmpImageFile}


_STRETCHED = {2: 85, 4: 17}  # what Pillow multiplies the numbers of gray pixels of so many bits by


def read_picture(path: Path, kind: str, *, indices: bool) -> Raw:
    """Read a PNG, JPEG or BMP file: gray (Y, X), colour (Y, X, 3); 16-bit PNG stays 16-bit, alpha is dropped.

    Parameters
    ----------
    path : the file.
    kind : "PNG", "JPEG" or "BMP", as the file's first bytes say.
    indices : keep the numbers that a palette or bilevel picture stores (labels) instead of the colours that
        they stand for.

    Returns
    -------
    Raw with axes YX or YXS; the orientation noted by a camera is not applied.

    Raises
    ------
    ReadError, or whatever Pillow raises for a damaged file.
    """
    with path.open("rb") as file:
        picture = DECODERS[kind](file)
        check_decoded_size(path, picture.size, _pixel_bytes(picture.mode))
        if kind == "JPEG":
            file.seek(0)
            _check_jpeg(path, file.read(), "CMYK" if picture.mode == "CMYK" else "GRAY")
            file.seek(0)
            picture = JpegImageFile(file)
        if kind == "PNG":
            picture.verify()  # reads every chunk to the end and compares checksums, which decoding does not
            file.seek(0)
            depth, colour = _png_depth_and_colour(file.read(26))
            file.seek(0)
            if depth == 16 and colour in (2, 4, 6):  # Pillow would make 8 bits of it
                return _drop_alpha(imagecodecs.png_decode(file.read()), colour)
            picture = PngImageFile(file)
            if indices and colour == 0 and depth in _STRETCHED:
                raw = _to_array(path, picture, indices=True)
                return Raw(raw.array // _STRETCHED[depth], raw.axes)
        return _to_array(path, picture, indices=indices)


def _check_jpeg(path: Path, content: bytes, colours: str) -> None:
    """Decode strictly: Pillow fills up what is missing and passes over what is too much, and says nothing."""
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(content, colours, strict=True)
    except ValueError as error:
        raise ReadError(
            f"{path}: found a damaged JPEG file ({error}); "
            "expected a whole one: copy it again, or save it as TIFF in a program that shows all of it"
        ) from error


def _pixel_bytes(mode: str) -> int:
    return {"1": 1, "L": 1, "I": 4, "F": 4}.get(mode, 2 if mode.startswith("I;16") else 4)


def _png_depth_and_colour(header: bytes) -> tuple[int, int]:
    return header[24], header[25]


def _drop_alpha(array: np.ndarray, colour: int) -> Raw:
    return Raw(array[..., 0], "YX") if colour == 4 else Raw(array[..., :3], "YXS")


def _to_array(path: Path, picture: Pillow.Image, *, indices: bool) -> Raw:
    mode = picture.mode
    if mode in ("1", "P", "PA") and indices:
        array = np.asarray(picture)
        return Raw((array[..., 0] if mode == "PA" else array).astype(np.uint8), "YX")
    if mode in ("1", "LA"):
        picture = picture.convert("L")
    elif mode in ("P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr"):
        picture = picture.convert("RGB")
    if picture.mode not in ("L", "RGB", "I", "F") and not picture.mode.startswith("I;16"):
        raise ReadError(f"{path}: found a picture of mode {mode}; expected gray or RGB: save it as RGB or as TIFF")
    array = np.asarray(picture)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return Raw(array, "YX" if array.ndim == 2 else "YXS")
