"""A picture comes back pixel for pixel, and what cannot is refused in one line that names the file."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import ExifTags, Image

from h2q.errors import UserError
from pipeline.senses.pictures import picture_document, picture_of, picture_shape, read_picture, write_picture

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))


@given(arrays(np.uint8, SHAPES), st.sampled_from(["PNG", "TIFF", "BMP"]))
def test_pixels_come_back_from_a_file_and_from_a_document(pixels: np.ndarray, format: str) -> None:
    file = io.BytesIO()
    write_picture(pixels, file, format)
    read = read_picture(io.BytesIO(file.getvalue()), "x")
    assert np.array_equal(read, pixels)
    document = picture_document(read)
    assert picture_shape(document) == pixels.shape
    assert np.array_equal(picture_of(document), pixels)


def test_palettes_black_and_white_and_an_alpha_that_hides_nothing() -> None:
    colours = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    palette = colours.quantize(16)
    assert np.array_equal(read(palette), np.asarray(palette.convert("RGB")))
    black_and_white = Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert("1")
    assert read(black_and_white).ravel().tolist() == [0, 255, 0]
    opaque = colours.copy()
    opaque.putalpha(255)
    assert np.array_equal(read(opaque), np.asarray(colours))


def test_a_picture_that_was_turned_stands_upright() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    assert np.array_equal(read_picture(io.BytesIO(file.getvalue()), "x")[..., 0], np.rot90(pixels, -1))


def bomb(side: int = 10_000) -> bytes:
    """A PNG that states side² pixels and holds none."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def png(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def read(image: Image.Image) -> np.ndarray:
    return read_picture(io.BytesIO(png(image)), "x")


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8))


def see_through() -> Image.Image:
    image = noise()
    image.putalpha(7)
    return image


def deep_rgb() -> bytes:
    """A PNG of 16 bits a channel in RGB, which Pillow would round without a word."""
    data = bomb(1).replace(struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0), struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    crc = zlib.crc32(data[12:29])
    return data[:29] + struct.pack(">I", crc) + data[33:]


def deep_sgi() -> bytes:
    """A picture of Silicon Graphics', 3 × 16 bits a pixel."""
    return struct.pack(">HBBHHHH", 474, 0, 2, 3, 1, 1, 3).ljust(512, b"\0") + bytes(6)


def deep_jpeg2000() -> bytes:
    """A picture whose header says 16 bits a channel."""
    data = bytearray(png(noise(), "JPEG2000"))
    data[data.index(b"\xff\x4f\xff\x51") + 42] = 15
    return bytes(data)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated": (lambda: png(noise())[:-2000], "damaged picture"),
    "a truncated JPEG": (lambda: png(noise(), "JPEG")[:-500], "damaged picture"),
    "100 megapixels": (bomb, r"at most 16,777,216 pixels.*100,000,000 \(10,000 × 10,000\)"),
    "400 megapixels": (lambda: bomb(20_000), "at most 16,777,216 pixels.*has more"),
    "CMYK": (lambda: png(Image.new("CMYK", (4, 4)), "TIFF"), "grey or RGB.*CMYK"),
    "16 bits": (lambda: png(Image.fromarray(np.zeros((4, 4), np.uint16))), "8 bits"),
    "16 bits in RGB": (deep_rgb, "8 bits"),
    "16 bits in JPEG 2000": (deep_jpeg2000, "8 bits"),
    "16 bits in SGI": (deep_sgi, "8 bits"),
    "16 bits in PPM": (lambda: b"P6 1 1 65535\n" + bytes(6), "8 bits"),
    "see-through": (lambda: png(see_through()), "alpha channel of 7"),
    "text": (lambda: b"Once upon a time\n" * 50, "no picture that Pillow reads"),
    "empty": (lambda: b"", "found 0 bytes"),
    "frames": (
        lambda: png(noise(), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 40))]),
        "has 2: save each",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_kept_is_refused_in_one_line_that_names_the_file(case: str) -> None:
    make, message = BAD[case]
    data = make()
    with warnings.catch_warnings(), pytest.raises(UserError, match=message) as error:
        warnings.simplefilter("error")
        read_picture(io.BytesIO(data), "a/file.png")
    assert "a/file.png" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("format", ["JPEG2000", "SGI"])
def test_8_bits_are_not_taken_for_more(format: str) -> None:
    assert read_picture(io.BytesIO(png(noise(), format)), "x").shape == (40, 40, 3)
