"""Pictures and sounds without a file or a network: what other packages carry, and what is made here.

    pictures   the 1,797 handwritten digits of scikit-learn (8 × 8, 17 shades of grey); photographs and drawings of
               scikit-image, matplotlib and scikit-learn, made smaller until their longer side has `SIDE` pixels
    sounds     phrases of plucked strings, chirps, and sentences spoken by espeak-ng where that is installed

Kinds of documents alternate evenly, so that every part of the stream has each.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from h2q.errors import UserError
from pipeline.senses import synthesis
from pipeline.senses.media import Media, library, version_of
from pipeline.senses.pictures import picture_document, read_picture
from pipeline.senses.sounds import Coding, Sound, sound_document

SIDE = 128
"""Pixels of the longer side of a photograph at most."""
STRINGS, CHIRPS, SENTENCES = 32, 32, 48
"""Phrases of 2 s, tones of 1 s, sentences of about 2 s."""

_SCIKIT_IMAGE = {
    "astronaut.png": "public domain (NASA)",
    "brick.png": "CC0",
    "camera.png": "CC0 (Lav Varshney)",
    "cell.png": "CC0",
    "chelsea.png": "CC0 (Stefan van der Walt)",
    "clock_motion.png": "public domain (Stefan van der Walt)",
    "coffee.png": "CC0 (Rachel Michetti)",
    "coins.png": "no known restrictions (Brooklyn Museum)",
    "color.png": "BSD-3-Clause (scikit-image)",
    "grass.png": "CC0",
    "gravel.png": "CC0",
    "hubble_deep_field.jpg": "public domain (NASA)",
    "ihc.png": "no known restrictions (CMMI)",
    "logo.png": "BSD-3-Clause (scikit-image)",
    "microaneurysms.png": "CC0 (Andreas Maier)",
    "moon.png": "BSD-3-Clause (scikit-image)",
    "motorcycle_left.png": "CC0 (Middlebury 2014)",
    "page.png": "BSD-3-Clause (scikit-image)",
    "phantom.png": "BSD-3-Clause (scikit-image)",
    "retina.jpg": "CC0",
    "rocket.jpg": "public domain (SpaceX)",
    "text.png": "public domain",
}
_SCIKIT_LEARN = ("china.jpg", "flower.jpg")
_DIGITS = "CC BY 4.0 (UCI, E. Alpaydin and C. Kaynak)"
_HOPPER = "public domain (US Navy)"
_FLICKR = "CC BY 2.0 (flickr.com)"
_MADE = "made here, CC0"

LICENCES: dict[Media, list[str]] = {
    "image": sorted({*_SCIKIT_IMAGE.values(), _DIGITS, _HOPPER, _FLICKR}),
    "audio": [_MADE],
}
_PACKAGES: dict[Media, tuple[str, ...]] = {
    "image": ("scikit-learn", "scikit-image", "matplotlib", "pillow"),
    "audio": ("numpy", "scipy"),
}
"""Whose versions decide the bytes."""
_SPOKEN = (
    ("The", "A", "Every", "No", "One", "That"),
    ("small", "quiet", "green", "second", "heavy", "early", "simple", "northern"),
    ("river", "engine", "teacher", "number", "window", "garden", "message", "picture"),
    ("follows", "answers", "opens", "carries", "measures", "remembers", "crosses", "describes"),
    ("the", "another", "my", "our", "this"),
    ("morning", "letter", "machine", "house", "valley", "question", "sentence", "colour"),
)


@dataclass(frozen=True)
class Document:
    """Header and content (see h2q/alphabet.py), without a marker."""

    name: str
    """As a path, whose folder says where it is from."""
    licence: str
    document: bytes


def made_with(kind: Media) -> dict[str, str]:
    """The versions of what decides the bytes of `embedded`, told without making them, which takes seconds. What the
    code of this room makes otherwise than before needs another `pipeline.corpus.corpus.VERSION`.

    Raises: UserError where the extra `senses` is not installed.
    """
    versions = {name: version_of(name) for name in _PACKAGES[kind]}
    if kind == "audio" and synthesis.speaks():
        versions["espeak-ng"] = synthesis.speech_version()
    return versions


@lru_cache(maxsize=3)
def embedded(kind: Media, coding: Coding = "ulaw") -> tuple[tuple[Document, ...], tuple[str, ...]]:
    """The documents in their order, and notes in sentences on what is missing here. The same packages give the same
    bytes. Raises: UserError where the extra `senses` is not installed."""
    notes: list[str] = []
    if kind == "image":
        groups = [list(_digits()), list(_photographs(notes))]
    else:
        groups = [
            _sounds("strings", STRINGS, coding, synthesis.plucked_strings),
            _sounds("chirps", CHIRPS, coding, synthesis.chirp),
        ]
        if synthesis.speaks():
            groups.append(_sounds("speech", SENTENCES, coding, lambda seed: synthesis.speech(sentence(seed), seed)))
        else:
            notes.append("left out: speech, since espeak-ng is not installed (apt-get install espeak-ng)")
    placed = [((i + 0.5) / len(group), number, i) for number, group in enumerate(groups) for i in range(len(group))]
    return tuple(groups[number][i] for _, number, i in sorted(placed)), tuple(notes)


def sentence(seed: int) -> str:
    """Words drawn one from each list."""
    random = np.random.Generator(np.random.Philox(seed))
    return " ".join(words[int(random.integers(0, len(words)))] for words in _SPOKEN)


def _digits() -> Iterator[Document]:
    """Their shades are 0 to 16; 15 times that fills a byte."""
    for number, shades in enumerate(library("sklearn.datasets").load_digits().images):
        pixels = (shades[..., None] * 15).astype(np.uint8)
        yield Document(f"digits/{number:04d}", _DIGITS, picture_document(pixels))


def _photographs(notes: list[str]) -> Iterator[Document]:
    """Those that are there; of the others a note."""
    scikit_image = importlib.util.find_spec("skimage")  # Not imported: it may ask a server for what it lacks.
    if scikit_image is None or scikit_image.origin is None:
        raise UserError("the embedded pictures need the package scikit-image: pip install -e '.[senses]'")
    folder = Path(scikit_image.origin).parent / "data"
    missing = [name for name in _SCIKIT_IMAGE if not (folder / name).is_file()]
    if missing:
        notes.append(f"left out: {', '.join(missing)}, which this scikit-image does not carry")
    for name, licence in _SCIKIT_IMAGE.items():
        if name not in missing:
            yield _photograph("scikit-image", folder / name, licence)
    hopper = library("matplotlib.cbook").get_sample_data("grace_hopper.jpg", asfileobj=False)
    yield _photograph("matplotlib", Path(hopper), _HOPPER)
    for name in _SCIKIT_LEARN:
        folder = Path(library("sklearn.datasets").__file__).parent / "images"
        yield _photograph("scikit-learn", folder / name, _FLICKR)


def _photograph(source: str, path: Path, licence: str) -> Document:
    with path.open("rb") as file:
        pixels = read_picture(file, path.name)
    return Document(f"{source}/{path.name}", licence, picture_document(smaller(pixels, SIDE)))


def smaller(pixels: np.ndarray, side: int) -> np.ndarray:
    """Pixels (H, W, C) averaged over areas, so that neither side has more than `side`."""
    height, width, channels = pixels.shape
    if max(height, width) <= side:
        return pixels
    images = library("PIL.Image")
    size = (max(1, width * side // max(height, width)), max(1, height * side // max(height, width)))
    image = images.fromarray(pixels[..., 0] if channels == 1 else pixels).resize(size, images.Resampling.BOX)
    return np.asarray(image).reshape(size[1], size[0], channels)


def _sounds(folder: str, count: int, coding: Coding, make: Callable[[int], np.ndarray]) -> list[Document]:
    return [
        Document(f"{folder}/{seed:03d}", _MADE, sound_document(Sound(synthesis.RATE, make(seed)[:, None]), coding))
        for seed in range(count)
    ]
