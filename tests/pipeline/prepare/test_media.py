"""Promises of pictures and sounds: pixels and samples come back, files stay whole, what cannot be kept is one line."""

import io
import struct
import subprocess
import sys
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from PIL import Image

from h2q.alphabet import MARKERS
from h2q.errors import UserError
from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import Corpus
from pipeline.corpus.mixed import AnySplit
from pipeline.prepare import sources
from pipeline.prepare.inputs import InputPart, Reading
from pipeline.prepare.prepare import prepare
from pipeline.prepare.readers import blocks
from pipeline.prepare.sources import check_places
from pipeline.senses import embedded
from pipeline.senses.pictures import picture_of
from pipeline.senses.sounds import from_ulaw, sound_of, to_ulaw

Kind = Literal["image", "audio"]


def pixels(number: int) -> np.ndarray:
    """Grey or RGB, of many sizes."""
    generator = np.random.default_rng(number)
    shape = (*generator.integers(1, 24, 2), *((3,) if number % 2 else ()))
    return generator.integers(0, 256, shape, dtype=np.uint8)


def samples(number: int) -> np.ndarray:
    generator = np.random.default_rng(number)
    return generator.integers(-(1 << 15), 1 << 15, (int(generator.integers(1, 400)), 1 + number % 2), dtype=np.int16)


def save(kind: Kind, number: int, to: Any) -> None:
    if kind == "image":
        Image.fromarray(pixels(number)).save(to, ("PNG", "BMP", "TIFF")[number % 3])
    else:
        soundfile.write(to, samples(number), 8000, format=("WAV", "FLAC")[number % 2], subtype="PCM_16")


@pytest.fixture
def files(tmp_path: Path) -> Callable[[Kind], Path]:
    """A folder of 20 files of a kind, in several formats."""

    def make(kind: Kind) -> Path:
        folder = tmp_path / kind
        folder.mkdir()
        for number in range(20):
            save(kind, number, folder / f"{number:02d}")
        return folder

    return make


def documents(split: AnySplit) -> list[bytes]:
    """Header and content of each."""
    data, starts = split.read(0, len(split)), split.document_starts().tolist()
    assert (data[starts] >= 256).all() and (data >= 256).sum() == len(starts)
    return [data[a + 1 : b].astype(np.uint8).tobytes() for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def everything(corpus: Corpus) -> list[bytes]:
    return [document for split in corpus.splits.values() for document in documents(split)]


def test_pictures_come_back_pixel_by_pixel_each_in_one_split(files: Callable[[Kind], Path], tmp_path: Path) -> None:
    corpus = prepare(CorpusConfig(path=str(files("image")), kind="image", prepared=str(tmp_path / "data")), local=True)
    found = {picture_of(document).tobytes(): picture_of(document) for document in everything(corpus)}
    expected = [pixels(number) for number in range(20)]
    assert len(found) == 20 and all(len(split) for split in corpus.splits.values())
    for one in expected:
        assert found[one.tobytes()].shape == (*one.shape[:2], 3 if one.ndim == 3 else 1)
    assert corpus.train.read(0, 1).tolist() == [MARKERS["image"]]
    assert any("by document, seed 0" in note for note in corpus.notes)


@pytest.mark.parametrize("coding", ["ulaw", "pcm16"])
def test_sounds_come_back_sample_by_sample(
    files: Callable[[Kind], Path], tmp_path: Path, coding: Literal["ulaw", "pcm16"]
) -> None:
    folder = files("audio")
    config = CorpusConfig(path=str(folder), kind="audio", samples=coding, prepared=str(tmp_path / "data"))
    corpus = prepare(config, local=True)
    found = {sound.samples.tobytes(): sound.rate for sound in map(sound_of, everything(corpus))}
    kept = (lambda data: from_ulaw(to_ulaw(data))) if coding == "ulaw" else (lambda data: data)
    assert found == {kept(samples(number)).tobytes(): 8000 for number in range(20)}
    other = prepare(replace(config, samples="pcm16" if coding == "ulaw" else "ulaw"), local=True)
    assert other.folder != corpus.folder and other.sha256 != corpus.sha256


def test_ray_and_shards_change_nothing(files: Callable[[Kind], Path], tmp_path: Path, ray_cluster: None) -> None:
    config = CorpusConfig(path=str(files("image")), kind="image", prepared=str(tmp_path / "one"))
    few = replace(config, prepared=str(tmp_path / "two"), shard_bytes=300)
    one, two = prepare(config, local=True), prepare(few)
    assert one.sha256 == two.sha256 and len(two.train.shards) > 3


def test_splits_that_folders_name_are_kept_and_few_files_are_never_cut(tmp_path: Path) -> None:
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        (tmp_path / "named" / split).mkdir(parents=True)
        for number in numbers:
            save("image", number, tmp_path / "named" / split / f"{number}.png")
    config = CorpusConfig(path=str(tmp_path / "named"), kind="image", prepared=str(tmp_path / "data"))
    corpus = prepare(config, local=True)
    assert [len(documents(split)) for split in corpus.splits.values()] == [1, 1, 1]
    assert documents(corpus.test)[0].endswith(pixels(2).tobytes())
    with pytest.raises(
        UserError, match=r"each of train, validation, test must get a file of image, .* found 1 \(.*2\.png\): give more"
    ):
        prepare(replace(config, path=str(tmp_path / "named" / "test" / "2.png")), local=True)


def test_files_of_very_unequal_size_leave_one_for_each_split(tmp_path: Path) -> None:
    """All six small ones together are less than the share of one split."""
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        save("image", number, tmp_path / "pictures" / f"{number}.png")
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "pictures" / "large.png")
    config = CorpusConfig(path=str(tmp_path / "pictures"), kind="image", prepared=str(tmp_path / "data"))
    for seed in range(5):
        corpus = prepare(replace(config, seed=seed), local=True)
        assert [split.documents for split in corpus.splits.values()] == [1, 5, 1]
        assert picture_of(documents(corpus.train)[0]).shape == (200, 200, 1), "the largest share, whatever the seed"


def cut_png(path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(data, "PNG")
    path.write_bytes(data.getvalue()[:3000])


def lying_wav(path: Path) -> None:
    save("audio", 0, path)
    data = bytearray(path.read_bytes())
    at = data.index(b"data")
    data[at + 4 : at + 8] = struct.pack("<I", 1 << 20)
    path.write_bytes(data)


def wav_of(path: Path, width: int, frames: bytes) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(frames)


BAD: dict[str, tuple[Kind, Callable[[Path], Any], str]] = {
    "a truncated PNG": ("image", cut_png, "is a damaged picture"),
    "100 megapixels": ("image", lambda path: Image.new("1", (10_000, 10_000)).save(path, "PNG"), "must have at most"),
    "CMYK": ("image", lambda path: Image.new("CMYK", (9, 9)).save(path, "JPEG"), "is CMYK: convert it to RGB"),
    "text": ("image", lambda path: path.write_text("no picture"), "is no picture that Pillow reads"),
    "nothing": ("image", lambda path: path.write_bytes(b""), "found 0 bytes"),
    "a sound as a picture": ("image", lambda path: save("audio", 0, path), "is no picture that Pillow reads"),
    "a lying WAV": ("audio", lying_wav, "states"),
    "24 bits": ("audio", lambda path: wav_of(path, 3, bytes(range(30))), "16 do not hold: convert it to 16 bits"),
    "0 samples": ("audio", lambda path: wav_of(path, 2, b""), "must have at least 1 sample"),
    "text as a sound": ("audio", lambda path: path.write_text("no sound"), "is no sound that soundfile reads"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_kept_is_one_line_that_names_the_file(
    files: Callable[[Kind], Path], tmp_path: Path, name: str
) -> None:
    kind, make, said = BAD[name]
    folder = files(kind)
    make(folder / "bad one")
    config = CorpusConfig(path=str(folder), kind=kind, prepared=str(tmp_path / "data"))
    with pytest.raises(UserError) as told:
        prepare(config, local=True)
    assert said in str(told.value) and "bad one" in str(told.value) and "\n" not in str(told.value)
    (folder / "bad one").unlink()
    assert len(everything(prepare(config, local=True))) == 20


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_a_data_set_of_files_is_read_row_by_row(tmp_path: Path, kind: Kind) -> None:
    """As `datasets` keeps pictures and sounds in its cache."""
    contents = []
    for number in range(5):
        save(kind, number, content := io.BytesIO())
        contents.append({"bytes": content.getvalue(), "path": None})
    schema = pa.schema([(kind, pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])
    table = pa.table({kind: contents, "label": range(5)}, schema=schema)
    with pa.OSFile(str(tmp_path / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        writer.write_table(table, max_chunksize=2)
    part = InputPart(tmp_path / "data.arrow", "data", "image-arrow" if kind == "image" else "audio-arrow", 1, 3, 0)
    found = [data.tobytes() for data, starts in blocks(part, Reading(kind, samples="pcm16"))]
    if kind == "image":
        assert [picture_of(one).tobytes() for one in found] == [pixels(number).tobytes() for number in (2, 3, 4)]
    else:
        assert [sound_of(one).samples.tobytes() for one in found] == [samples(i).tobytes() for i in (2, 3, 4)]
    with pytest.raises(UserError, match=r"column 'label' must hold files, found int64: give --corpus.column NAME"):
        list(blocks(part, Reading("label")))


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_what_is_embedded_needs_no_file_and_is_made_once(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sounds in ("STRINGS", "CHIRPS", "SENTENCES"):
        monkeypatch.setattr(embedded, sounds, 8)
    monkeypatch.setattr(embedded, "_SCIKIT_IMAGE", {"moon.png": "BSD-3-Clause (scikit-image)"})
    embedded.embedded.cache_clear()
    corpus = prepare(CorpusConfig(kind=kind, prepared=str(tmp_path)), local=True)
    embedded.embedded.cache_clear()
    monkeypatch.setattr(sources, "embedded", None)
    again = prepare(CorpusConfig(mix=f"{kind}=embedded@2", prepared=str(tmp_path)), local=True)
    assert again.parts[0].corpus.folder == corpus.folder and corpus.manifest["licence"]
    assert all(documents(split) for split in corpus.splits.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "image", "source": "manual"}, "corpus.source manual is text, got corpus.kind image"),
        ({"kind": "audio", "source": "wikitext"}, "corpus.source wikitext is text, got corpus.kind audio"),
        ({"kind": "bytes", "source": "embedded"}, "corpus.source embedded has nothing of kind bytes"),
    ],
)
def test_sources_and_kinds_that_do_not_go_together_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        CorpusConfig(**options)


@pytest.mark.ray  # a program of its own
def test_where_the_extra_is_not_installed_one_line_says_how(tmp_path: Path) -> None:
    check_places(CorpusConfig(mix="audio=embedded@1,image=embedded@1", prepared=str(tmp_path)))
    without = (
        "import sys; sys.modules['soundfile'] = None\n"
        "from pipeline.config import CorpusConfig; from pipeline.prepare.sources import check_places\n"
        f"check_places(CorpusConfig(kind='audio', prepared={str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True)
    assert (
        done.returncode and "pictures and sounds need the package soundfile: pip install -e '.[senses]'" in done.stderr
    )
