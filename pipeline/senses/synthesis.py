"""Sounds without a file: plucked strings, chirps, and speech where espeak-ng is installed. 8,000 samples a second.

A sound is a function of its seed. N: samples.
"""

import io
import shutil
import subprocess
from itertools import pairwise

import numpy as np

from h2q.errors import UserError
from pipeline.senses.media import library
from pipeline.senses.sounds import read_sound

RATE = 8000
"""Samples a second, as telephones have it."""

_PENTATONIC = (0, 2, 4, 7, 9)
"""Semitones above the first note."""
_LOWEST = 110.0
"""Hertz."""
_VOICES = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-rp")


def plucked_strings(seed: int, seconds: float = 2.0) -> np.ndarray:
    """A phrase of notes of a pentatonic scale, (N,) int16.

    Each note is a string plucked as Karplus and Strong have it ("Digital synthesis of plucked-string and drum timbres",
    1983): a period of noise that goes round, every sample the mean of the two a period before.
    """
    random = np.random.Generator(np.random.Philox(seed))
    samples = np.zeros(round(seconds * RATE))
    notes = int(random.integers(4, 9))
    for number in range(notes):
        begin = number * len(samples) // notes
        semitones = 12 * int(random.integers(0, 3)) + _PENTATONIC[int(random.integers(0, len(_PENTATONIC)))]
        period = round(RATE / (_LOWEST * 2 ** (semitones / 12)))
        # The strings ring on under the next.
        burst = random.uniform(-1, 1, period)
        samples[begin:] += _string(burst - burst.mean(), len(samples) - begin)
    return _loud(samples, random.uniform(0.3, 0.8))


def _string(burst: np.ndarray, size: int) -> np.ndarray:
    """(size,) float64: the burst, smoothed once a period."""
    period = len(burst)
    ringing = np.empty((size // period + 1, period))
    ringing[0] = burst
    for before, after in pairwise(ringing):
        after[:] = (before + np.roll(before, 1)) / 2
    return ringing.ravel()[:size]


def chirp(seed: int, seconds: float = 1.0) -> np.ndarray:
    """A tone whose pitch glides, and which swells and fades, (N,) int16."""
    random = np.random.Generator(np.random.Philox(seed))
    time = np.arange(round(seconds * RATE)) / RATE
    first, last = np.exp(random.uniform(np.log(100), np.log(2000), 2))
    # The pitch rises by an equal interval in equal time: the phase is the integral of first·(last/first)^(t/seconds).
    rate = np.log(last / first) / seconds
    phase = 2 * np.pi * first * np.expm1(rate * time) / rate
    tone = np.sin(phase) + random.uniform(0, 0.5) * np.sin(2 * phase)
    return _loud(tone * np.sin(np.pi * time / seconds), random.uniform(0.3, 0.8))


def _loud(samples: np.ndarray, level: float) -> np.ndarray:
    """Scaled so that the loudest sample has this share of the range, int16."""
    return np.rint(samples * (level * 32767 / np.abs(samples).max())).astype(np.int16)


def speaks() -> bool:
    """Whether espeak-ng is installed."""
    return shutil.which("espeak-ng") is not None


def speech_version() -> str:
    """Of espeak-ng, as it says it, without the place of its data."""
    told = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, errors="replace").stdout
    return told.partition("Data at")[0].strip()


def speech(sentence: str, seed: int) -> np.ndarray:
    """The sentence in one of four voices, pitch and pace by the seed, (N,) int16. Raises: UserError where espeak-ng
    fails."""
    random = np.random.Generator(np.random.Philox(seed))
    voice = _VOICES[int(random.integers(0, len(_VOICES)))]
    pitch, pace = int(random.integers(25, 75)), int(random.integers(150, 200))
    command = ["espeak-ng", "--stdout", "-v", voice, "-p", str(pitch), "-s", str(pace), sentence]
    done = subprocess.run(command, capture_output=True)
    if done.returncode or not done.stdout:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[:1]
        raise UserError(f"espeak-ng says nothing ({''.join(reason)}): mend or remove it, sounds do without speech")
    # It writes to a pipe, so its header cannot know how much there is.
    size = len(done.stdout) - 44
    sound = read_sound(
        io.BytesIO(done.stdout[:40] + size.to_bytes(4, "little") + done.stdout[44:]), "espeak-ng's speech"
    )
    resampled = library("scipy.signal").resample_poly(sound.samples[:, 0].astype(np.float64), RATE, sound.rate)
    return np.rint(np.clip(resampled, -32768, 32767)).astype(np.int16)
