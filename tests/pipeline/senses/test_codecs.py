"""Codecs of a kind are set beside the model where they take every document."""

import numpy as np
import pytest

from pipeline.senses import synthesis
from pipeline.senses.codecs import codec_sizes
from pipeline.senses.pictures import picture_document
from pipeline.senses.sounds import Sound, sound_document

pytest.importorskip("soundfile")


def test_smooth_pictures_are_small_and_noise_is_not() -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)[..., None]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for pixels, share in ((smooth, (0, 0.3)), (noise, (0.9, 1.2))):
        sizes = codec_sizes("image", [picture_document(pixels)] * 2)
        assert list(sizes) == ["PNG", "WebP"]
        assert all(share[0] * 2 * pixels.size <= size <= share[1] * 2 * pixels.size for size in sizes.values())


def test_flac_takes_both_codings_and_leaves_nine_channels() -> None:
    samples = synthesis.chirp(1)[:, None]
    both = [codec_sizes("audio", [sound_document(Sound(8000, samples), coding)]) for coding in ("ulaw", "pcm16")]
    assert 0 < both[0]["FLAC"] < samples.size and 0 < both[1]["FLAC"] < 2 * samples.size
    assert codec_sizes("audio", [sound_document(Sound(8000, np.tile(samples, 9)), "pcm16")]) == {}


def test_webp_leaves_a_picture_that_is_too_wide() -> None:
    assert list(codec_sizes("image", [picture_document(np.zeros((1, 20_000, 1), np.uint8))])) == ["PNG"]
