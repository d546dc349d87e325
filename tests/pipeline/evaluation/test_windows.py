"""Every byte is scored once, with the context that the stride promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q.errors import UserError
from pipeline.evaluation.file_stream import RawFile
from pipeline.evaluation.windows import plan


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RawFile:
    path = tmp_path_factory.mktemp("data") / "bytes"
    path.write_bytes(np.arange(5000).astype(np.uint16).tobytes())
    return RawFile(path)


@given(
    size=st.integers(2, 1500),
    window=st.integers(1, 9),
    overlap=st.integers(0, 8),
    lanes=st.integers(1, 7),
)
def test_every_byte_but_the_first_is_a_target_once_with_enough_context(
    data: RawFile, size: int, window: int, overlap: int, lanes: int
) -> None:
    stride = max(1, window - overlap)
    begins = {lane * size // lanes for lane in range(lanes)}
    hits, context = np.zeros(size, int), np.zeros(size, int)
    for windows in plan(size, window=window, stride=stride, lanes=lanes):
        assert windows.length <= window
        for row, found in enumerate(windows.read(data)):
            start = windows.start + row * stride
            assert np.array_equal(found, data.read(start, start + windows.length + 1))
            for position in range(windows.skip, windows.length):
                hits[start + position + 1] += 1
                context[start + position + 1] = position + 1
    assert hits[0] == 0 and (hits[1:] == 1).all()
    for target in range(1, size):
        since_lane_began = target - max(begin for begin in begins if begin < target)
        assert context[target] >= min(window - stride + 1, since_lane_began)


@pytest.mark.parametrize("stride", [0, 17])
def test_a_stride_that_leaves_bytes_out_is_refused(stride: int) -> None:
    with pytest.raises(UserError, match=f"stride must be from 1 to the window's 16 bytes, got {stride}"):
        plan(100, window=16, stride=stride)


@pytest.mark.parametrize("size", [0, 1])
def test_too_little_data_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"at least 2 bytes to be scored, found {size}"):
        plan(size, window=16, stride=16)
