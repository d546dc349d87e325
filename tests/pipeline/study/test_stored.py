"""What dense matrices take in six bits and zstd: about what entropy says, and never more than int8 in the table."""

import torch

from h2q.config import ModelConfig
from h2q.stored import int8_bytes, stored_bytes
from pipeline.study.stored import six_bits, stored


def test_six_bits_are_fewer_than_eight_and_near_the_entropy_of_the_levels() -> None:
    matrix = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    scale = matrix.abs().amax(-1, keepdim=True) / 31
    share = (matrix / scale).round().to(torch.int8).unique(return_counts=True)[1] / matrix.numel()
    entropy = float(-(share * share.log2()).sum()) / 8 * matrix.numel()
    assert entropy < six_bits([matrix]) - 2 * len(matrix) < 1.1 * entropy
    assert six_bits([matrix]) < 0.8 * int8_bytes(matrix)


def test_equal_numbers_cost_next_to_nothing_and_none_nothing_but_their_scales() -> None:
    assert six_bits([torch.ones(64, 1024)]) < 1024
    assert six_bits([torch.zeros(64, 1024)]) < 1024


def test_what_was_not_trained_is_counted_as_int8() -> None:
    config = ModelConfig(kind="dense", dim=64, depth=1, heads=2)
    assert stored(None, config) == stored_bytes(config)
