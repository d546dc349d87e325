"""What a model makes of held-out pictures and sounds, for people: completions beside the originals.

A document is header and content, without its marker (see `h2q.alphabet`).
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from h2q.alphabet import HEADER, MARKERS
from h2q.config import SamplingConfig
from h2q.model import ByteModel
from pipeline.figures import png_of
from pipeline.senses.completion import completed
from pipeline.senses.pictures import picture_of
from pipeline.senses.sounds import Sound, sound_of, sound_shape, write_sound
from pipeline.senses.written import written_picture, written_sound

_MARK = "tab:red"
"""Where the model begins."""


@dataclass(frozen=True)
class Writer:
    """A model that writes at most `length` bytes behind a beginning, until `stopped` says so."""

    model: ByteModel
    sampling: SamplingConfig
    length: int
    stopped: Callable[[], bool]

    def __call__(self, begun: list[int]) -> list[int]:
        """The beginning without its marker, and what the model writes behind it."""
        drawn = completed(self.model, begun, self.sampling, self.length)
        return [*begun[1:], *takewhile(lambda _: not self.stopped(), drawn)]


def completed_picture(document: bytes, write: Writer) -> tuple[np.ndarray, int]:
    """The picture of which the model wrote the lower half, or as many of its last rows as it may write bytes, and how
    many rows it was given."""
    height, width, channels = picture_of(document).shape
    row = width * channels
    given = max(-(-height // 2), height - max(1, write.length // row))
    begun = [MARKERS["image"], *document[: HEADER + given * row]]
    return written_picture(write(begun))[0], given


def contact_sheet(documents: list[bytes], write: Writer) -> bytes:
    """PNG: the pictures above, below them their completions, with a line under the rows that the model was given."""
    figure = _figure(1.1 * len(documents) + 0.8, 2.6)
    axes = figure.subplots(2, len(documents), squeeze=False)
    for document, (above, below) in zip(documents, axes.T, strict=True):
        pixels, given = completed_picture(document, write)
        for axis, shown in ((above, picture_of(document)), (below, pixels)):
            axis.imshow(shown[..., 0] if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        if given < len(pixels):
            below.axhline(given - 0.5, color=_MARK, linewidth=1)
    for axis, name in zip(axes[:, 0], ("original", "completed"), strict=True):
        axis.set_ylabel(name, fontsize=8)
    return png_of(figure)


def completed_sound(document: bytes, write: Writer) -> tuple[Sound, int]:
    """The sound of which the model was given a beginning, twice as long as what it writes or half of it, and how many
    samples that is."""
    shape = sound_shape(document[:HEADER])
    assert shape is not None
    _, channels, width = shape
    frame = channels * width
    given = max(1, min(2 * write.length // frame, (len(document) - HEADER) // frame // 2))
    begun = [MARKERS["audio"], *document[: HEADER + given * frame]]
    return written_sound(write(begun))[0], given


def sound_and_spectrogram(document: bytes, write: Writer) -> tuple[bytes, bytes]:
    """WAV of the completion, and PNG: the spectrogram of the original, and that of the completion below, with a line
    where the model begins."""
    sound, given = completed_sound(document, write)
    file = io.BytesIO()
    write_sound(sound, file)
    figure = _figure(7, 4)
    original = sound_of(document).samples[: len(sound.samples)]
    axes = figure.subplots(2, 1, sharex=True)
    for axis, samples, name in zip(axes, (original, sound.samples), ("original", "completed"), strict=True):
        # A little noise: what is silent has no logarithm.
        noise = np.random.default_rng(0).normal(0, 2, len(samples))
        if (window := min(128, len(samples) // 2)) >= 8:
            axis.specgram(samples[:, 0] + noise, NFFT=window, noverlap=window * 3 // 4, Fs=sound.rate)
        axis.set_ylabel(f"{name}, Hz", fontsize=8)
    axes[1].axvline(given / sound.rate, color=_MARK)
    axes[1].set_xlabel("seconds", fontsize=8)
    return file.getvalue(), png_of(figure)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
