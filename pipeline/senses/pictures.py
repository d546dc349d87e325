"""A picture as a document of bytes, and back: width, height and channels (see h2q/alphabet.py), then its pixels.

H: rows. W: pixels of a row. C: channels, 1 (grey) or 3 (RGB). Pixels are (H, W, C) uint8, as Pillow decodes them: those
of a JPEG are what its decoder makes of it. Nothing of the file but its pixels is kept.
"""

import io
import re
import warnings
from typing import Any, BinaryIO

import numpy as np

from h2q.alphabet import HEADER
from h2q.errors import UserError, first_line, require
from pipeline.senses.media import library, whole

LARGEST_SIDE = (1 << 16) - 1
"""Pixels of a side at most: the header has 2 bytes for it."""
LARGEST_PICTURE = 1 << 24
"""Pixels at most. A file that states more is refused before it is decoded."""

_CHANNELS = {1: "L", 3: "RGB"}
_GREY = {"1", "L", "LA"}
_COLOUR = {"P", "PA", "RGB", "RGBA", "RGBX"}
_DRAWN = {"EPS", "WMF"}
"""Formats that state no pixels: other programs draw them."""
_DEEP_JPEG2000 = re.compile(rb"\xff\x4f\xff\x51.{38}[\x08-\x7f\x88-\xff]", re.DOTALL)
"""The header (ISO 15444-1, A.5.1) of more than 8 bits a channel, of which Pillow says nothing."""


def read_picture(file: BinaryIO, name: str) -> np.ndarray:
    """The pixels (H, W, C) of a file of any format that Pillow reads; `name` is for messages.

    A palette becomes RGB, black and white becomes grey, an alpha channel that hides nothing is left out, and what its
    EXIF data say is turned stands upright.
    Raises: UserError for what is no picture, is damaged, is larger than `LARGEST_PICTURE` or cannot be kept without
    loss.
    """
    data = whole(file, name)
    image_module = library("PIL.Image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of sizes that are refused here, and of harmless oddities.
        try:
            with image_module.open(io.BytesIO(data)) as image:
                _check(image, data, name)
                image.load()
                return _pixels(image, name)
        except image_module.DecompressionBombError:
            raise _too_large(name, "more") from None
        except image_module.UnidentifiedImageError:
            raise UserError(f"{name} is no picture that Pillow reads: leave it out, or convert it to PNG") from None
        except UserError:
            raise
        # A decoder that meets damage raises whatever its parser trips over.
        except Exception as error:
            raise UserError(f"{name} is a damaged picture ({first_line(error)}): replace it or leave it out") from error


def picture_document(pixels: np.ndarray) -> bytes:
    """The header and the pixels (H, W, C), row by row, channels side by side."""
    height, width, channels = pixels.shape
    assert pixels.dtype == np.uint8 and channels in _CHANNELS
    return picture_header(width, height, channels) + pixels.tobytes()


def picture_header(width: int, height: int, channels: int) -> bytes:
    """The 5 bytes before the pixels."""
    return width.to_bytes(2, "big") + height.to_bytes(2, "big") + bytes((channels,))


def picture_shape(header: bytes) -> tuple[int, int, int] | None:
    """(H, W, C) as a header states them; None where it is none, or states what no picture has."""
    if len(header) < HEADER:
        return None
    width, height, channels = int.from_bytes(header[:2], "big"), int.from_bytes(header[2:4], "big"), header[4]
    sound = width and height and channels in _CHANNELS and width * height <= LARGEST_PICTURE
    return (height, width, channels) if sound else None


def picture_of(document: bytes) -> np.ndarray:
    """The pixels (H, W, C) of a whole document, as `picture_document` made it."""
    shape = picture_shape(document[:HEADER])
    assert shape is not None
    return np.frombuffer(document, np.uint8, offset=HEADER).reshape(shape)


def write_picture(pixels: np.ndarray, file: BinaryIO, format: str = "PNG", **options: Any) -> None:
    """Write pixels (H, W, C) as a picture of the format, without loss where the format has none."""
    image = library("PIL.Image").fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(file, format, **options)


def _check(image: Any, data: bytes, name: str) -> None:
    """Raises: UserError for a picture whose pixels cannot be kept, before they are decoded."""
    width, height = image.size
    if width * height > LARGEST_PICTURE or max(width, height) > LARGEST_SIDE:
        raise _too_large(name, f"{width * height:,} ({width:,} × {height:,})")
    frames = getattr(image, "n_frames", 1)
    require(frames == 1, f"a picture must have one frame, {name} has {frames}: save each as a file of its own")
    require(image.format not in _DRAWN, f"{name} is a drawing ({image.format}), not pixels: save it as PNG")
    require(not _deep(image, data), f"a picture must have 8 bits a channel, {name} has more: convert it to 8 bits")
    require(
        image.mode in _GREY | _COLOUR,
        f"a picture must be grey or RGB, {name} is {image.mode}: convert it to RGB",
    )


def _too_large(name: str, pixels: str) -> UserError:
    return UserError(
        f"a picture must have at most {LARGEST_PICTURE:,} pixels, and {LARGEST_SIDE:,} a side, {name} has {pixels}: "
        "make it smaller or cut it"
    )


def _deep(image: Any, data: bytes) -> bool:
    """Whether the file has more than 8 bits a channel, which Pillow would round without a word."""
    if image.mode.startswith(("I", "F")) or (image.format == "JPEG2000" and _DEEP_JPEG2000.search(data)):
        return True
    for tile in getattr(image, "tile", ()):
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(arg, str) and re.search(r";(16|32)", arg) for arg in args):
            return True
        if tile[0] == "SGI16":
            return True
        if tile[0].startswith("ppm") and isinstance(args[-1], int) and args[-1] > 255:
            return True
    return False


def _pixels(image: Any, name: str) -> np.ndarray:
    image = library("PIL.ImageOps").exif_transpose(image)  # A phone that was turned says so beside the pixels.
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):
        seen = image.convert("RGBA")
        least = seen.getextrema()[3][0]
        require(
            least == 255,
            f"a picture must hide nothing, {name} has an alpha channel of {least} and more: lay it on a background",
        )
    mode = "L" if image.mode in _GREY else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)
