"""Where a text may be cut."""

import numpy as np

from pipeline.prepare.inputs import BLOCK

_NONE = np.empty(0, np.int64)


def reach(total: int, holdout: float) -> int:
    """Bytes in which a cut looks for a line end: not so many that a split would lose half of its share."""
    return min(BLOCK, max(int(total * holdout / 2), 4))


def line_start(ahead: np.ndarray, starts: np.ndarray = _NONE) -> int:
    """The first offset in these bytes at which a line, or one of the rows that start here, begins; where none does, a
    character."""
    line_end = ahead.tobytes().find(b"\n")
    places = [line_end + 1] if line_end >= 0 else []
    places += [int(starts[0])] if len(starts) and starts[0] <= len(ahead) else []
    characters = np.flatnonzero(ahead[:4] & 0xC0 != 0x80)
    return min(places) if places else int(characters[0]) if len(characters) else len(ahead[:4])
