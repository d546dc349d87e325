"""Embedded pictures and sounds are the same every time, spread evenly, and say what is missing."""

from pathlib import PurePosixPath

import numpy as np
import pytest

from pipeline.senses import synthesis
from pipeline.senses.embedded import LICENCES, SIDE, Document, embedded, made_with, sentence, smaller
from pipeline.senses.pictures import picture_shape
from pipeline.senses.sounds import sound_shape

pytest.importorskip("soundfile")
pytest.importorskip("skimage")


def where(documents: tuple[Document, ...], folder: str) -> list[float]:
    """The places of the documents of a folder in the order, 0 to 1."""
    return [i / len(documents) for i, each in enumerate(documents) if PurePosixPath(each.name).parts[0] == folder]


def test_pictures_are_digits_and_photographs_spread_evenly() -> None:
    documents, notes = embedded("image")
    assert notes == ()
    shapes = [picture_shape(each.document) for each in documents]
    assert shapes.count((8, 8, 1)) == 1797 and len(shapes) == 1797 + 25
    assert max(max(shape or ()) for shape in shapes) == SIDE
    assert all(each.licence for each in documents) and len({each.name for each in documents}) == len(documents)
    assert sorted({each.licence for each in documents}) == LICENCES["image"]
    photographs = where(documents, "scikit-image")
    assert photographs[0] < 0.05 and photographs[-1] > 0.8 and max(np.diff(photographs)) < 0.1
    embedded.cache_clear()
    assert embedded("image")[0] == documents


def test_sounds_do_without_speech_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "speaks", lambda: False)
    embedded.cache_clear()
    documents, notes = embedded("audio")
    embedded.cache_clear()
    assert [note for note in notes if "espeak-ng is not installed" in note]
    assert sorted({each.licence for each in documents}) == LICENCES["audio"]
    assert {sound_shape(each.document) for each in documents} == {(8000, 1, 1)}
    assert len({each.document for each in documents}) == len(documents) == 64
    assert where(documents, "strings")[0] < 0.05 and where(documents, "chirps")[-1] > 0.95


def test_what_they_are_made_with_tells_of_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "speaks", lambda: True)
    monkeypatch.setattr(synthesis, "speech_version", lambda: "1.51")
    with_speech = made_with("audio")
    monkeypatch.setattr(synthesis, "speaks", lambda: False)
    assert with_speech == made_with("audio") | {"espeak-ng": "1.51"} != made_with("audio")


@pytest.mark.skipif(not synthesis.speaks(), reason="espeak-ng is not installed")
def test_the_version_of_speech_names_no_place() -> None:
    assert "espeak" in synthesis.speech_version().lower() and "/" not in synthesis.speech_version()


@pytest.mark.skipif(not synthesis.speaks(), reason="espeak-ng is not installed")
def test_speech_is_the_same_for_the_same_seed() -> None:
    spoken = synthesis.speech(sentence(0), 0)
    assert spoken.dtype == np.int16 and len(spoken) > synthesis.RATE // 2 and np.abs(spoken).max() > 1000
    assert np.array_equal(spoken, synthesis.speech(sentence(0), 0))
    assert not np.array_equal(spoken, synthesis.speech(sentence(0), 1))


def test_smaller_keeps_proportions_and_what_is_small() -> None:
    pixels = np.full((300, 100, 3), 7, np.uint8)
    assert smaller(pixels, 30).shape == (30, 10, 3) and (smaller(pixels, 30) == 7).all()
    assert smaller(pixels, 300) is pixels
    assert smaller(np.zeros((1000, 1, 1), np.uint8), 10).shape == (10, 1, 1)
